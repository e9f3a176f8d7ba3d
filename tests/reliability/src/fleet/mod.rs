//! Owns the fleets: controllers in processes of their own, which can be stopped and killed, and report what they receive.

mod context;
mod controller;
mod group;
mod handle;
mod options;
mod process;
mod protocol;

pub(crate) use group::{FleetGroup, Hit, REPLACEMENT_DELAY};
pub(crate) use handle::{FleetProcess, ReportQueue};
pub(crate) use options::FleetOptions;
pub(crate) use process::run;
pub(crate) use protocol::{Action, Event, IDS_PER_FLEET, Instruction, Report, unix_micros};

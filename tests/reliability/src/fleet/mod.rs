//! Owns the fleets: controllers in processes of their own, which can be stopped and killed, and report what they receive.

mod context;
mod controller;
mod event_stream;
mod group;
mod handle;
mod options;
mod process;
mod protocol;
mod session;
#[allow(unreachable_pub, dead_code, reason = "the broker's own tests share it")]
mod session_bytes;
mod slot;
mod transport;
mod websocket;

pub(crate) use group::{FleetGroup, Hit, REPLACEMENT_DELAY};
pub(crate) use handle::{FleetProcess, ReportQueue};
pub(crate) use options::{FleetOptions, Transports};
pub(crate) use process::run;
#[cfg(test)]
pub(crate) use protocol::first_slot;
pub(crate) use protocol::{Action, Event, IDS_PER_FLEET, Instruction, Report, named_controller, unix_micros};

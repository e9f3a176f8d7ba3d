//! Owns the load: its shape, its counters, and the ways to put it on a server.

mod churn;
mod closed;
mod controller;
mod held;
mod hold;
mod measurement;
mod open;
mod session;
mod shape;
mod stats;

pub(crate) use churn::{ChurnResult, churn, waiters};
pub(crate) use closed::{dispatch, dispatch_between, health, load_forever};
pub(crate) use controller::{CountedReceipts, settling_time};
pub(crate) use held::WaitKind;
pub(crate) use hold::{CrowdResult, HoldResult, Holder, crowd, hold, keep};
pub(crate) use measurement::{Measurement, median};
pub(crate) use open::open;
pub(crate) use session::{SessionShape, sessions};
pub(crate) use shape::LoadShape;
pub(crate) use stats::Measured;

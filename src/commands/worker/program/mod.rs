//! Owns the programs that a worker runs: how one starts, when it is ready, and how it ends.

mod exec;
mod group;
mod lines;
mod liveness;
mod log_rate;
mod output_log;
mod process;
mod readiness;
mod run_log;
mod spec;
mod stdin_readers;
mod tail;

pub(in crate::commands) use exec::{EXEC, exec};
pub(super) use lines::{Line, LineSplitter};
pub(super) use liveness::Liveness;
pub(super) use process::{Output, Piece, Program, Unasked};
pub(super) use run_log::RunLog;
pub(super) use spec::CommandSpec;

//! Owns the programs that a worker runs: how one starts, when it is ready, and how it ends.

mod exec;
mod group;
mod lines;
mod log_rate;
mod process;
mod readiness;
mod spec;
mod stderr;
mod stdin_readers;

pub(in crate::commands) use exec::{EXEC, exec};
pub(super) use lines::{Line, LineSplitter};
pub(super) use process::{Output, Piece, Program, Unasked};
pub(super) use spec::CommandSpec;

//! Owns the paths of runs, to which workers post receipts and replies.

use std::fmt::Display;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// What the paths of runs begin with.
pub const RUNS_PATH: &str = "/v1/runs/";
/// All but the unreserved characters of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The path and the query to which a worker posts this resource of a run.
pub fn run_path(run: &[u8], resource: &str, token: impl Display) -> String {
    format!("{RUNS_PATH}{}/{resource}?token={token}", percent_encode(run, ENCODED))
}

//! Owns the query to a history, and the limit to its time.

use std::time::Duration;

use thiserror::Error;

/// A query is given up after this time: one that no row matches would read all of them.
pub(super) const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// Which dispatches are asked for. A dispatch has to match every field that is given.
#[derive(Debug, Clone, Default)]
pub struct HistoryQuery {
    /// The run.
    pub run: Option<String>,
    /// The deployment.
    pub deployment: Option<String>,
    /// The outcome.
    pub outcome: Option<String>,
    /// The earliest time, in milliseconds since 1970.
    pub since: Option<u64>,
    /// The largest number of rows, of which the latest are returned.
    pub limit: usize,
}

/// A query would have taken too long.
#[derive(Debug, Error)]
#[error("the query was given up after {QUERY_TIMEOUT:?}")]
pub struct QueryTimedOut;

//! Owns the past: the latest dispatches in memory, or all of them for a time in a file, behind the same questions.

pub(super) mod file;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use super::DispatchRecord;
use crate::metrics::Metrics;
pub use file::QueryTimedOut;
use file::SqliteHistory;

/// Dispatches that stand in memory if there is no file.
const KEPT: usize = 10_000;

/// One dispatch of the past.
#[derive(Debug, Clone, Serialize)]
pub struct DispatchRow {
    /// Milliseconds since 1970.
    pub at: u64,
    /// The run's name.
    pub run: String,
    /// Its deployment.
    pub deployment: String,
    /// Its version.
    pub version: String,
    /// vCPUs.
    pub cpu: f64,
    /// GB of memory.
    pub memory: f64,
    /// `hit`, `miss` or `aborted`.
    pub outcome: Cow<'static, str>,
    /// Why it was a miss.
    pub reason: Option<Cow<'static, str>>,
    /// What is known of its delivery.
    pub proof: Option<Cow<'static, str>>,
    /// Waiters that it was offered to.
    pub offers: u32,
    /// Who got it.
    pub controller: Option<String>,
    /// From the POST's last byte to the answer.
    pub seconds: f64,
}

/// Which dispatches are asked for; all that is given must fit.
#[derive(Debug, Clone, Default)]
pub struct HistoryQuery {
    /// This run.
    pub run: Option<String>,
    /// This deployment.
    pub deployment: Option<String>,
    /// This outcome.
    pub outcome: Option<String>,
    /// Not before, in milliseconds since 1970.
    pub since: Option<u64>,
    /// At most so many, the latest first.
    pub limit: usize,
}

impl HistoryQuery {
    fn matches(&self, row: &DispatchRow) -> bool {
        self.run.as_ref().is_none_or(|run| *run == row.run)
            && self.deployment.as_ref().is_none_or(|deployment| *deployment == row.deployment)
            && self.outcome.as_ref().is_none_or(|outcome| *outcome == row.outcome)
    }
}

/// Where the past is kept.
pub(super) enum History {
    Memory(Mutex<VecDeque<Arc<DispatchRecord>>>),
    File(SqliteHistory),
}

impl History {
    pub(super) fn in_memory() -> Self {
        Self::Memory(Mutex::new(VecDeque::new()))
    }

    pub(super) fn in_file(
        path: &Path,
        age: Duration,
        size: u64,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        SqliteHistory::open(path, age, size, metrics).map(Self::File)
    }

    /// Keeps a dispatch; false if there was no room on the way to the file.
    pub(super) fn append(&self, dispatch: Arc<DispatchRecord>) -> bool {
        match self {
            Self::Memory(rows) => {
                let mut rows = rows.lock();
                if rows.len() == KEPT {
                    rows.pop_front();
                }
                rows.push_back(dispatch);
                true
            }
            Self::File(file) => file.append(dispatch),
        }
    }

    pub(super) fn find(&self, query: &HistoryQuery) -> anyhow::Result<Vec<DispatchRow>> {
        match self {
            Self::Memory(rows) => {
                let rows = rows.lock();
                let recent =
                    rows.iter().rev().take_while(|row| query.since.is_none_or(|since| row.at >= since));
                let named = recent.filter(|row| query.run.as_ref().is_none_or(|run| run == row.names.get(0)));
                Ok(named.map(|row| row.row()).filter(|row| query.matches(row)).take(query.limit).collect())
            }
            Self::File(file) => file.find(query),
        }
    }

    /// Whether the file is not written any more although nobody closed it.
    pub(super) fn has_stopped(&self) -> bool {
        matches!(self, Self::File(file) if file.has_stopped())
    }

    /// Writes what is still on its way.
    pub(super) fn close(&self) {
        if let Self::File(file) = self {
            file.close();
        }
    }
}

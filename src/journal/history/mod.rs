//! Owns the history of dispatches with their replies: the latest ones in memory, or those of a longer time in a SQLite file.

mod entry;
mod memory;
mod query;
pub(super) mod sqlite;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::codec::Undecoded;
use super::record::{DispatchRecord, ReplyRecord};
use super::row::DispatchRow;
use crate::metrics::Metrics;
use entry::HistoryEntry;
use memory::MemoryHistory;
use sqlite::SqliteHistory;

pub use query::{HistoryQuery, QueryTimedOut};

/// Where dispatches are kept.
pub(super) enum History {
    Memory(MemoryHistory),
    Sqlite(SqliteHistory),
}

impl History {
    pub(super) const fn in_memory() -> Self {
        Self::Memory(MemoryHistory::new())
    }

    pub(super) fn in_file(
        path: &Path,
        age: Duration,
        size: u64,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        SqliteHistory::open(path, age, size, metrics).map(Self::Sqlite)
    }

    /// Whether each dispatch and each reply is decoded to be added.
    pub(super) const fn reads_records(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    /// Adds a dispatch; `record` is the same decoded, if it was. False if the queue to the file is full.
    pub(super) fn append(
        &self,
        dispatch: Undecoded<DispatchRecord>,
        record: Option<Arc<DispatchRecord>>,
    ) -> bool {
        match self {
            Self::Memory(memory) => {
                memory.append(dispatch);
                true
            }
            Self::Sqlite(sqlite) => {
                record.is_some_and(|record| sqlite.append(HistoryEntry::Dispatch(record)))
            }
        }
    }

    /// Adds how the reply to a dispatch ended, which was added before; otherwise as [`History::append`].
    pub(super) fn append_reply(
        &self,
        reply: Undecoded<ReplyRecord>,
        record: Option<Arc<ReplyRecord>>,
    ) -> bool {
        match self {
            Self::Memory(memory) => {
                memory.append_reply(reply);
                true
            }
            Self::Sqlite(sqlite) => record.is_some_and(|record| sqlite.append(HistoryEntry::Reply(record))),
        }
    }

    /// The dispatches that match, the latest first.
    pub(super) fn find(&self, query: &HistoryQuery) -> anyhow::Result<Vec<DispatchRow>> {
        match self {
            Self::Memory(memory) => Ok(memory.find(query)),
            Self::Sqlite(sqlite) => sqlite.find(query),
        }
    }

    /// Whether the thread that writes the file has ended without `close`.
    pub(super) fn has_stopped(&self) -> bool {
        matches!(self, Self::Sqlite(sqlite) if sqlite.has_stopped())
    }

    /// Writes what is still queued.
    pub(super) fn close(&self) {
        if let Self::Sqlite(sqlite) = self {
            sqlite.close();
        }
    }
}

//! Owns the history's file: SQLite in WAL mode, written in batches by a thread of its own, read by one connection per query.

mod database;
mod path;
mod retention;
mod schema;
mod select;
mod writer;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::entry::HistoryEntry;
use super::query::{HistoryQuery, QUERY_TIMEOUT};
use crate::journal::row::DispatchRow;
use crate::metrics::Metrics;
use writer::{Writer, WriterCommand};

/// Dispatches and ends of replies that wait to be written; more are dropped.
const QUEUE: usize = 16_384;

/// A history in a file.
pub(in crate::journal) struct SqliteHistory {
    path: PathBuf,
    sender: SyncSender<WriterCommand>,
    /// Queries hold it shared, the writer holds it exclusively while it opens another file at the path: SQLite's own files
    /// beside the old and the new database have the same names, so no query may read the old one meanwhile.
    reading: Arc<RwLock<()>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Tells the writer to stop retrying; thousands of entries may be queued before the command to close.
    closing: Arc<AtomicBool>,
}

/// Checks that a history could be kept at this path, and creates nothing.
pub(in crate::journal) fn preflight(path: &Path) -> anyhow::Result<()> {
    let path = path::resolve(path)?;
    if path.exists() { schema::preflight(&path) } else { Ok(()) }
}

impl SqliteHistory {
    pub(super) fn open(path: &Path, age: Duration, size: u64, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let (sender, commands) = sync_channel(QUEUE);
        let (reading, closing) = (Arc::default(), Arc::default());
        let writer = Writer::open(path, age, size, metrics)?;
        let shared = (Arc::clone(&reading), Arc::clone(&closing));
        let run = move || writer.run(&commands, &shared.0, &shared.1);
        let thread = std::thread::Builder::new().name("history".to_owned()).spawn(run)?;
        Ok(Self { path: path.to_owned(), sender, reading, writer: Mutex::new(Some(thread)), closing })
    }

    /// Queues an entry for the writer. False if the queue is full.
    pub(super) fn append(&self, entry: HistoryEntry) -> bool {
        self.sender.try_send(WriterCommand::Append(entry)).is_ok()
    }

    /// The dispatches that match, the latest first, or [`super::QueryTimedOut`].
    pub(super) fn find(&self, query: &HistoryQuery) -> anyhow::Result<Vec<DispatchRow>> {
        let _reading = self.reading.read();
        select::find(&self.path, query, Instant::now() + QUERY_TIMEOUT)
    }

    /// Whether the writer has ended without `close`.
    pub(super) fn has_stopped(&self) -> bool {
        self.writer.lock().as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Writes what is queued, without retries, and ends the writer.
    pub(super) fn close(&self) {
        let thread = self.writer.lock().take();
        if let Some(thread) = thread {
            self.closing.store(true, Ordering::Relaxed);
            // Sending fails only if the writer has panicked, which `join` reports.
            let _ = self.sender.send(WriterCommand::Close);
            if thread.join().is_err() {
                tracing::error!("the history's writer ended with a panic");
            }
        }
    }
}

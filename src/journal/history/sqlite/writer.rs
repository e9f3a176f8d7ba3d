//! Owns the writer of the history's file: batches, retries, the limits to age and size, and a file that was moved or deleted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::RwLock;
use rusqlite::ErrorCode;

use super::database::{DELETE_BATCH, Database};
use super::retention::RetentionClock;
use crate::journal::history::entry::HistoryEntry;
use crate::journal::priority::{Urgency, lower_priority};
use crate::journal::record::unix_millis;
use crate::metrics::Metrics;

/// A batch is written when it has this many rows, or after this time.
pub(super) const BATCH: usize = 100;
const BATCH_TIME: Duration = Duration::from_millis(50);
/// How often rows are deleted that are too old or too many.
const PRUNE_INTERVAL: Duration = Duration::from_secs(5);
/// How often an idle writer checks that the file is still at its path.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The pause after a write that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How often a failure that lasts is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A message to the writer's thread.
pub(super) enum WriterCommand {
    Append(HistoryEntry),
    /// No entry follows: the history closes.
    Close,
}

/// The state of the writer's thread.
pub(super) struct Writer {
    path: PathBuf,
    /// None after an error that opening the file again may cure.
    pub(super) database: Option<Database>,
    retention: RetentionClock,
    opened: Instant,
    max_bytes: u64,
    pub(super) metrics: Arc<Metrics>,
    last_attempt: Instant,
    last_prune: Instant,
    /// When a failure that still lasts was last logged.
    failure_logged: Option<Instant>,
    /// A write has failed after the history began to close.
    has_given_up: bool,
}

impl Writer {
    pub(super) fn open(path: &Path, age: Duration, size: u64, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let database = Database::open(path)?;
        let retention = RetentionClock::new(age, database.newest()?, unix_millis());
        let now = Instant::now();
        Ok(Self {
            path: path.to_owned(),
            database: Some(database),
            retention,
            opened: now,
            max_bytes: size,
            metrics,
            last_attempt: now,
            last_prune: now,
            failure_logged: None,
            has_given_up: false,
        })
    }

    /// Readers of the file hold `reading` shared. `closing` is set when the history closes.
    pub(super) fn run(
        mut self,
        commands: &Receiver<WriterCommand>,
        reading: &RwLock<()>,
        closing: &AtomicBool,
    ) {
        // Every other thread is more urgent: this one may fall behind, and what its queue cannot hold is counted.
        lower_priority(Urgency::None);
        let is_closing = || closing.load(Ordering::Relaxed);
        let mut is_last = false;
        while !is_last {
            let (batch, end) = receive_batch(commands);
            is_last = end;
            if is_last {
                // Also set if the channel was dropped without `close`.
                closing.store(true, Ordering::Relaxed);
            }
            self.write(&batch, reading, is_closing);
            if !is_closing() && self.last_prune.elapsed() >= PRUNE_INTERVAL {
                self.last_prune = Instant::now();
                if let Err(error) = self.prune(unix_millis(), self.opened.elapsed(), is_closing) {
                    tracing::warn!(%error, "old rows stay in the history");
                }
            }
        }
    }

    /// Writes a batch, and retries until that succeeds. While the history closes, one failure is enough to give up all that
    /// follows: on a locked file each attempt takes seconds. Without a batch, the file is checked once per interval.
    fn write(&mut self, batch: &[HistoryEntry], reading: &RwLock<()>, is_closing: impl Fn() -> bool) {
        if batch.is_empty() && (is_closing() || self.last_attempt.elapsed() < FILE_CHECK_INTERVAL) {
            return;
        }
        while !self.has_given_up {
            self.last_attempt = Instant::now();
            let result = self.ensure_current_file(reading).and_then(|()| self.try_write(batch));
            match result {
                Ok(()) if self.failure_logged.take().is_some() => {
                    tracing::info!("the history is written again");
                }
                Ok(()) => {}
                Err(error) => self.on_failure(&error, batch.len()),
            }
            if self.failure_logged.is_none() || batch.is_empty() {
                return;
            }
            self.has_given_up = is_closing();
            if !self.has_given_up {
                std::thread::sleep(RETRY_INTERVAL);
            }
        }
        self.metrics.history_dropped(batch.len() as u64);
    }

    fn on_failure(&mut self, error: &anyhow::Error, rows: usize) {
        if self.failure_logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            self.failure_logged = Some(Instant::now());
            let error = format!("{error:#}");
            tracing::warn!(error, rows, "the history could not be written; it is tried again every second");
        }
        let code = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
        // Opening the file again may cure other errors, such as those of a disk that was detached and attached again.
        if !matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull)) {
            self.database = None;
        }
    }

    /// Opens the file again if it is not the one at the path any more. SQLite would go on writing to a file that was moved or
    /// deleted.
    pub(super) fn ensure_current_file(&mut self, reading: &RwLock<()>) -> anyhow::Result<()> {
        if self.database.as_ref().is_some_and(|database| database.is_at(&self.path)) {
            return Ok(());
        }
        let _no_readers = reading.write();
        if let Some(database) = self.database.take() {
            self.metrics.history_reopened();
            tracing::warn!(
                path = %self.path.display(),
                "the history's file was moved, deleted or replaced; the file that is now at its path is opened"
            );
            // A file that was moved then has all rows, because its log was not moved with it.
            let _ = database.checkpoint();
        }
        self.database = Some(Database::open(&self.path)?);
        Ok(())
    }

    pub(super) fn try_write(&mut self, batch: &[HistoryEntry]) -> anyhow::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let database = self.database.as_mut().context("the file is not open")?;
        Ok(database.write(batch)?)
    }

    /// Deletes the oldest rows while they are too old or the file is too large. Rows are in the order in which they were
    /// written: the first that is recent enough keeps all rows after it, even those that a wrong clock dated earlier.
    ///
    /// `wall` is in milliseconds since 1970; `uptime` is how long the file has been open.
    pub(super) fn prune(
        &mut self,
        wall: u64,
        uptime: Duration,
        is_closing: impl Fn() -> bool,
    ) -> anyhow::Result<()> {
        let Self { database: Some(database), retention, max_bytes, .. } = self else { return Ok(()) };
        let oldest = retention.oldest(database.newest()?.unwrap_or(wall), wall, uptime);
        let oldest = i64::try_from(oldest).unwrap_or(i64::MAX);
        while !is_closing() && database.delete_before(oldest)? == DELETE_BATCH as usize {}
        while !is_closing()
            && database.bytes().context("the file's size is unknown")? > *max_bytes
            && database.delete_share()? > 0
        {}
        Ok(database.vacuum()?)
    }
}

/// Waits for a batch; true if the history closes after it.
fn receive_batch(commands: &Receiver<WriterCommand>) -> (Vec<HistoryEntry>, bool) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut deadline = Instant::now() + BATCH_TIME;
    while batch.len() < BATCH {
        match commands.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(WriterCommand::Append(entry)) => {
                if batch.is_empty() {
                    deadline = Instant::now() + BATCH_TIME;
                }
                batch.push(entry);
            }
            Ok(WriterCommand::Close) | Err(RecvTimeoutError::Disconnected) => return (batch, true),
            Err(RecvTimeoutError::Timeout) => break,
        }
    }
    (batch, false)
}

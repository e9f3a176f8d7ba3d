//! Owns the writer of the history's file: batches, what leaves for its age or the file's size, and a file that was moved away.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::RwLock;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use super::age::AgeClock;
use super::place::{self, FileId};
use super::{COLUMNS, WriterCommand, open, prepare};
use crate::journal::{DispatchRecord, event, thread};
use crate::metrics::Metrics;

/// A batch is written when it has so many rows, or after so much time.
pub(super) const BATCH: usize = 100;
const BATCH_TIME: Duration = Duration::from_millis(50);
/// At most so many rows leave the file at a time.
const SHED: u32 = 10_000;
/// How often age and size are looked at.
const SHED_PACE: Duration = Duration::from_secs(5);
/// How often an idle writer looks whether the file is still there.
const LOOK_PACE: Duration = Duration::from_secs(1);
/// A disk that is full or gone is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// And said to be so this often.
const SAY_PACE: Duration = Duration::from_secs(60);

/// The writer's thread.
pub(super) struct Writer {
    path: PathBuf,
    pub(super) file: Option<OpenFile>,
    clock: AgeClock,
    began: Instant,
    size: u64,
    pub(super) metrics: Arc<Metrics>,
    looked: Instant,
    shed: Instant,
    /// Since when it cannot be written, as far as that was said.
    said: Option<Instant>,
    /// It ends, and a write has failed since.
    gave_up: bool,
}

/// The file that is open, and which one that is: itself, and SQLite's log and index beside it.
pub(super) struct OpenFile {
    pub(super) connection: Connection,
    real: PathBuf,
    ids: [Option<FileId>; 3],
}

impl OpenFile {
    fn at(path: &Path) -> anyhow::Result<Self> {
        let real = place::resolve(path)?;
        let connection = open(&real, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        prepare(&connection)?;
        let ids = ids(path, &real);
        Ok(Self { connection, real, ids })
    }

    /// Whether it is what stands at the path now.
    fn is_at(&self, path: &Path) -> bool {
        let there = ids(path, &self.real);
        self.ids.iter().zip(there).all(|(id, there)| id.is_none() || *id == there)
    }

    /// Milliseconds since 1970, when the newest row was written.
    fn newest(&self) -> rusqlite::Result<Option<u64>> {
        let newest = "SELECT at FROM dispatches ORDER BY id DESC LIMIT 1";
        let newest = self.connection.query_row(newest, [], |row| row.get::<_, i64>(0)).optional()?;
        Ok(newest.map(|at| u64::try_from(at).unwrap_or(0)))
    }
}

/// By the name that was given, as a symbolic link may lead elsewhere by now.
fn ids(path: &Path, real: &Path) -> [Option<FileId>; 3] {
    [path, &place::beside(real, "-wal"), &place::beside(real, "-shm")].map(FileId::at)
}

impl Writer {
    pub(super) fn open(path: &Path, age: Duration, size: u64, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let file = OpenFile::at(path)?;
        let clock = AgeClock::new(age, file.newest()?, event::unix_millis());
        let now = Instant::now();
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
            clock,
            began: now,
            size,
            metrics,
            looked: now,
            shed: now,
            said: None,
            gave_up: false,
        })
    }

    pub(super) fn run(mut self, orders: &Receiver<WriterCommand>, reading: &RwLock<()>, ending: &AtomicBool) {
        // Whatever else there is to do is more urgent: it may lag, and what it cannot take is counted.
        thread::lower_priority(19);
        let ends = || ending.load(Ordering::Relaxed);
        let mut is_last = false;
        while !is_last {
            let (batch, end) = next_batch(orders);
            is_last = end;
            if is_last {
                // Also without `close`, when nobody is left who could give an order.
                ending.store(true, Ordering::Relaxed);
            }
            self.write(&batch, reading, ends);
            if !ends() && self.shed.elapsed() >= SHED_PACE {
                self.shed = Instant::now();
                if let Err(error) = self.prune(event::unix_millis(), self.began.elapsed(), ends) {
                    tracing::warn!(%error, "old rows stay in the history");
                }
            }
        }
    }

    /// Writes a batch, again and again while that fails and the broker goes on. An end waits for one failure, not for
    /// one per batch: a locked file takes its time over each. Without a batch it looks after the file now and then.
    fn write(&mut self, batch: &[Arc<DispatchRecord>], reading: &RwLock<()>, ends: impl Fn() -> bool) {
        if batch.is_empty() && (ends() || self.looked.elapsed() < LOOK_PACE) {
            return;
        }
        while !self.gave_up {
            self.looked = Instant::now();
            let tried = self.ensure_current_file(reading).and_then(|()| self.try_write(batch));
            match tried {
                Ok(()) if self.said.take().is_some() => tracing::info!("the history is written again"),
                Ok(()) => {}
                Err(error) => self.failed(&error, batch.len()),
            }
            if self.said.is_none() || batch.is_empty() {
                return;
            }
            self.gave_up = ends();
            if !self.gave_up {
                std::thread::sleep(RETRY);
            }
        }
        self.metrics.history_dropped(batch.len() as u64);
    }

    fn failed(&mut self, error: &anyhow::Error, rows: usize) {
        if self.said.is_none_or(|said| said.elapsed() >= SAY_PACE) {
            self.said = Some(Instant::now());
            let error = format!("{error:#}");
            tracing::warn!(error, rows, "the history could not be written; it is tried again every second");
        }
        let code = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
        // What is wrong with an open file, such as a disk that was pulled, may be right when it is opened again.
        if !matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull)) {
            self.file = None;
        }
    }

    /// Sees to it that the open file is the one at the path. SQLite would go on writing to one that was moved or deleted.
    pub(super) fn ensure_current_file(&mut self, reading: &RwLock<()>) -> anyhow::Result<()> {
        if self.file.as_ref().is_some_and(|open| open.is_at(&self.path)) {
            return Ok(());
        }
        let _nobody_reads = reading.write();
        if let Some(open) = self.file.take() {
            self.metrics.history_reopened();
            tracing::warn!(
                path = %self.path.display(),
                "the history's file was moved, deleted or replaced; what stands at its path now is opened"
            );
            // So that a file that was moved has all that was written: its log stays behind.
            let _ = open.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        }
        self.file = Some(OpenFile::at(&self.path)?);
        Ok(())
    }

    fn open_file(&mut self) -> anyhow::Result<&mut OpenFile> {
        self.file.as_mut().context("the file is not open")
    }

    pub(super) fn try_write(&mut self, batch: &[Arc<DispatchRecord>]) -> anyhow::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let transaction = self.open_file()?.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(&format!(
                "INSERT INTO dispatches ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            ))?;
            for dispatch in batch {
                let row = dispatch.row();
                insert.execute(params![
                    i64::try_from(row.at).unwrap_or(i64::MAX),
                    row.run,
                    row.deployment,
                    row.version,
                    row.cpu,
                    row.memory,
                    row.outcome,
                    row.reason,
                    row.proof,
                    row.offers,
                    row.controller,
                    row.seconds
                ])?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Deletes the oldest rows as long as they are too old or the file is too large. Rows stand in the order in which they
    /// were written: the first that is not too old keeps those behind it, whatever the clock said when they were.
    pub(super) fn prune(&mut self, wall: u64, ran: Duration, ends: impl Fn() -> bool) -> anyhow::Result<()> {
        let Self { file: Some(file), clock, size, .. } = self else { return Ok(()) };
        let oldest = clock.oldest(file.newest()?.unwrap_or(wall), wall, ran);
        let oldest = i64::try_from(oldest).unwrap_or(i64::MAX);
        while !ends() && file.delete_before(oldest)? == SHED as usize {}
        while !ends()
            && file.bytes().context("the file's size is unknown")? > *size
            && file.delete(file.share()?)? > 0
        {}
        // Freed pages go back to the file system, some at a time.
        // It answers once per page, and goes only as far as it is asked for answers.
        file.connection.pragma(None, "incremental_vacuum", 1000, |_| Ok(()))?;
        Ok(())
    }
}

impl OpenFile {
    /// Deletes some of the oldest rows, up to the first that was written at this time or later.
    fn delete_before(&self, oldest: i64) -> rusqlite::Result<usize> {
        self.connection.execute(
            "DELETE FROM dispatches WHERE id IN (
                SELECT id FROM dispatches WHERE id < coalesce(
                    (SELECT min(id) FROM (SELECT id, at FROM dispatches ORDER BY id LIMIT ?2) WHERE at >= ?1),
                    9223372036854775807)
                ORDER BY id LIMIT ?2)",
            params![oldest, SHED],
        )
    }

    fn delete(&self, rows: i64) -> rusqlite::Result<usize> {
        self.connection.execute(
            "DELETE FROM dispatches WHERE id IN (SELECT id FROM dispatches ORDER BY id LIMIT ?)",
            [rows],
        )
    }

    /// A small share of the rows, so that a small file is not emptied because it is a little too large. Ids leave no
    /// gaps, and each end of them is found without a walk; both in one question are not.
    fn share(&self) -> rusqlite::Result<i64> {
        let rows: i64 = self.connection.query_row(
            "SELECT coalesce((SELECT max(id) FROM dispatches) - (SELECT min(id) FROM dispatches), 0)",
            [],
            |row| row.get(0),
        )?;
        Ok((rows / 100).clamp(1, i64::from(SHED)))
    }

    /// Bytes of pages that hold something.
    pub(super) fn bytes(&self) -> rusqlite::Result<u64> {
        let pragma = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let pages = pragma("page_count")? - pragma("freelist_count")?;
        Ok(u64::try_from(pages * pragma("page_size")?).unwrap_or(0))
    }
}

/// Waits for a batch; true with the last one.
fn next_batch(orders: &Receiver<WriterCommand>) -> (Vec<Arc<DispatchRecord>>, bool) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut until = Instant::now() + BATCH_TIME;
    while batch.len() < BATCH {
        match orders.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(WriterCommand::Append(dispatch)) => {
                if batch.is_empty() {
                    until = Instant::now() + BATCH_TIME;
                }
                batch.push(dispatch);
            }
            Ok(WriterCommand::Close) | Err(RecvTimeoutError::Disconnected) => return (batch, true),
            Err(RecvTimeoutError::Timeout) => break,
        }
    }
    (batch, false)
}

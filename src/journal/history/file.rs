//! Owns the history's file: SQLite in WAL mode, written by a thread of its own in batches, read on another connection.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params, params_from_iter};
use rustix::fs::{Access, access};

use super::{Query, Row};
use crate::journal::{Dispatch, event, thread};
use crate::metrics::Metrics;

#[cfg(test)]
mod tests;

/// What the file's layout is; a file of another one is refused.
const SCHEMA: i64 = 1;
/// Dispatches on their way to the file.
const QUEUE: usize = 16_384;
/// A batch is written when it has so many rows, or after so much time.
const BATCH: usize = 100;
const BATCH_TIME: Duration = Duration::from_millis(50);
/// At most so many rows leave the file at a time.
const SHED: u32 = 10_000;
/// How often age and size are looked at.
const SHED_PACE: Duration = Duration::from_secs(5);
/// A disk that is full or gone is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// What the writer is told.
enum Order {
    Keep(Arc<Dispatch>),
    End,
}

/// The file, as the journal knows it.
pub(in crate::journal) struct File {
    sender: SyncSender<Order>,
    reader: Mutex<Connection>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// The writer waits for no disk any more. The order to end may stand behind thousands of dispatches.
    ending: Arc<AtomicBool>,
}

impl File {
    pub(super) fn open(path: &Path, age: Duration, size: u64, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        check_place(path)?;
        let connection = Connection::open(path)?;
        prepare(&connection)?;
        let reader = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        reader.busy_timeout(Duration::from_secs(1))?;
        let (sender, orders) = sync_channel(QUEUE);
        let ending = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            connection,
            orders,
            age,
            size,
            metrics,
            shed: Instant::now(),
            ending: ending.clone(),
            gave_up: false,
        };
        let thread = std::thread::Builder::new().name("history".to_owned()).spawn(move || writer.run())?;
        Ok(Self { sender, reader: Mutex::new(reader), writer: Mutex::new(Some(thread)), ending })
    }

    pub(super) fn keep(&self, dispatch: Arc<Dispatch>) -> bool {
        self.sender.try_send(Order::Keep(dispatch)).is_ok()
    }

    /// Walks from the latest row down, as far as `since` and the limit go.
    pub(super) fn find(&self, query: &Query) -> anyhow::Result<Vec<Row>> {
        let mut sql = "SELECT at, run, deployment, version, cpu, memory, outcome, reason, proof, offers, controller, seconds \
                       FROM dispatches WHERE 1"
            .to_owned();
        let mut values = Vec::new();
        for (column, value) in
            [("run", &query.run), ("deployment", &query.deployment), ("outcome", &query.outcome)]
        {
            if let Some(value) = value {
                sql.extend([" AND ", column, " = ?"]);
                values.push(Value::Text(value.clone()));
            }
        }
        if let Some(since) = query.since {
            // Rows stand in the order of their time: the first of them is found once, not looked for in each row.
            sql.push_str(
                " AND id >= (SELECT coalesce(min(id), 9223372036854775807) FROM dispatches WHERE at >= ?)",
            );
            values.push(Value::Integer(i64::try_from(since)?));
        }
        sql.push_str(" ORDER BY id DESC LIMIT ?");
        values.push(Value::Integer(i64::try_from(query.limit)?));
        let reader = self.reader.lock();
        let mut statement = reader.prepare_cached(&sql)?;
        let rows = statement.query_map(params_from_iter(values), |row| {
            Ok(Row {
                at: row.get::<_, i64>(0)?.try_into().unwrap_or(0),
                run: row.get(1)?,
                deployment: row.get(2)?,
                version: row.get(3)?,
                cpu: row.get(4)?,
                memory: row.get(5)?,
                outcome: row.get::<_, String>(6)?.into(),
                reason: row.get::<_, Option<String>>(7)?.map(Into::into),
                proof: row.get::<_, Option<String>>(8)?.map(Into::into),
                offers: row.get(9)?,
                controller: row.get(10)?,
                seconds: row.get(11)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether the writer has ended although nobody closed the file.
    pub(super) fn has_ended(&self) -> bool {
        self.writer.lock().as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Writes what is still on its way, as far as that succeeds at once.
    pub(super) fn close(&self) {
        let thread = self.writer.lock().take();
        if let Some(thread) = thread {
            self.ending.store(true, Ordering::Relaxed);
            // It is gone only if it has panicked.
            let _ = self.sender.send(Order::End);
            if thread.join().is_err() {
                tracing::error!("the history's writer ended with a panic");
            }
        }
    }
}

/// Looks whether a history could be kept here, and makes no file, not even for a moment.
pub(in crate::journal) fn check(path: &Path) -> anyhow::Result<()> {
    check_place(path)?;
    if path.exists() {
        let name = path.to_str().context("its name is no text")?;
        let name = name.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
        // Any other way of reading makes files beside it, which would be the reader's and not the broker's.
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        is_new(&Connection::open_with_flags(format!("file:{name}?immutable=1"), flags)?)?;
    }
    Ok(())
}

/// SQLite itself says only that it is unable to open, or waits for ever.
fn check_place(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    access(folder, Access::WRITE_OK | Access::EXEC_OK)
        .with_context(|| format!("its folder {} is not there, or not writable", folder.display()))?;
    if path.exists() {
        ensure!(path.is_file(), "it is no file");
        access(path, Access::READ_OK | Access::WRITE_OK).context("it is not readable and writable")?;
    }
    Ok(())
}

/// Whether a file has nothing in it yet. It is refused if it is no history of this version.
fn is_new(connection: &Connection) -> anyhow::Result<bool> {
    connection.busy_timeout(Duration::from_secs(5))?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let is_new = version == 0 && tables == 0;
    if !is_new && version != SCHEMA {
        bail!(
            "it is not a history of this version (schema {version}, wanted {SCHEMA}); name another file, or move it away"
        );
    }
    Ok(is_new)
}

fn prepare(connection: &Connection) -> anyhow::Result<()> {
    if is_new(connection)? {
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A crash of the machine may take the last batches; a crash of the process takes none that was written.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS dispatches (
            id INTEGER PRIMARY KEY, at INTEGER NOT NULL, run TEXT NOT NULL, deployment TEXT NOT NULL,
            version TEXT NOT NULL, cpu REAL NOT NULL, memory REAL NOT NULL, outcome TEXT NOT NULL, reason TEXT,
            proof TEXT, offers INTEGER NOT NULL, controller TEXT, seconds REAL NOT NULL) STRICT;
         CREATE INDEX IF NOT EXISTS dispatches_run ON dispatches (run);
         CREATE INDEX IF NOT EXISTS dispatches_at ON dispatches (at);",
    )?;
    connection.pragma_update(None, "user_version", SCHEMA)?;
    Ok(())
}

/// The writer's thread.
struct Writer {
    connection: Connection,
    orders: Receiver<Order>,
    age: Duration,
    size: u64,
    metrics: Arc<Metrics>,
    shed: Instant,
    ending: Arc<AtomicBool>,
    /// It ends, and a write has failed since.
    gave_up: bool,
}

impl Writer {
    fn run(mut self) {
        // Whatever else there is to do is more urgent: it may lag, and what it cannot take is counted.
        thread::yield_to_others(19);
        let mut ends = false;
        while !ends {
            let (batch, end) = self.batch();
            ends = end;
            if ends {
                // Also without `close`, when nobody is left who could give an order.
                self.ending.store(true, Ordering::Relaxed);
            }
            self.write(&batch);
            if !self.ends() && self.shed.elapsed() >= SHED_PACE {
                self.shed = Instant::now();
                if let Err(error) = self.shed() {
                    tracing::warn!(%error, "old rows stay in the history");
                }
            }
        }
    }

    /// Waits for a batch; true with the last one.
    fn batch(&self) -> (Vec<Arc<Dispatch>>, bool) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut until = Instant::now() + BATCH_TIME;
        while batch.len() < BATCH {
            match self.orders.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Order::Keep(dispatch)) => {
                    if batch.is_empty() {
                        until = Instant::now() + BATCH_TIME;
                    }
                    batch.push(dispatch);
                }
                Ok(Order::End) | Err(RecvTimeoutError::Disconnected) => return (batch, true),
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        (batch, false)
    }

    /// Writes a batch, again and again while that fails and the broker goes on. An end waits for one failure, not for
    /// one per batch: a locked file takes its time over each.
    fn write(&mut self, batch: &[Arc<Dispatch>]) {
        while !self.gave_up {
            let Err(error) = self.try_write(batch) else { return };
            tracing::warn!(%error, rows = batch.len(), "the history could not be written");
            self.gave_up = self.ends();
            if !self.gave_up {
                std::thread::sleep(RETRY);
            }
        }
        self.metrics.history_dropped(batch.len() as u64);
    }

    fn ends(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    fn try_write(&mut self, batch: &[Arc<Dispatch>]) -> rusqlite::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO dispatches (at, run, deployment, version, cpu, memory, outcome, reason, proof, offers, \
                 controller, seconds) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?;
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
        transaction.commit()
    }

    /// Deletes the oldest rows as long as they are too old or the file is too large.
    fn shed(&mut self) -> anyhow::Result<()> {
        let age = u64::try_from(self.age.as_millis()).unwrap_or(u64::MAX);
        let oldest = i64::try_from(event::now().saturating_sub(age)).unwrap_or(0);
        while !self.ends()
            && self.connection.execute(
                "DELETE FROM dispatches WHERE id IN (SELECT id FROM dispatches WHERE at < ? ORDER BY id LIMIT ?)",
                params![oldest, SHED],
            )? == SHED as usize
        {}
        while !self.ends()
            && self.bytes().context("the file's size is unknown")? > self.size
            && self.connection.execute(
                "DELETE FROM dispatches WHERE id IN (SELECT id FROM dispatches ORDER BY id LIMIT ?)",
                params![self.share()?],
            )? > 0
        {}
        // Freed pages go back to the file system, some at a time.
        // It answers once per page, and goes only as far as it is asked for answers.
        self.connection.pragma(None, "incremental_vacuum", 1000, |_| Ok(()))?;
        Ok(())
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
    fn bytes(&self) -> rusqlite::Result<u64> {
        let pragma = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let pages = pragma("page_count")? - pragma("freelist_count")?;
        Ok(u64::try_from(pages * pragma("page_size")?).unwrap_or(0))
    }
}

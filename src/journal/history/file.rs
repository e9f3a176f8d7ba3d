//! Owns the history's file: SQLite in WAL mode, written by a thread of its own in batches, read on a connection per question.

mod age;
mod place;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use parking_lot::{Mutex, RwLock};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OpenFlags, params_from_iter};
use thiserror::Error;

use super::{DispatchRow, HistoryQuery};
use crate::journal::DispatchRecord;
use crate::metrics::Metrics;
use writer::Writer;

#[cfg(test)]
mod tests;

/// What the file's layout is; a file of another one is refused.
const SCHEMA: i64 = 1;
/// Dispatches on their way to the file.
const QUEUE: usize = 16_384;
/// A question is given up after this time: one that no row fits would walk through all of them.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// How many steps of SQLite's machine lie between two looks at the clock: well below a millisecond.
const STEPS: i32 = 10_000;
/// Every column, in the order in which they are read and written.
const COLUMNS: &str =
    "at, run, deployment, version, cpu, memory, outcome, reason, proof, offers, controller, seconds";
/// What a URI of SQLite's may not have in its path.
const IN_URI: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');

/// A question would have taken too long.
#[derive(Debug, Error)]
#[error("the question was given up after {QUERY_TIMEOUT:?}")]
pub struct QueryTimedOut;

/// What the writer is told.
enum WriterCommand {
    Append(Arc<DispatchRecord>),
    Close,
}

/// The file, as the journal knows it.
pub(in crate::journal) struct SqliteHistory {
    path: PathBuf,
    sender: SyncSender<WriterCommand>,
    /// Questions are asked side by side; only when another file is opened at the path nobody may read the one before, as
    /// SQLite's own files beside the two have the same names.
    reading: Arc<RwLock<()>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// The writer waits for no disk any more. The order to end may stand behind thousands of dispatches.
    ending: Arc<AtomicBool>,
}

impl SqliteHistory {
    pub(super) fn open(path: &Path, age: Duration, size: u64, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let (sender, orders) = sync_channel(QUEUE);
        let (reading, ending) = (Arc::default(), Arc::default());
        let writer = Writer::open(path, age, size, metrics)?;
        let shared = (Arc::clone(&reading), Arc::clone(&ending));
        let run = move || writer.run(&orders, &shared.0, &shared.1);
        let thread = std::thread::Builder::new().name("history".to_owned()).spawn(run)?;
        Ok(Self { path: path.to_owned(), sender, reading, writer: Mutex::new(Some(thread)), ending })
    }

    pub(super) fn append(&self, dispatch: Arc<DispatchRecord>) -> bool {
        self.sender.try_send(WriterCommand::Append(dispatch)).is_ok()
    }

    /// Walks from the latest row down, as far as `since`, the limit and the time go. [`QueryTimedOut`] if the time was not enough.
    pub(super) fn find(&self, query: &HistoryQuery) -> anyhow::Result<Vec<DispatchRow>> {
        let _reading = self.reading.read();
        find(&self.path, query, Instant::now() + QUERY_TIMEOUT)
    }

    /// Whether the writer has ended although nobody closed the file.
    pub(super) fn has_stopped(&self) -> bool {
        self.writer.lock().as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Writes what is still on its way, as far as that succeeds at once.
    pub(super) fn close(&self) {
        let thread = self.writer.lock().take();
        if let Some(thread) = thread {
            self.ending.store(true, Ordering::Relaxed);
            // It is gone only if it has panicked.
            let _ = self.sender.send(WriterCommand::Close);
            if thread.join().is_err() {
                tracing::error!("the history's writer ended with a panic");
            }
        }
    }
}

/// Looks whether a history could be kept here, and makes no file, not even for a moment.
pub(in crate::journal) fn preflight(path: &Path) -> anyhow::Result<()> {
    let path = place::resolve(path)?;
    if path.exists() {
        let name = percent_encode(path.as_os_str().as_encoded_bytes(), IN_URI);
        // Any other way of reading makes files beside it, which would be the reader's and not the broker's.
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        is_new(&Connection::open_with_flags(format!("file:{name}?immutable=1"), flags)?)?;
    }
    Ok(())
}

/// A connection of its own for each question, so that none waits for another.
fn find(path: &Path, query: &HistoryQuery, until: Instant) -> anyhow::Result<Vec<DispatchRow>> {
    let mut reader = open(&place::resolve(path)?, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    reader.progress_handler(STEPS, Some(move || Instant::now() >= until))?;
    let (sql, values) = select_statement(query)?;
    let mut statement = reader.prepare(&sql)?;
    let rows = statement.query_map(params_from_iter(values), row)?.collect::<Result<_, _>>();
    rows.map_err(|error| {
        let is_late = error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted);
        if is_late { QueryTimedOut.into() } else { error.into() }
    })
}

fn select_statement(query: &HistoryQuery) -> anyhow::Result<(String, Vec<Value>)> {
    let mut sql = format!("SELECT {COLUMNS} FROM dispatches WHERE 1");
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
    Ok((sql, values))
}

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<DispatchRow> {
    Ok(DispatchRow {
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
}

/// Opens a path as [`place::resolve`] gives it.
fn open(path: &Path, flags: OpenFlags) -> anyhow::Result<Connection> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(1))?;
    Ok(connection)
}

/// Whether a file has nothing in it yet. It is refused if it is no history of this version.
fn is_new(connection: &Connection) -> anyhow::Result<bool> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if version == 0 && tables == 0 {
        return Ok(true);
    }
    let other = || {
        format!(
            "it is not a history of this version (schema {version}, wanted {SCHEMA}); name another file, or move it away"
        )
    };
    ensure!(version == SCHEMA, other());
    connection.prepare(&format!("SELECT {COLUMNS} FROM dispatches")).with_context(other)?;
    Ok(false)
}

fn prepare(connection: &Connection) -> anyhow::Result<()> {
    let is_new = is_new(connection)?;
    if is_new {
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A crash of the machine may take the last batches; a crash of the process takes none that was written.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    if is_new {
        // At once, so that no end of the process leaves half of it.
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE;
             CREATE TABLE dispatches (
                id INTEGER PRIMARY KEY, at INTEGER NOT NULL, run TEXT NOT NULL, deployment TEXT NOT NULL,
                version TEXT NOT NULL, cpu REAL NOT NULL, memory REAL NOT NULL, outcome TEXT NOT NULL, reason TEXT,
                proof TEXT, offers INTEGER NOT NULL, controller TEXT, seconds REAL NOT NULL) STRICT;
             CREATE INDEX dispatches_run ON dispatches (run);
             CREATE INDEX dispatches_at ON dispatches (at);
             PRAGMA user_version = {SCHEMA};
             COMMIT;"
        ))?;
    }
    Ok(())
}

//! Owns the layout of the history's file: its table, its version, and how a connection to it is opened.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

/// The version of the layout; a file of another version is refused. A column that may be NULL changes no version: a broker
/// that does not know the column uses the file as before.
const VERSION: i64 = 1;
/// The columns of a dispatch, in the order in which they are read and written.
pub(super) const DISPATCH_COLUMNS: &str =
    "at, run, deployment, version, cpu, memory, outcome, reason, proof, offers, controller, seconds, broker";
/// The columns of its reply, likewise. All are NULL until there is one.
pub(super) const REPLY_COLUMNS: &str =
    "reply_outcome, reply_status, reply_first_byte_seconds, reply_seconds, reply_bytes";
/// The columns that the first files had.
const FIRST_COLUMNS: &str =
    "at, run, deployment, version, cpu, memory, outcome, reason, proof, offers, controller, seconds";
/// The columns that later versions have added, each with its type.
const ADDED_COLUMNS: [(&str, &str); 6] = [
    ("broker", "TEXT"),
    ("reply_outcome", "TEXT"),
    ("reply_status", "INTEGER"),
    ("reply_first_byte_seconds", "REAL"),
    ("reply_seconds", "REAL"),
    ("reply_bytes", "INTEGER"),
];
/// Characters of a path that have to be encoded in a URI of SQLite's.
const IN_URI: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');

/// Opens a path that [`super::path::resolve`] returned.
pub(super) fn connect(path: &Path, flags: OpenFlags) -> anyhow::Result<Connection> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(1))?;
    Ok(connection)
}

/// Checks that an existing file can be used, and changes nothing.
pub(super) fn preflight(path: &Path) -> anyhow::Result<()> {
    let name = percent_encode(path.as_os_str().as_encoded_bytes(), IN_URI);
    // Without `immutable`, SQLite would create files beside it, which would belong to the user who runs the check.
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    is_empty(&Connection::open_with_flags(format!("file:{name}?immutable=1"), flags)?)?;
    Ok(())
}

/// Sets the connection up for writing. Creates the table in an empty file, and adds the columns that an older file lacks.
pub(super) fn prepare(connection: &Connection) -> anyhow::Result<()> {
    let is_empty = is_empty(connection)?;
    if is_empty {
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A crash of the machine may lose the last batches. A crash of the process loses no batch that was written.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    if is_empty {
        // In one transaction, so that a process that is killed leaves all of it or nothing.
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE;
             CREATE TABLE dispatches (
                id INTEGER PRIMARY KEY, at INTEGER NOT NULL, run TEXT NOT NULL, deployment TEXT NOT NULL,
                version TEXT NOT NULL, cpu REAL NOT NULL, memory REAL NOT NULL, outcome TEXT NOT NULL, reason TEXT,
                proof TEXT, offers INTEGER NOT NULL, controller TEXT, seconds REAL NOT NULL) STRICT;
             CREATE INDEX dispatches_run ON dispatches (run);
             CREATE INDEX dispatches_at ON dispatches (at);
             PRAGMA user_version = {VERSION};
             COMMIT;"
        ))?;
    }
    add_columns(connection)
}

fn add_columns(connection: &Connection) -> anyhow::Result<()> {
    if missing_columns(connection)?.is_empty() {
        return Ok(());
    }
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    // Another process may have added them meanwhile.
    for (name, kind) in missing_columns(&transaction)? {
        transaction.execute(&format!("ALTER TABLE dispatches ADD COLUMN {name} {kind}"), [])?;
    }
    Ok(transaction.commit()?)
}

fn missing_columns(connection: &Connection) -> rusqlite::Result<Vec<(&'static str, &'static str)>> {
    let mut names = connection.prepare("SELECT name FROM pragma_table_info('dispatches')")?;
    let present = names.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    let is_missing = |(name, _): &(&str, &str)| !present.iter().any(|present| present == name);
    Ok(ADDED_COLUMNS.into_iter().filter(is_missing).collect())
}

/// Whether the file has no table yet. It is refused if it is not a history of this version.
fn is_empty(connection: &Connection) -> anyhow::Result<bool> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if version == 0 && tables == 0 {
        return Ok(true);
    }
    let other = || {
        format!(
            "it is not a history of this version (schema {version}, wanted {VERSION}); name another file, or move it away"
        )
    };
    ensure!(version == VERSION, other());
    connection.prepare(&format!("SELECT {FIRST_COLUMNS} FROM dispatches")).with_context(other)?;
    Ok(false)
}

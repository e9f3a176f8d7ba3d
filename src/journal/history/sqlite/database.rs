//! Owns the open database of the history: which files it is, how rows are written, and how the oldest are deleted.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Statement, params};

use super::path::{self, FileId};
use super::schema::{DISPATCH_COLUMNS, REPLY_COLUMNS, connect, prepare};
use crate::journal::history::entry::HistoryEntry;
use crate::journal::record::{DispatchRecord, ReplyRecord};
use crate::journal::row::{DispatchRow, ReplyRow};

/// Rows that are deleted at a time.
pub(super) const DELETE_BATCH: u32 = 10_000;
/// Rows with a run's name that are looked at to find the one that a reply belongs to.
const LATEST_OF_RUN: u32 = 64;
/// Free pages that are returned to the file system at a time.
const VACUUM_PAGES: i32 = 1000;

/// An open database, and the identities of its files: the database itself, SQLite's write-ahead log, and the log's index.
pub(super) struct Database {
    pub(super) connection: Connection,
    real: PathBuf,
    ids: [Option<FileId>; 3],
}

impl Database {
    /// Opens the database at this path. Creates it if there is none.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let real = path::resolve(path)?;
        let connection = connect(&real, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        prepare(&connection)?;
        let ids = file_ids(path, &real);
        Ok(Self { connection, real, ids })
    }

    /// Whether the files at this path are still those that are open.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        let current = file_ids(path, &self.real);
        self.ids.iter().zip(current).all(|(id, current)| id.is_none() || *id == current)
    }

    /// When the newest row was written, in milliseconds since 1970.
    pub(super) fn newest(&self) -> rusqlite::Result<Option<u64>> {
        let newest = "SELECT at FROM dispatches ORDER BY id DESC LIMIT 1";
        let newest = self.connection.query_row(newest, [], |row| row.get::<_, i64>(0)).optional()?;
        Ok(newest.map(|at| u64::try_from(at).unwrap_or(0)))
    }

    /// Writes a batch in one transaction.
    pub(super) fn write(&mut self, batch: &[HistoryEntry]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(&format!(
                "INSERT INTO dispatches ({DISPATCH_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            ))?;
            // A reply belongs to its run's latest dispatch that handed the run over and that has no reply yet, if that row is
            // still here. A POST that was answered like an earlier one has no offers. There may be very many rows of one run.
            let mut update = transaction.prepare_cached(&format!(
                "UPDATE dispatches SET ({REPLY_COLUMNS}) = (?, ?, ?, ?, ?) WHERE id = (
                    SELECT max(id) FROM (SELECT * FROM dispatches WHERE run = ? ORDER BY id DESC LIMIT {LATEST_OF_RUN})
                    WHERE outcome = 'hit' AND offers > 0 AND reply_outcome IS NULL
                        AND deployment = ? AND version = ? AND cpu = ? AND memory = ?)"
            ))?;
            for entry in batch {
                match entry {
                    HistoryEntry::Dispatch(record) => insert_dispatch(&mut insert, record)?,
                    HistoryEntry::Reply(record) => add_reply(&mut update, record)?,
                };
            }
        }
        transaction.commit()
    }

    /// Deletes the oldest rows, at most [`DELETE_BATCH`], up to the first that was written at this time or later. Returns how
    /// many were deleted.
    pub(super) fn delete_before(&self, oldest: i64) -> rusqlite::Result<usize> {
        self.connection.execute(
            "DELETE FROM dispatches WHERE id IN (
                SELECT id FROM dispatches WHERE id < coalesce(
                    (SELECT min(id) FROM (SELECT id, at FROM dispatches ORDER BY id LIMIT ?2) WHERE at >= ?1),
                    9223372036854775807)
                ORDER BY id LIMIT ?2)",
            params![oldest, DELETE_BATCH],
        )
    }

    /// Deletes the oldest hundredth of the rows, at least one and at most [`DELETE_BATCH`], so that a small file that is a
    /// little too large is not emptied. Returns how many were deleted.
    pub(super) fn delete_share(&self) -> rusqlite::Result<usize> {
        // Ids have no gaps, so their range is the number of rows. Each end of it is found through the index; a query for both
        // at once would scan the table.
        let rows: i64 = self.connection.query_row(
            "SELECT coalesce((SELECT max(id) FROM dispatches) - (SELECT min(id) FROM dispatches), 0)",
            [],
            |row| row.get(0),
        )?;
        self.connection.execute(
            "DELETE FROM dispatches WHERE id IN (SELECT id FROM dispatches ORDER BY id LIMIT ?)",
            [(rows / 100).clamp(1, i64::from(DELETE_BATCH))],
        )
    }

    /// Bytes of the pages that are in use.
    pub(super) fn bytes(&self) -> rusqlite::Result<u64> {
        let pragma = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let pages = pragma("page_count")? - pragma("freelist_count")?;
        Ok(u64::try_from(pages * pragma("page_size")?).unwrap_or(0))
    }

    /// Returns some of the free pages to the file system.
    pub(super) fn vacuum(&self) -> rusqlite::Result<()> {
        // The pragma returns one row for each page that it frees, and frees pages only as its rows are read.
        self.connection.pragma(None, "incremental_vacuum", VACUUM_PAGES, |_| Ok(()))
    }

    /// Moves all of the write-ahead log into the database.
    pub(super) fn checkpoint(&self) -> rusqlite::Result<()> {
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }
}

fn insert_dispatch(insert: &mut Statement<'_>, record: &DispatchRecord) -> rusqlite::Result<usize> {
    let row = DispatchRow::from(record);
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
        row.seconds,
        row.broker
    ])
}

fn add_reply(update: &mut Statement<'_>, record: &ReplyRecord) -> rusqlite::Result<usize> {
    let row = ReplyRow::from(record);
    let [run, deployment, version] = [0, 1, 2].map(|index| record.names.get(index));
    update.execute(params![
        row.outcome,
        row.status,
        row.first_byte_seconds,
        row.seconds,
        i64::try_from(row.bytes).unwrap_or(i64::MAX),
        run,
        deployment,
        version,
        record.cpu,
        record.memory
    ])
}

/// The database is looked up by the configured path, because a symbolic link may have been changed since.
fn file_ids(path: &Path, real: &Path) -> [Option<FileId>; 3] {
    [path, &path::with_suffix(real, "-wal"), &path::with_suffix(real, "-shm")].map(FileId::at)
}

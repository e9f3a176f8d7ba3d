//! Owns how the history's file is queried: one connection per query, so that no query waits for another.

use std::path::Path;
use std::time::Instant;

use rusqlite::types::Value;
use rusqlite::{ErrorCode, OpenFlags, Row, params_from_iter};

use super::path;
use super::schema::{DISPATCH_COLUMNS, REPLY_COLUMNS, connect};
use crate::journal::history::query::{HistoryQuery, QueryTimedOut};
use crate::journal::row::{DispatchRow, ReplyRow};

/// Instructions of SQLite's virtual machine between two checks of the deadline: well below a millisecond.
const INSTRUCTIONS: i32 = 10_000;

/// Reads from the latest row backwards, until `since`, the limit or the deadline is reached. [`QueryTimedOut`] if it was the
/// deadline.
pub(super) fn find(path: &Path, query: &HistoryQuery, deadline: Instant) -> anyhow::Result<Vec<DispatchRow>> {
    let mut reader = connect(&path::resolve(path)?, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    reader.progress_handler(INSTRUCTIONS, Some(move || Instant::now() >= deadline))?;
    let (sql, values) = statement(query)?;
    let mut statement = reader.prepare(&sql)?;
    let rows = statement.query_map(params_from_iter(values), read_row)?.collect::<Result<_, _>>();
    rows.map_err(|error| {
        let is_late = error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted);
        if is_late { QueryTimedOut.into() } else { error.into() }
    })
}

fn statement(query: &HistoryQuery) -> anyhow::Result<(String, Vec<Value>)> {
    let mut sql = format!("SELECT {DISPATCH_COLUMNS}, {REPLY_COLUMNS} FROM dispatches WHERE 1");
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
        // Ids are in the order of time, so the first row since then is looked up once instead of comparing each row's time.
        sql.push_str(
            " AND id >= (SELECT coalesce(min(id), 9223372036854775807) FROM dispatches WHERE at >= ?)",
        );
        values.push(Value::Integer(i64::try_from(since)?));
    }
    sql.push_str(" ORDER BY id DESC LIMIT ?");
    values.push(Value::Integer(i64::try_from(query.limit)?));
    Ok((sql, values))
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<DispatchRow> {
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
        broker: row.get(12)?,
        reply: row.get::<_, Option<String>>(13)?.map(|outcome| read_reply(outcome, row)).transpose()?,
    })
}

fn read_reply(outcome: String, row: &Row<'_>) -> rusqlite::Result<ReplyRow> {
    Ok(ReplyRow {
        outcome: outcome.into(),
        status: row.get(14)?,
        first_byte_seconds: row.get(15)?,
        seconds: row.get(16)?,
        bytes: row.get::<_, i64>(17)?.try_into().unwrap_or(0),
    })
}

//! Owns the tests that need the internals of the history's file: how it closes, and how it stays within its limits.

use std::sync::atomic::AtomicUsize;

use rusqlite::Connection;

use super::schema::DISPATCH_COLUMNS;
use super::select::find;
use super::writer::BATCH;
use super::*;
use crate::journal::history::query::QueryTimedOut;
use crate::journal::record::{DispatchRecord, unix_millis};
use crate::journal::tests::{delivered_elsewhere, dispatch, reply};

const MIB: u64 = 1024 * 1024;

fn entry(record: DispatchRecord) -> HistoryEntry {
    HistoryEntry::Dispatch(Arc::new(record))
}

fn dropped(metrics: &Metrics) -> String {
    let text = String::from_utf8(metrics.render((0, 0)).unwrap()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("pilotlight_history_dropped_total "));
    line.unwrap().to_owned()
}

#[test]
fn a_file_that_cannot_be_written_does_not_delay_closing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let metrics = Arc::new(Metrics::new().unwrap());
    let file = SqliteHistory::open(&path, Duration::from_secs(3600), MIB, metrics.clone()).unwrap();
    Connection::open(&path).unwrap().execute_batch("DROP TABLE dispatches").unwrap();
    // More than a batch: the command to close is queued behind one that fails.
    for number in 0..=BATCH {
        assert!(file.append(entry(dispatch(&format!("run_{number}"), unix_millis()))));
    }
    let (sender, closed) = sync_channel(1);
    std::thread::spawn(move || {
        file.close();
        sender.send(()).unwrap();
    });
    closed.recv_timeout(Duration::from_secs(20)).expect("the writer ends");
    assert_eq!(dropped(&metrics), (BATCH + 1).to_string());
}

#[test]
fn a_writer_that_has_stopped_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let file = SqliteHistory::open(&path, Duration::from_secs(3600), MIB, Arc::new(Metrics::new().unwrap()))
        .unwrap();
    assert!(!file.has_stopped());
    // The writer ends although `close` was not called.
    file.sender.send(WriterCommand::Close).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while !file.has_stopped() {
        assert!(Instant::now() < until, "the writer goes on");
        std::thread::yield_now();
    }
    file.close();
    assert!(!file.has_stopped(), "it was closed");
}

/// A writer without a thread.
fn writer(path: &Path, size: u64) -> Writer {
    Writer::open(path, Duration::from_secs(3600), size, Arc::new(Metrics::new().unwrap())).unwrap()
}

fn connection(writer: &Writer) -> &Connection {
    &writer.database.as_ref().unwrap().connection
}

/// Prunes by a clock that is right.
fn prune(writer: &mut Writer) {
    writer.prune(unix_millis(), Duration::ZERO, || false).unwrap();
}

fn pages(writer: &Writer) -> i64 {
    connection(writer).pragma_query_value(None, "page_count", |row| row.get(0)).unwrap()
}

#[test]
fn a_file_shrinks_when_its_rows_have_been_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let mut writer = writer(&path, 1024 * MIB);
    let mode: i64 = connection(&writer).pragma_query_value(None, "auto_vacuum", |row| row.get(0)).unwrap();
    assert_eq!(mode, 2, "incremental");
    let rows: Vec<_> = (0..2000).map(|number| entry(dispatch(&format!("run_{number}"), 1000))).collect();
    writer.try_write(&rows).unwrap();
    // The age is counted from the newest row.
    append(&mut writer, "run_new", unix_millis());
    let before = pages(&writer);
    prune(&mut writer);
    let after = pages(&writer);
    assert!(before > 50 && after < 10, "{before} pages, then {after}");
    let checkpoint = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
    connection(&writer).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], checkpoint).unwrap();
    assert!(path.metadata().unwrap().len() < 10 * 4096);
}

#[test]
fn a_small_history_that_grows_too_large_loses_few_rows() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = writer(&folder.path().join("history.db"), MIB);
    let mut number = 0_i64;
    while writer.database.as_ref().unwrap().bytes().unwrap() <= MIB {
        let batch = (0..BATCH).map(|_| {
            number += 1;
            // Names in random order, as real ones are.
            let name = format!("run_{:016x}", number.wrapping_mul(0x1e37_79b9_7f4a_7c15));
            entry(dispatch(&name, unix_millis()))
        });
        writer.try_write(&batch.collect::<Vec<_>>()).unwrap();
    }
    prune(&mut writer);
    let bytes = writer.database.as_ref().unwrap().bytes().unwrap();
    assert!((MIB * 9 / 10..=MIB).contains(&bytes), "{bytes} bytes remain of {number} rows");
    let (oldest, newest): (i64, i64) = connection(&writer)
        .query_row("SELECT min(id), max(id) FROM dispatches", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert!(oldest < newest / 5 && newest == number, "{oldest} to {newest} of {number}");
}

fn rows(path: &Path) -> Vec<String> {
    let query = HistoryQuery { limit: 1000, ..HistoryQuery::default() };
    find(path, &query, Instant::now() + QUERY_TIMEOUT).unwrap().into_iter().map(|row| row.run).collect()
}

fn append(writer: &mut Writer, run: &str, at: u64) {
    writer.ensure_current_file(&RwLock::new(())).unwrap();
    writer.try_write(&[entry(dispatch(run, at))]).unwrap();
}

fn reopened(writer: &Writer) -> bool {
    let text = String::from_utf8(writer.metrics.render((0, 0)).unwrap()).unwrap();
    !text.contains("pilotlight_history_reopened_total 0\n")
}

#[test]
fn a_file_that_was_moved_is_complete_and_a_new_one_is_created() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("history.db"), folder.path().join("moved.db"));
    let mut writer = writer(&path, 1024 * MIB);
    append(&mut writer, "run_1", unix_millis());
    append(&mut writer, "run_2", unix_millis());
    assert!(!reopened(&writer));
    std::fs::rename(&path, &moved).unwrap();
    append(&mut writer, "run_3", unix_millis());
    assert!(reopened(&writer));
    assert_eq!(rows(&path), ["run_3"]);
    assert_eq!(rows(&moved), ["run_2", "run_1"]);
}

#[test]
fn whatever_happens_to_its_files_every_row_can_be_read() {
    type Act = fn(&Path);
    fn remove(path: &Path, suffixes: &[&str]) {
        for suffix in suffixes {
            std::fs::remove_file(path::with_suffix(path, suffix)).unwrap();
        }
    }
    let acts: [(&str, Act, &[&str]); 7] = [
        ("deleted", |path| remove(path, &[""]), &["run_2"]),
        ("deleted with its log", |path| remove(path, &["", "-wal", "-shm"]), &["run_2"]),
        ("the log deleted", |path| remove(path, &["-wal"]), &["run_2", "run_1"]),
        ("log and index deleted", |path| remove(path, &["-wal", "-shm"]), &["run_2", "run_1"]),
        ("the index deleted", |path| remove(path, &["-shm"]), &["run_2", "run_1"]),
        (
            "replaced by another history",
            |path| {
                let other = path.with_extension("other");
                let mut writer = writer(&other, 1024 * MIB);
                append(&mut writer, "run_0", unix_millis());
                drop(writer);
                std::fs::rename(other, path).unwrap();
            },
            &["run_2", "run_0"],
        ),
        (
            "its folder moved, and created again",
            |path| {
                let folder = path.parent().unwrap();
                std::fs::rename(folder, folder.with_extension("moved")).unwrap();
                std::fs::create_dir(folder).unwrap();
            },
            &["run_2"],
        ),
    ];
    for (what, act, remaining) in acts {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inner/history.db");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let mut writer = writer(&path, 1024 * MIB);
        append(&mut writer, "run_1", unix_millis());
        act(&path);
        append(&mut writer, "run_2", unix_millis());
        assert!(reopened(&writer), "{what}");
        assert_eq!(rows(&path), remaining, "{what}");
        drop(writer);
        assert_eq!(rows(&path), remaining, "{what}");
    }
}

#[test]
fn a_file_that_was_emptied_or_whose_folder_is_gone_is_created_again_once_that_is_possible() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    let path = inner.join("history.db");
    std::fs::create_dir(&inner).unwrap();
    let metrics = Arc::new(Metrics::new().unwrap());
    let file = SqliteHistory::open(&path, Duration::from_secs(3600), 1024 * MIB, metrics.clone()).unwrap();
    let wait_for = |run: &str| {
        let until = Instant::now() + Duration::from_secs(30);
        let query = HistoryQuery { run: Some(run.to_owned()), limit: 1, ..HistoryQuery::default() };
        while file.find(&query).is_ok_and(|rows| rows.is_empty()) || file.find(&query).is_err() {
            assert!(Instant::now() < until, "{run} is not in the history");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    assert!(file.append(entry(dispatch("run_1", unix_millis()))));
    wait_for("run_1");
    std::fs::remove_dir_all(&inner).unwrap();
    assert!(file.append(entry(dispatch("run_2", unix_millis()))));
    assert!(file.find(&HistoryQuery { limit: 1, ..HistoryQuery::default() }).is_err(), "there is no file");
    std::fs::create_dir(&inner).unwrap();
    wait_for("run_2");
    std::fs::write(&path, "").unwrap();
    assert!(file.append(entry(dispatch("run_3", unix_millis()))));
    wait_for("run_3");
    file.close();
    assert_eq!(dropped(&metrics), "0");
}

#[test]
fn a_row_with_a_wrong_time_expires_no_other_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let mut writer = writer(&path, 1024 * MIB);
    let (hour, now) = (3_600_000, unix_millis());
    // In the order of writing: two that are old, a recent one, one dated a day ahead, one dated 1970, and one of now.
    for (run, at) in [
        ("run_1", now - 3 * hour),
        ("run_2", now - 2 * hour),
        ("run_3", now - hour / 2),
        ("run_4", now + 24 * hour),
        ("run_5", 1000),
        ("run_6", now),
    ] {
        append(&mut writer, run, at);
    }
    // By uptime, the file was opened ten minutes ago, so the wall clock is trusted.
    writer.prune(now, Duration::from_secs(600), || false).unwrap();
    assert_eq!(rows(&path), ["run_6", "run_5", "run_4", "run_3"]);
    writer.prune(now + 2 * hour, Duration::from_secs(7800), || false).unwrap();
    assert_eq!(rows(&path), ["run_6", "run_5", "run_4", "run_3"], "the age is counted from the newest row");
}

#[test]
fn a_query_that_no_row_matches_times_out_and_an_indexed_one_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let writer = writer(&path, 1024 * MIB);
    connection(&writer)
        .execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
             INSERT INTO dispatches ({DISPATCH_COLUMNS})
             SELECT i, 'run_' || i, 'd', 'v', 1, 1, 'miss', NULL, NULL, 0, NULL, 0, NULL FROM n"
        ))
        .unwrap();
    let deadline = Instant::now();
    let ask = |query: &HistoryQuery| find(&path, query, deadline);
    for query in [
        HistoryQuery { deployment: Some("nobody".to_owned()), limit: 1, ..HistoryQuery::default() },
        HistoryQuery { outcome: Some("hit".to_owned()), since: Some(7), limit: 1, ..HistoryQuery::default() },
    ] {
        assert!(ask(&query).unwrap_err().is::<QueryTimedOut>(), "{query:?}");
    }
    for query in [
        HistoryQuery {
            run: Some("run_700".to_owned()),
            deployment: Some("d".to_owned()),
            limit: 1,
            ..HistoryQuery::default()
        },
        HistoryQuery { limit: 1, ..HistoryQuery::default() },
        HistoryQuery { outcome: Some("miss".to_owned()), limit: 1, ..HistoryQuery::default() },
    ] {
        assert_eq!(ask(&query).unwrap().len(), 1, "{query:?}");
    }
}

/// A file as the first brokers made it, with one row.
fn create_first_layout(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE dispatches (
                id INTEGER PRIMARY KEY, at INTEGER NOT NULL, run TEXT NOT NULL, deployment TEXT NOT NULL,
                version TEXT NOT NULL, cpu REAL NOT NULL, memory REAL NOT NULL, outcome TEXT NOT NULL, reason TEXT,
                proof TEXT, offers INTEGER NOT NULL, controller TEXT, seconds REAL NOT NULL) STRICT;
             CREATE INDEX dispatches_run ON dispatches (run);
             CREATE INDEX dispatches_at ON dispatches (at);
             PRAGMA user_version = 1;",
        )
        .unwrap();
    connection
}

#[test]
fn a_file_of_an_older_broker_gets_the_new_columns_and_the_older_broker_still_writes_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let older = create_first_layout(&path);
    let now = i64::try_from(unix_millis()).unwrap();
    let mut insert = older
        .prepare(
            "INSERT INTO dispatches (at, run, deployment, version, cpu, memory, outcome, reason, proof, offers,
             controller, seconds) VALUES (?, ?, 'd', 'v', 1, 1, 'hit', NULL, 'received', 1, 'one', 0.1)",
        )
        .unwrap();
    insert.execute((now, "run_1")).unwrap();
    preflight(&path).unwrap();
    let columns =
        |connection: &Connection| connection.prepare("SELECT * FROM dispatches").unwrap().column_count();
    assert_eq!(columns(&older), 13, "a check changes nothing");

    let mut newer = writer(&path, 1024 * MIB);
    let replied = HistoryEntry::Reply(Arc::new(reply("run_2", 7)));
    newer.try_write(&[entry(delivered_elsewhere("run_2", "b2:7070")), replied]).unwrap();
    insert.execute((now, "run_3")).unwrap();
    drop(newer);
    let newer = writer(&path, 1024 * MIB);
    assert_eq!(columns(connection(&newer)), 13 + 6, "opened again, it gets no further column");
    preflight(&path).unwrap();
    let query = HistoryQuery { limit: 10, ..HistoryQuery::default() };
    let rows = find(&path, &query, Instant::now() + QUERY_TIMEOUT).unwrap();
    let shown = rows
        .iter()
        .map(|row| (&*row.run, row.broker.as_deref(), row.reply.as_ref().map(|reply| reply.bytes)));
    let shown: Vec<_> = shown.collect();
    assert_eq!(shown, [("run_3", None, None), ("run_2", Some("b2:7070"), Some(7)), ("run_1", None, None)]);
}

#[test]
fn a_file_that_lacks_some_of_the_later_columns_gets_those() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let older = create_first_layout(&path);
    older.execute_batch("ALTER TABLE dispatches ADD COLUMN broker TEXT").unwrap();
    let mut newer = writer(&path, 1024 * MIB);
    let replied = HistoryEntry::Reply(Arc::new(reply("run_1", 7)));
    newer.try_write(&[entry(delivered_elsewhere("run_1", "b2:7070")), replied]).unwrap();
    let query = HistoryQuery { limit: 10, ..HistoryQuery::default() };
    let rows = find(&path, &query, Instant::now() + QUERY_TIMEOUT).unwrap();
    assert_eq!(rows[0].broker.as_deref(), Some("b2:7070"));
    assert_eq!(rows[0].reply.as_ref().map(|reply| &*reply.outcome), Some("replied"));
}

#[test]
fn a_reply_is_found_at_once_however_often_its_run_was_posted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let mut writer = writer(&path, 1024 * MIB);
    connection(&writer)
        .execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)
             INSERT INTO dispatches ({DISPATCH_COLUMNS})
             SELECT i, 'run_1', 'd', 'v', 1, 1, 'miss', NULL, NULL, 0, NULL, 0, NULL FROM n"
        ))
        .unwrap();
    // Every instruction of SQLite's virtual machine counts, not the time.
    let steps = Arc::new(AtomicUsize::new(0));
    let counted = steps.clone();
    let count = move || counted.fetch_add(1, Ordering::Relaxed) == usize::MAX;
    writer.database.as_mut().unwrap().connection.progress_handler(1, Some(count)).unwrap();
    writer.try_write(&[HistoryEntry::Reply(Arc::new(reply("run_1", 7)))]).unwrap();
    let steps = steps.load(Ordering::Relaxed);
    assert!((100..5_000).contains(&steps), "{steps} instructions");
}

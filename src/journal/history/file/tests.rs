//! Owns the file's promises that need its inside: how it ends, and how it stays within its bounds.

use super::*;
use crate::journal::tests::dispatch;

const MIB: u64 = 1024 * 1024;

fn dropped(metrics: &Metrics) -> String {
    let text = String::from_utf8(metrics.render((0, 0)).unwrap()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("pilotlight_history_dropped_total "));
    line.unwrap().to_owned()
}

#[test]
fn a_file_that_cannot_be_written_does_not_hold_up_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let metrics = Arc::new(Metrics::new().unwrap());
    let file = File::open(&path, Duration::from_secs(3600), MIB, metrics.clone()).unwrap();
    Connection::open(&path).unwrap().execute_batch("DROP TABLE dispatches").unwrap();
    // More than a batch: the order to end stands behind one that fails.
    for number in 0..=BATCH {
        assert!(file.keep(Arc::new(dispatch(&format!("run_{number}"), event::now()))));
    }
    let (ended, end) = sync_channel(1);
    std::thread::spawn(move || {
        file.close();
        ended.send(()).unwrap();
    });
    end.recv_timeout(Duration::from_secs(20)).expect("the end of the writer");
    assert_eq!(dropped(&metrics), (BATCH + 1).to_string());
}

#[test]
fn a_writer_that_ends_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let file = File::open(&path, Duration::from_secs(3600), MIB, Arc::new(Metrics::new().unwrap())).unwrap();
    assert!(!file.has_ended());
    // As if it had come to its end by itself.
    file.sender.send(Order::End).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while !file.has_ended() {
        assert!(Instant::now() < until, "it goes on");
        std::thread::yield_now();
    }
    file.close();
    assert!(!file.has_ended(), "it was closed");
}

/// A writer without its thread.
fn writer(path: &Path, size: u64) -> Writer {
    let connection = Connection::open(path).unwrap();
    prepare(&connection).unwrap();
    let metrics = Arc::new(Metrics::new().unwrap());
    let orders = sync_channel(1).1;
    Writer {
        connection,
        orders,
        age: Duration::from_secs(3600),
        size,
        metrics,
        shed: Instant::now(),
        ending: Arc::default(),
        gave_up: false,
    }
}

fn pages(writer: &Writer) -> i64 {
    writer.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap()
}

#[test]
fn a_file_shrinks_when_its_rows_have_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let mut writer = writer(&path, 1024 * MIB);
    let mode: i64 = writer.connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0)).unwrap();
    assert_eq!(mode, 2, "incremental");
    let rows: Vec<_> = (0..2000).map(|number| Arc::new(dispatch(&format!("run_{number}"), 1000))).collect();
    writer.try_write(&rows).unwrap();
    let before = pages(&writer);
    writer.shed().unwrap();
    let after = pages(&writer);
    assert!(before > 50 && after < 10, "{before} pages, then {after}");
    let checkpoint = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
    writer.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], checkpoint).unwrap();
    assert!(path.metadata().unwrap().len() < 10 * 4096);
}

#[test]
fn a_small_history_that_grows_too_large_loses_few_rows() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = writer(&folder.path().join("history.db"), MIB);
    let mut number = 0_i64;
    while writer.bytes().unwrap() <= MIB {
        let batch = (0..BATCH).map(|_| {
            number += 1;
            // Names in no order, as real ones are.
            let name = format!("run_{:016x}", number.wrapping_mul(0x1e37_79b9_7f4a_7c15));
            Arc::new(dispatch(&name, event::now()))
        });
        writer.try_write(&batch.collect::<Vec<_>>()).unwrap();
    }
    writer.shed().unwrap();
    let bytes = writer.bytes().unwrap();
    assert!((MIB * 9 / 10..=MIB).contains(&bytes), "{bytes} bytes stay of {number} rows");
    let (oldest, newest): (i64, i64) = writer
        .connection
        .query_row("SELECT min(id), max(id) FROM dispatches", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert!(oldest < newest / 5 && newest == number, "{oldest} to {newest} of {number}");
}

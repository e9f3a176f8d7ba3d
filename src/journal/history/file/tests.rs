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

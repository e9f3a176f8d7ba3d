//! Owns the tests of the event log and of its index of topics.

use super::*;
use crate::journal::ring::CAPACITY;

#[test]
fn a_subscriber_that_lags_reads_nothing_more() {
    let log = Arc::new(EventLog::new());
    let reader = EventLog::subscribe(&log, None, EventKinds::all().into()).unwrap();
    let entry = |waiters| LogEntry::Drain(Arc::new(DrainEvent { at: 0, waiters }));
    log.add((0..=CAPACITY).map(entry).collect(), 0);
    // The entries in the log are later ones: they would be sent under the numbers of those that were dropped.
    assert!(reader.read().is_none());
    assert!(reader.cursor.has_lagged.load(Ordering::Relaxed));
    // A subscriber that resumes after the last number that it read is notified of what it missed.
    let last = format!("{}-0", epoch());
    let EventBatch(again) =
        EventLog::subscribe(&log, Some(&last), EventKinds::all().into()).unwrap().read().unwrap();
    let expected = format!("event: missed\ndata: {{\"missed\":1}}\n\nid: {}-2\n", epoch());
    assert!(std::str::from_utf8(&again).unwrap().starts_with(&expected), "{again:?}");
}

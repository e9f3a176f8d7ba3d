//! Owns the journal's promises that need its inside: what readers miss and do not miss.

use std::time::Instant;

use super::*;
use crate::metrics::DispatchOutcome;

const PATIENCE: Duration = Duration::from_secs(20);

/// A run's POST that nobody waited for.
pub(super) fn dispatch(run: &str, at: u64) -> DispatchRecord {
    DispatchRecord {
        at,
        names: Arc::new(PackedStrs::new([run, "d1", "20260821.3"])),
        cpu: 0.5,
        memory: 0.5,
        outcome: DispatchOutcome::Aborted,
        proof: None,
        offers: Vec::new(),
        took: Duration::from_millis(1),
        trace: None,
    }
}

/// Tells of a dispatch and waits until the journal has taken it.
async fn tell(journal: &Journal, run: &str) {
    journal.record(Event::Dispatch(Arc::new(dispatch(run, unix_millis()))));
    let query = HistoryQuery { run: Some(run.to_owned()), limit: 1, ..HistoryQuery::default() };
    let until = Instant::now() + PATIENCE;
    while journal.find(&query).unwrap().is_empty() {
        assert!(Instant::now() < until, "{run} is not in the history");
        tokio::task::yield_now().await;
    }
}

async fn next(reader: &EventReader) -> String {
    let EventBatch(bytes) = tokio::time::timeout(PATIENCE, reader.next()).await.expect("a batch");
    String::from_utf8(bytes.into()).unwrap()
}

fn dispatches() -> Kinds {
    [Kind::Dispatch].into_iter().collect()
}

#[tokio::test]
async fn a_reader_that_comes_back_misses_nothing_while_another_reads_other_kinds() {
    let journal = Journal::open(&JournalConfig::default(), Arc::new(Metrics::new().unwrap())).unwrap();
    let _other = journal.subscribe(None, [Kind::Drain].into_iter().collect()).unwrap();
    let reader = journal.subscribe(None, dispatches()).unwrap();
    tell(&journal, "run_1").await;
    let first = next(&reader).await;
    drop(reader);
    tell(&journal, "run_2").await;
    let id = first.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    let again = next(&journal.subscribe(Some(id), dispatches()).unwrap()).await;
    assert!(again.contains("\"run_2\""), "{again}");
    journal.close();
}

#[tokio::test]
async fn a_reader_that_comes_back_is_told_at_once_what_nobody_read() {
    let journal = Journal::open(&JournalConfig::default(), Arc::new(Metrics::new().unwrap())).unwrap();
    // The second is taken only when the journal is done with the first.
    tell(&journal, "run_1").await;
    tell(&journal, "run_2").await;
    let again = next(&journal.subscribe(Some(&format!("{}-0", epoch())), dispatches()).unwrap()).await;
    assert!(again.starts_with("event: missed\n"), "{again}");
    journal.close();
}

#[test]
fn a_thread_that_ends_is_named() {
    let journal = Journal::open(&JournalConfig::default(), Arc::new(Metrics::new().unwrap())).unwrap();
    assert_eq!(journal.stopped_thread(), None);
    // As if it had come to its end by itself.
    journal.sender.send(Event::Close).unwrap();
    let until = Instant::now() + PATIENCE;
    while journal.stopped_thread() != Some("journal") {
        assert!(Instant::now() < until, "it goes on");
        std::thread::yield_now();
    }
    journal.close();
    assert_eq!(journal.stopped_thread(), None, "it was closed");
}

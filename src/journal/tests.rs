//! Owns the journal's promises that need its inside: what readers miss and do not miss.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::metrics::DispatchOutcome;

/// A run's POST that nobody waited for.
pub(super) fn dispatch(run: &str, at: u64) -> Dispatch {
    Dispatch {
        at,
        names: Arc::new(Names::new([run, "d1", "20260821.3"])),
        cpu: 0.5,
        memory: 0.5,
        outcome: DispatchOutcome::Aborted,
        proof: None,
        attempts: Vec::new(),
        took: Duration::from_millis(1),
        trace: None,
    }
}

#[tokio::test]
async fn a_reader_that_comes_back_misses_nothing_while_another_reads_other_kinds() {
    let journal = Journal::open(&Plan::default(), Arc::new(Metrics::new().unwrap())).unwrap();
    let tell = async |run: &str| {
        journal.tell(Event::Dispatch(Box::new(dispatch(run, now()))));
        let query = Query { run: Some(run.to_owned()), limit: 1, ..Query::default() };
        let until = Instant::now() + Duration::from_secs(20);
        while journal.find(&query).unwrap().is_empty() {
            assert!(Instant::now() < until, "{run} is not in the history");
            tokio::task::yield_now().await;
        }
    };
    let dispatches = || [Kind::Dispatch].into_iter().collect();
    let _other = journal.read(None, [Kind::Drain].into_iter().collect()).unwrap();
    let reader = journal.read(None, dispatches()).unwrap();
    tell("run_1").await;
    let Batch(first) = reader.next().await;
    drop(reader);
    tell("run_2").await;
    let id = std::str::from_utf8(&first).unwrap().lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    let again = journal.read(Some(id), dispatches()).unwrap();
    let Batch(next) = tokio::time::timeout(Duration::from_secs(20), again.next()).await.expect("run_2");
    assert!(std::str::from_utf8(&next).unwrap().contains("\"run_2\""), "{next:?}");
    journal.close();
}

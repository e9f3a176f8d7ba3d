//! Owns the test of what recording a dispatch allocates.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use allocation_counter::measure;
use pilotlight::journal::{DispatchEvent, EventRun, HistoryQuery, Journal, JournalConfig, OfferEvent};
use pilotlight::metrics::Metrics;
use pilotlight::model::{DispatchOutcome, Proof, Verdict};

#[test]
fn recording_a_dispatch_allocates_only_the_first_time() {
    let journal = Journal::open(&JournalConfig::default(), Arc::new(Metrics::new().unwrap())).unwrap();
    let offer = OfferEvent {
        controller: "warm-7f9c6d5b8-x2k4q",
        broker: None,
        verdict: Verdict::Written,
        since: Duration::from_micros(40),
        took: Duration::from_micros(20),
    };
    let record = |run: &str| {
        let dispatch = DispatchEvent {
            ended: Instant::now(),
            run: EventRun {
                name: run.as_bytes(),
                deployment: b"deployment_cm1a2b3c4d5e6f7g8h",
                version: b"20260821.3",
                cpu: 0.5,
                memory: 0.5,
                trace: None,
            },
            outcome: DispatchOutcome::Hit,
            proof: Some(Proof::Written),
            took: Duration::from_micros(70),
        };
        journal.record_dispatch(&dispatch, [offer].into_iter());
    };
    let allocations = |count: usize| {
        let counted = measure(|| (0..count).for_each(|_| record("run_cm1a2b3c4d5e6f7g8h9i0j1k2")));
        counted.count_total
    };
    assert!(allocations(1) > 0, "the thread's queue");
    assert_eq!(allocations(1_000), 0);
    // They were recorded, not dropped.
    journal.close();
    let query = HistoryQuery { limit: 2_000, ..HistoryQuery::default() };
    assert_eq!(journal.find(&query).unwrap().len(), 1_001);
}

//! Owns the ledger: the answers to POSTs, compared with what controllers received.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Every run that was posted, to one of so many brokers.
pub(super) struct Ledger {
    brokers: usize,
    entries: Mutex<HashMap<String, Entry>>,
}

#[derive(Default)]
struct Entry {
    /// None while there is no answer.
    answer: Option<Answer>,
    receipts: u32,
    /// The broker, by number, at which the controller waited that received it.
    received_at: Option<usize>,
}

#[derive(Clone, Copy)]
struct Answer {
    /// The broker, by number, that the run was posted to.
    posted_to: usize,
    is_hit: bool,
    took: Duration,
}

/// The ledger's totals.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) runs: usize,
    pub(super) hits: usize,
    /// Hits whose controller waited at another broker; none if there is one broker.
    pub(super) forwarded: Option<usize>,
    /// Runs that were answered `true`, and that no controller received.
    pub(super) lost: usize,
    /// Runs that were received twice, or received although they were answered `false`.
    pub(super) duplicates: usize,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

impl Ledger {
    pub(super) fn new(brokers: usize) -> Self {
        Self { brokers, entries: Mutex::default() }
    }

    pub(super) fn answered(&self, run: &str, posted_to: usize, is_hit: bool, took: Duration) {
        let answer = Answer { posted_to, is_hit, took };
        self.entries.lock().entry(run.to_owned()).or_default().answer = Some(answer);
    }

    pub(super) fn received(&self, run: &str, broker: usize) {
        let mut entries = self.entries.lock();
        let entry = entries.entry(run.to_owned()).or_default();
        entry.receipts += 1;
        entry.received_at = Some(broker);
    }

    /// Waits until every run that was answered `true` was received, but not longer than `timeout`.
    pub(super) async fn wait_for_receipts(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        while self.summary().lost > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) fn summary(&self) -> Summary {
        let entries = self.entries.lock();
        let mut summary = Summary { runs: entries.len(), ..Summary::default() };
        let mut took: Vec<Duration> = Vec::with_capacity(entries.len());
        let mut forwarded = 0;
        for Entry { answer, receipts, received_at } in entries.values() {
            let hit = answer.filter(|answer| answer.is_hit);
            took.extend(answer.map(|answer| answer.took));
            summary.hits += usize::from(hit.is_some());
            summary.lost += usize::from(hit.is_some() && *receipts == 0);
            summary.duplicates += usize::from(*receipts > u32::from(hit.is_some() || answer.is_none()));
            forwarded += usize::from(
                hit.zip(*received_at).is_some_and(|(hit, received_at)| hit.posted_to != received_at),
            );
        }
        summary.forwarded = (self.brokers > 1).then_some(forwarded);
        took.sort_unstable();
        summary.p50 = percentile(&took, 50);
        summary.p99 = percentile(&took, 99);
        summary
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).copied().unwrap_or_default()
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, hits, lost, p50, p99, .. } = self;
        write!(f, "runs {runs}   hits {hits}")?;
        if let Some(forwarded) = self.forwarded {
            write!(f, " ({forwarded} through another broker)")?;
        }
        write!(f, "   p50 {} µs   p99 {} µs   lost {lost}", p50.as_micros(), p99.as_micros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_true_without_a_receipt_is_lost() {
        let ledger = Ledger::new(1);
        ledger.answered("a", 0, true, Duration::ZERO);
        ledger.answered("b", 0, false, Duration::ZERO);
        ledger.answered("c", 0, true, Duration::ZERO);
        ledger.received("c", 0);
        let summary = ledger.summary();
        assert_eq!((summary.runs, summary.hits, summary.lost, summary.duplicates), (3, 2, 1, 0));
    }

    #[test]
    fn a_second_receipt_and_one_after_a_false_are_duplicates() {
        let ledger = Ledger::new(1);
        ledger.answered("a", 0, true, Duration::ZERO);
        ledger.received("a", 0);
        ledger.received("a", 0);
        ledger.answered("b", 0, false, Duration::ZERO);
        ledger.received("b", 0);
        assert_eq!(ledger.summary().duplicates, 2);
    }

    #[test]
    fn a_hit_is_forwarded_if_its_controller_waited_at_another_broker() {
        let ledger = Ledger::new(3);
        for (run, posted_to, is_hit, received_at) in
            [("a", 0, true, Some(1)), ("b", 1, true, Some(1)), ("c", 2, false, Some(0)), ("d", 2, true, None)]
        {
            ledger.answered(run, posted_to, is_hit, Duration::ZERO);
            if let Some(broker) = received_at {
                ledger.received(run, broker);
            }
        }
        let summary = ledger.summary();
        assert_eq!((summary.hits, summary.forwarded), (3, Some(1)));
        assert!(
            summary.to_string().starts_with("runs 4   hits 3 (1 through another broker)   p50"),
            "{summary}"
        );
        assert_eq!(Ledger::new(1).summary().forwarded, None);
    }

    #[test]
    fn percentiles_are_ranks() {
        let millis: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&millis, 50), Duration::from_millis(50));
        assert_eq!(percentile(&millis, 99), Duration::from_millis(99));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}

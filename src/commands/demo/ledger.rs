//! Owns the ledger: the answers to POSTs, compared with what controllers received.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Every run that was posted.
#[derive(Default)]
pub(super) struct Ledger(Mutex<HashMap<String, Entry>>);

#[derive(Default)]
struct Entry {
    /// Whether the POST was answered with a hit, and how long the answer took; none while there is no answer.
    answer: Option<(bool, Duration)>,
    receipts: u32,
}

/// The ledger's totals.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) runs: usize,
    pub(super) hits: usize,
    /// Runs that were answered `true`, and that no controller received.
    pub(super) lost: usize,
    /// Runs that were received twice, or received although they were answered `false`.
    pub(super) duplicates: usize,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

impl Ledger {
    pub(super) fn answered(&self, run: &str, hit: bool, took: Duration) {
        self.0.lock().entry(run.to_owned()).or_default().answer = Some((hit, took));
    }

    pub(super) fn received(&self, run: &str) {
        self.0.lock().entry(run.to_owned()).or_default().receipts += 1;
    }

    /// Waits until every run that was answered `true` was received, but not longer than `timeout`.
    pub(super) async fn wait_for_receipts(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        while self.summary().lost > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) fn summary(&self) -> Summary {
        let entries = self.0.lock();
        let mut summary = Summary { runs: entries.len(), ..Summary::default() };
        let mut took: Vec<Duration> = Vec::with_capacity(entries.len());
        for Entry { answer, receipts } in entries.values() {
            let hit = answer.is_some_and(|(hit, _)| hit);
            took.extend(answer.map(|(_, took)| took));
            summary.hits += usize::from(hit);
            summary.lost += usize::from(hit && *receipts == 0);
            summary.duplicates += usize::from(*receipts > u32::from(hit || answer.is_none()));
        }
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
        write!(
            f,
            "runs {runs}   hits {hits}   p50 {} µs   p99 {} µs   lost {lost}",
            p50.as_micros(),
            p99.as_micros()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_true_without_a_receipt_is_lost() {
        let ledger = Ledger::default();
        ledger.answered("a", true, Duration::ZERO);
        ledger.answered("b", false, Duration::ZERO);
        ledger.answered("c", true, Duration::ZERO);
        ledger.received("c");
        let summary = ledger.summary();
        assert_eq!((summary.runs, summary.hits, summary.lost, summary.duplicates), (3, 2, 1, 0));
    }

    #[test]
    fn a_second_receipt_and_one_after_a_false_are_duplicates() {
        let ledger = Ledger::default();
        ledger.answered("a", true, Duration::ZERO);
        ledger.received("a");
        ledger.received("a");
        ledger.answered("b", false, Duration::ZERO);
        ledger.received("b");
        assert_eq!(ledger.summary().duplicates, 2);
    }

    #[test]
    fn percentiles_are_ranks() {
        let millis: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&millis, 50), Duration::from_millis(50));
        assert_eq!(percentile(&millis, 99), Duration::from_millis(99));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}

//! Owns the ledger: what supervisors were told against what controllers received.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Every run that was posted.
#[derive(Default)]
pub(super) struct Ledger(Mutex<HashMap<String, Entry>>);

#[derive(Default)]
struct Entry {
    /// What the POST said, once it was answered, and how long that took.
    answer: Option<(bool, Duration)>,
    receipts: u32,
}

/// The ledger in figures.
#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) runs: usize,
    pub(super) hits: usize,
    /// Runs answered `true` that nobody received.
    pub(super) lost: usize,
    /// Runs that were received twice, or received and answered `false`.
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

    /// Waits until every `true` has its receipt, at most so long.
    pub(super) async fn settled(&self, most: Duration) {
        let until = Instant::now() + most;
        while self.sum().lost > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) fn sum(&self) -> Sum {
        let entries = self.0.lock();
        let mut sum = Sum { runs: entries.len(), ..Sum::default() };
        let mut took: Vec<Duration> = Vec::with_capacity(entries.len());
        for Entry { answer, receipts } in entries.values() {
            let hit = answer.is_some_and(|(hit, _)| hit);
            took.extend(answer.map(|(_, took)| took));
            sum.hits += usize::from(hit);
            sum.lost += usize::from(hit && *receipts == 0);
            sum.duplicates += usize::from(*receipts > u32::from(hit || answer.is_none()));
        }
        took.sort_unstable();
        sum.p50 = percentile(&took, 50);
        sum.p99 = percentile(&took, 99);
        sum
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).copied().unwrap_or_default()
}

impl fmt::Display for Sum {
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
        let sum = ledger.sum();
        assert_eq!((sum.runs, sum.hits, sum.lost, sum.duplicates), (3, 2, 1, 0));
    }

    #[test]
    fn a_second_receipt_and_one_after_a_false_are_duplicates() {
        let ledger = Ledger::default();
        ledger.answered("a", true, Duration::ZERO);
        ledger.received("a");
        ledger.received("a");
        ledger.answered("b", false, Duration::ZERO);
        ledger.received("b");
        assert_eq!(ledger.sum().duplicates, 2);
    }

    #[test]
    fn percentiles_are_ranks() {
        let millis: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&millis, 50), Duration::from_millis(50));
        assert_eq!(percentile(&millis, 99), Duration::from_millis(99));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}

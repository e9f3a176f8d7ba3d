//! Owns how a transfer gets on: when the peer last took something, and whether it is fast enough to end in time.

use std::time::{Duration, Instant};

/// The speed is that of so long a time, or of the time since something was last taken, if that is longer.
const WINDOW: Duration = Duration::from_millis(200);

/// The progress of one transfer.
#[derive(Debug)]
pub(super) struct Pace {
    taken: usize,
    /// When something was last taken; before that, when the transfer began.
    since: Instant,
    window: Instant,
    taken_at_window: usize,
    /// Bytes a second in the window before this one.
    before: Option<f64>,
}

impl Pace {
    /// A transfer begins.
    pub(super) fn new(now: Instant) -> Self {
        Self { taken: 0, since: now, window: now, taken_at_window: 0, before: None }
    }

    /// Takes into account that the peer has taken so many bytes in all.
    pub(super) fn observe(&mut self, taken: usize, now: Instant) {
        if taken > self.taken {
            (self.taken, self.since) = (taken, now);
        }
    }

    /// Whether anything was taken.
    pub(super) fn has_begun(&self) -> bool {
        self.taken > 0
    }

    /// When the peer last took anything.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Whether, at the present speed, the rest will not be taken by then. Silence is no speed, and neither is one that
    /// still grows: a connection begins slowly. The better of two windows counts, because one may hold a pause alone.
    pub(super) fn is_too_slow(&mut self, rest: usize, now: Instant, by: Instant) -> bool {
        if now < self.window + WINDOW || self.taken == self.taken_at_window {
            return false;
        }
        let elapsed = now - self.window;
        let speed = as_f64(self.taken - self.taken_at_window) / elapsed.as_secs_f64();
        let before = self.before.replace(speed);
        (self.window, self.taken_at_window) = (now, self.taken);
        let Some(before) = before.filter(|before| speed <= before * 1.5) else { return false };
        as_f64(rest) / speed.max(before) > by.saturating_duration_since(now).as_secs_f64()
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes of one run, far below 2^52")]
fn as_f64(bytes: usize) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The millisecond at which a transfer of `whole` bytes is given up, if `taken` says what was taken by when.
    fn given_up(whole: usize, budget: u64, taken: impl Fn(u64) -> usize) -> Option<u64> {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::new(start);
        (1..budget).find(|&now| {
            let taken = taken(now).min(whole);
            pace.observe(taken, at(now));
            pace.is_too_slow(whole - taken, at(now), at(budget))
        })
    }

    fn bytes(millis: u64, a_second: u64) -> usize {
        usize::try_from(millis * a_second / 1000).unwrap()
    }

    #[test]
    fn what_fits_into_the_budget_is_never_too_slow() {
        assert_eq!(given_up(1_500_000, 2000, |at| bytes(at, 1_000_000)), None);
        assert_eq!(given_up(1_500_000, 10_000, |at| bytes(at, 200_000)), None);
    }

    #[test]
    fn what_does_not_fit_is_given_up_as_soon_as_that_is_known() {
        assert_eq!(given_up(1_500_000, 1250, |at| bytes(at, 1_000_000)), Some(400));
        assert_eq!(given_up(2000, 60_000, |at| bytes(at, 5)), Some(400));
    }

    #[test]
    fn a_byte_now_and_then_is_no_way_to_hold_on() {
        let once_in_400 = |at: u64| 1 + usize::try_from(at / 400).unwrap();
        assert!(given_up(2000, 60_000, once_in_400).is_some_and(|at| at < 1000));
    }

    #[test]
    fn a_connection_that_begins_slowly_may_become_fast() {
        let doubling = |at: u64| 10_000 << (at / 100).min(12);
        assert_eq!(given_up(1_500_000, 2000, doubling), None);
    }

    #[test]
    fn a_worker_that_reads_in_bursts_is_not_slow_after_a_pause() {
        // 500 KB at 2 MB/s, then 400 ms of nothing.
        let bursts = |at: u64| bytes(at / 650 * 250 + (at % 650).min(250), 2_000_000);
        assert_eq!(given_up(3_000_000, 10_000, bursts), None);
    }

    #[test]
    fn one_that_becomes_slow_is_noticed() {
        let stalls = |at: u64| if at < 1000 { bytes(at, 500_000) } else { 500_000 + bytes(at - 1000, 1000) };
        assert!(given_up(1_500_000, 10_000, stalls).is_some_and(|at| (1200..1700).contains(&at)));
    }
}

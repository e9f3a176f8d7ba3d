//! Owns the throughput of one transfer: when the peer last took bytes, and whether the rest fits into the time that is left.

use std::time::{Duration, Instant};

/// The rate is measured over windows of this length, or longer if nothing was taken within it.
const WINDOW: Duration = Duration::from_millis(200);
/// A rate that has grown by more than this from one window to the next still grows: TCP starts slowly.
const STILL_GROWING: f64 = 1.5;

/// The progress and rate of one transfer.
#[derive(Debug)]
pub(super) struct Throughput {
    taken: usize,
    /// When the peer last took bytes; before it has taken any, when the transfer began.
    last_progress: Instant,
    window_start: Instant,
    taken_before_window: usize,
    /// The rate in the window before this one, in bytes per second.
    previous_rate: Option<f64>,
}

impl Throughput {
    /// A transfer begins.
    pub(super) fn new(now: Instant) -> Self {
        Self { taken: 0, last_progress: now, window_start: now, taken_before_window: 0, previous_rate: None }
    }

    /// The peer has taken this many bytes in total.
    pub(super) fn update(&mut self, taken: usize, now: Instant) {
        if taken > self.taken {
            (self.taken, self.last_progress) = (taken, now);
        }
    }

    /// Whether the peer has taken any bytes.
    pub(super) fn has_progress(&self) -> bool {
        self.taken > 0
    }

    /// When the peer last took bytes; before it has taken any, when the transfer began.
    pub(super) fn last_progress(&self) -> Instant {
        self.last_progress
    }

    /// Whether the remaining bytes will not be taken by the deadline at the present rate. Never true while the peer takes
    /// nothing, which has a timeout of its own, nor while the rate still grows. The higher rate of two windows counts,
    /// because one of them may contain nothing but a pause.
    pub(super) fn is_too_slow(&mut self, remaining: usize, now: Instant, deadline: Instant) -> bool {
        if now < self.window_start + WINDOW || self.taken == self.taken_before_window {
            return false;
        }
        let elapsed = now - self.window_start;
        let rate = as_f64(self.taken - self.taken_before_window) / elapsed.as_secs_f64();
        let previous = self.previous_rate.replace(rate);
        (self.window_start, self.taken_before_window) = (now, self.taken);
        let Some(previous) = previous.filter(|previous| rate <= previous * STILL_GROWING) else {
            return false;
        };
        as_f64(remaining) / rate.max(previous) > deadline.saturating_duration_since(now).as_secs_f64()
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes of one run, far below 2^52")]
fn as_f64(bytes: usize) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The millisecond at which a transfer of `total` bytes is given up, if `taken` says how many were taken by a millisecond.
    fn given_up(total: usize, deadline: u64, taken: impl Fn(u64) -> usize) -> Option<u64> {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut throughput = Throughput::new(start);
        (1..deadline).find(|&now| {
            let taken = taken(now).min(total);
            throughput.update(taken, at(now));
            throughput.is_too_slow(total - taken, at(now), at(deadline))
        })
    }

    fn bytes(millis: u64, per_second: u64) -> usize {
        usize::try_from(millis * per_second / 1000).unwrap()
    }

    #[test]
    fn a_transfer_that_fits_into_its_time_is_never_given_up() {
        assert_eq!(given_up(1_500_000, 2000, |at| bytes(at, 1_000_000)), None);
        assert_eq!(given_up(1_500_000, 10_000, |at| bytes(at, 200_000)), None);
    }

    #[test]
    fn a_transfer_that_does_not_fit_is_given_up_after_two_windows() {
        assert_eq!(given_up(1_500_000, 1250, |at| bytes(at, 1_000_000)), Some(400));
        assert_eq!(given_up(2000, 60_000, |at| bytes(at, 5)), Some(400));
    }

    #[test]
    fn a_single_byte_now_and_then_does_not_extend_a_transfer() {
        let once_in_400 = |at: u64| 1 + usize::try_from(at / 400).unwrap();
        assert!(given_up(2000, 60_000, once_in_400).is_some_and(|at| at < 1000));
    }

    #[test]
    fn a_connection_that_starts_slowly_may_become_fast() {
        let doubling = |at: u64| 10_000 << (at / 100).min(12);
        assert_eq!(given_up(1_500_000, 2000, doubling), None);
    }

    #[test]
    fn a_worker_that_reads_in_bursts_is_not_slow_after_a_pause() {
        // 500 KB at 2 MB/s, then nothing for 400 ms.
        let bursts = |at: u64| bytes(at / 650 * 250 + (at % 650).min(250), 2_000_000);
        assert_eq!(given_up(3_000_000, 10_000, bursts), None);
    }

    #[test]
    fn a_transfer_that_becomes_slow_is_given_up() {
        let stalls = |at: u64| if at < 1000 { bytes(at, 500_000) } else { 500_000 + bytes(at - 1000, 1000) };
        assert!(given_up(1_500_000, 10_000, stalls).is_some_and(|at| (1200..1700).contains(&at)));
    }
}

//! Owns how many lines of a program reach the log: one that floods its standard error must not fill the disk of the log.

use std::time::Duration;

use tokio::time::Instant;

/// The most lines that are logged in one period.
const MAX_LINES: u32 = 1000;
/// The time for which lines are counted.
const PERIOD: Duration = Duration::from_secs(1);

/// The lines of one period.
#[derive(Debug)]
pub(super) struct LogRate {
    end: Instant,
    logged: u32,
    dropped: u64,
}

impl LogRate {
    pub(super) fn new(now: Instant) -> Self {
        Self { end: now + PERIOD, logged: 0, dropped: 0 }
    }

    /// Counts a line. Returns whether it is logged.
    pub(super) fn is_logged(&mut self) -> bool {
        let is_logged = self.logged < MAX_LINES;
        if is_logged {
            self.logged += 1;
        } else {
            self.dropped += 1;
        }
        is_logged
    }

    /// When the number of dropped lines is to be told. None if no line was dropped.
    pub(super) fn report_at(&self) -> Option<Instant> {
        (self.dropped > 0).then_some(self.end)
    }

    /// Begins another period if this one is over. Returns how many lines it has dropped.
    pub(super) fn renew(&mut self, now: Instant) -> u64 {
        if now < self.end {
            return 0;
        }
        std::mem::replace(self, Self::new(now)).dropped
    }

    /// How many lines were dropped in the last period.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_over_the_rate_are_counted_and_told_once_in_each_period() {
        let now = Instant::now();
        let mut rate = LogRate::new(now);
        let logged = (0..MAX_LINES + 7).filter(|_| rate.is_logged()).count();
        assert_eq!((logged, rate.dropped(), rate.report_at()), (1000, 7, Some(now + PERIOD)));
        assert_eq!(rate.renew(now), 0);
        assert!(!rate.is_logged());
        assert_eq!(rate.renew(now + PERIOD), 8);
        assert!(rate.is_logged() && rate.report_at().is_none());
        assert_eq!(rate.renew(now + 3 * PERIOD), 0);
    }
}

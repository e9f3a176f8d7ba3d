//! Owns the clock by which rows expire: the wall clock may be set while the broker runs, and no step of it may expire rows early.

use std::time::Duration;

/// A wall clock that is ahead by no more than this, in milliseconds, is trusted at once.
const MAX_STEP: u64 = 60_000;
/// After a start, a wall clock that is further ahead is trusted once it has stayed so for this fraction of the age: the
/// broker was probably off.
const START_FRACTION: u32 = 30;

/// The time from which the age of rows is counted.
///
/// A wall clock that was set back is trusted at once, because then fewer rows are too old. One that was set ahead is trusted
/// once it has stayed ahead for as long as rows are kept: every row that expires then is too old by any clock. In all cases
/// the age of a row is counted at most up to the time of the newest row.
///
/// Times are milliseconds since 1970; `uptime` is how long the file has been open, by a clock that cannot be set.
#[derive(Debug)]
pub(super) struct RetentionClock {
    age: Duration,
    trusted: u64,
    uptime: Duration,
    /// While the wall clock is ahead of the trusted time: the uptime since when, and how long it has to stay so.
    ahead: Option<(Duration, Duration)>,
}

impl RetentionClock {
    /// For a file that is opened at the time `wall`, and whose newest row was written at the time `newest`.
    pub(super) fn new(age: Duration, newest: Option<u64>, wall: u64) -> Self {
        let ahead = Some((Duration::ZERO, age / START_FRACTION));
        Self { age, trusted: newest.unwrap_or(wall), uptime: Duration::ZERO, ahead }
    }

    /// Rows from before the returned time are too old.
    pub(super) fn oldest(&mut self, newest: u64, wall: u64, uptime: Duration) -> u64 {
        let expected = self.trusted.saturating_add(millis(uptime.saturating_sub(self.uptime)));
        self.uptime = uptime;
        let (since, required) = self.ahead.unwrap_or((uptime, self.age));
        if wall <= expected.saturating_add(MAX_STEP) || uptime.saturating_sub(since) >= required {
            self.trusted = wall;
            self.ahead = None;
        } else {
            self.trusted = expected;
            self.ahead = Some((since, required));
        }
        self.trusted.min(newest).saturating_sub(millis(self.age))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;
    const AGE: Duration = Duration::from_secs(30 * 86_400);
    const NOW: u64 = 1_000 * DAY;

    fn days(days: u64) -> Duration {
        Duration::from_millis(days * DAY)
    }

    #[test]
    fn with_a_steady_clock_rows_expire_at_their_age() {
        let mut clock = RetentionClock::new(AGE, Some(NOW), NOW);
        for day in 0..100 {
            let now = NOW + day * DAY;
            assert_eq!(clock.oldest(now, now, days(day)), now - 30 * DAY);
        }
        // After a pause without rows, the age is counted from the newest row.
        assert_eq!(clock.oldest(NOW, NOW + 200 * DAY, days(200)), NOW - 30 * DAY);
    }

    #[test]
    fn a_clock_that_jumps_ahead_and_back_expires_no_row_early() {
        let mut clock = RetentionClock::new(AGE, Some(NOW), NOW);
        assert_eq!(clock.oldest(NOW, NOW, days(0)), NOW - 30 * DAY);
        // Also if rows are dated by it. Each day another day of rows expires, as it should.
        for day in 1..=29 {
            let wrong = NOW + (day + 31) * DAY;
            assert_eq!(clock.oldest(wrong, wrong, days(day)), NOW + day * DAY - 30 * DAY);
        }
        let right = NOW + 30 * DAY;
        assert_eq!(clock.oldest(right, right, days(30)), right - 30 * DAY);
        // The clock was set back before: fewer rows expire at first, and the others once the clock has been right for as
        // long as rows are kept.
        assert_eq!(clock.oldest(DAY, DAY, days(31)), 0);
        for day in 32..62 {
            let right = NOW + day * DAY;
            assert!(clock.oldest(right, right, days(day)) <= 2 * DAY);
        }
        let right = NOW + 62 * DAY;
        assert_eq!(clock.oldest(right, right, days(62)), right - 30 * DAY);
    }

    #[test]
    fn a_corrected_clock_is_trusted_once_every_row_that_expires_is_old() {
        // A machine without a battery-backed clock starts in 1970, and gets the time a minute later.
        let mut clock = RetentionClock::new(AGE, None, 0);
        assert_eq!(clock.oldest(0, 0, days(0)), 0);
        for day in 1..=30 {
            assert_eq!(clock.oldest(NOW + day * DAY, NOW + day * DAY, days(day)), 0);
        }
        assert_eq!(clock.oldest(NOW + 31 * DAY, NOW + 31 * DAY, days(31)), NOW + DAY);
    }

    #[test]
    fn the_time_while_the_broker_was_off_counts_once_the_clock_has_held_it() {
        let (start, hour) = (NOW + 31 * DAY, 3_600_000);
        let mut clock = RetentionClock::new(AGE, Some(NOW), start);
        for hours in 0..24 {
            let ran = Duration::from_millis(hours * hour);
            let now = start + hours * hour;
            assert_eq!(clock.oldest(now, now, ran), NOW + hours * hour - 30 * DAY, "{hours} h");
        }
        assert_eq!(clock.oldest(start + DAY, start + DAY, days(1)), NOW + 2 * DAY);
        // A clock that was wrong at the start is corrected within that day.
        let mut clock = RetentionClock::new(AGE, Some(NOW), start);
        assert_eq!(clock.oldest(start, start, days(0)), NOW - 30 * DAY);
        assert_eq!(clock.oldest(NOW + hour, NOW + hour, Duration::from_millis(hour)), NOW + hour - 30 * DAY);
        assert_eq!(clock.oldest(NOW + 2 * DAY, NOW + 2 * DAY, days(2)), NOW - 28 * DAY);
    }
}

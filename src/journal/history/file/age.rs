//! Owns how old a row is, by a clock that may be set: no step of it lets more rows leave than are due.

use std::time::Duration;

/// The wall clock may be ahead of the time that has passed by so much, and is believed at once.
const STEP: u64 = 60_000;
/// The time for which the broker was off is believed once the clock has stood by it for this part of the age.
const PART: u32 = 30;

/// The time by which rows are old. A clock that is set back is believed at once, as fewer rows are old then. One that is
/// set ahead is believed once it has stood by that for as long as rows are kept: all that leaves then is old indeed.
/// In all cases a row's age counts from the newest row at most.
///
/// Times are milliseconds since 1970; `ran` is for how long the file has been open, on a clock that nobody sets.
#[derive(Debug)]
pub(super) struct AgeClock {
    age: Duration,
    believed: u64,
    ran: Duration,
    /// Since when the wall clock is ahead of what is believed, and for how long that is not believed.
    ahead: Option<(Duration, Duration)>,
}

impl AgeClock {
    /// For a file that was opened at the time `wall`, and whose newest row was written at the time `newest`.
    pub(super) fn new(age: Duration, newest: Option<u64>, wall: u64) -> Self {
        let ahead = Some((Duration::ZERO, age / PART));
        Self { age, believed: newest.unwrap_or(wall), ran: Duration::ZERO, ahead }
    }

    /// Rows from before this time are too old.
    pub(super) fn oldest(&mut self, newest: u64, wall: u64, ran: Duration) -> u64 {
        let expected = self.believed.saturating_add(millis(ran.saturating_sub(self.ran)));
        self.ran = ran;
        let (since, patience) = self.ahead.unwrap_or((ran, self.age));
        if wall <= expected.saturating_add(STEP) || ran.saturating_sub(since) >= patience {
            self.believed = wall;
            self.ahead = None;
        } else {
            self.believed = expected;
            self.ahead = Some((since, patience));
        }
        self.believed.min(newest).saturating_sub(millis(self.age))
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
    fn by_a_clock_that_nobody_sets_rows_leave_when_they_are_old() {
        let mut clock = AgeClock::new(AGE, Some(NOW), NOW);
        for day in 0..100 {
            let now = NOW + day * DAY;
            assert_eq!(clock.oldest(now, now, days(day)), now - 30 * DAY);
        }
        // Nothing came for a while: age counts from the newest row.
        assert_eq!(clock.oldest(NOW, NOW + 200 * DAY, days(200)), NOW - 30 * DAY);
    }

    #[test]
    fn a_clock_that_jumps_ahead_and_back_lets_nothing_leave_that_is_not_due() {
        let mut clock = AgeClock::new(AGE, Some(NOW), NOW);
        assert_eq!(clock.oldest(NOW, NOW, days(0)), NOW - 30 * DAY);
        // Also when rows are written by it; each day one more is due, as it should be.
        for day in 1..=29 {
            let wrong = NOW + (day + 31) * DAY;
            assert_eq!(clock.oldest(wrong, wrong, days(day)), NOW + day * DAY - 30 * DAY);
        }
        let right = NOW + 30 * DAY;
        assert_eq!(clock.oldest(right, right, days(30)), right - 30 * DAY);
        // Or back first: fewer leave, and the rest when the clock has been right for as long as rows are kept.
        assert_eq!(clock.oldest(DAY, DAY, days(31)), 0);
        for day in 32..62 {
            let right = NOW + day * DAY;
            assert!(clock.oldest(right, right, days(day)) <= 2 * DAY);
        }
        let right = NOW + 62 * DAY;
        assert_eq!(clock.oldest(right, right, days(62)), right - 30 * DAY);
    }

    #[test]
    fn a_clock_that_was_set_right_is_believed_when_all_that_leaves_is_old() {
        // A machine without a battery begins in 1970, and has its time a minute later.
        let mut clock = AgeClock::new(AGE, None, 0);
        assert_eq!(clock.oldest(0, 0, days(0)), 0);
        for day in 1..=30 {
            assert_eq!(clock.oldest(NOW + day * DAY, NOW + day * DAY, days(day)), 0);
        }
        assert_eq!(clock.oldest(NOW + 31 * DAY, NOW + 31 * DAY, days(31)), NOW + DAY);
    }

    #[test]
    fn the_time_while_the_broker_was_off_counts_once_the_clock_has_stood_by_it() {
        let (start, hour) = (NOW + 31 * DAY, 3_600_000);
        let mut clock = AgeClock::new(AGE, Some(NOW), start);
        for hours in 0..24 {
            let ran = Duration::from_millis(hours * hour);
            let now = start + hours * hour;
            assert_eq!(clock.oldest(now, now, ran), NOW + hours * hour - 30 * DAY, "{hours} h");
        }
        assert_eq!(clock.oldest(start + DAY, start + DAY, days(1)), NOW + 2 * DAY);
        // A clock that was wrong at the start is set right within that day.
        let mut clock = AgeClock::new(AGE, Some(NOW), start);
        assert_eq!(clock.oldest(start, start, days(0)), NOW - 30 * DAY);
        assert_eq!(clock.oldest(NOW + hour, NOW + hour, Duration::from_millis(hour)), NOW + hour - 30 * DAY);
        assert_eq!(clock.oldest(NOW + 2 * DAY, NOW + 2 * DAY, days(2)), NOW - 28 * DAY);
    }
}

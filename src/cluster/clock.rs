//! Owns how old a message of another broker is, without wall clocks: the quickest heartbeat shows the distance between the two
//! brokers' clocks, and what a later message took longer is its age.

use std::time::Duration;

use crate::broker::MonotonicTime;

/// Heartbeats are remembered for this long, in parts of it.
const PARTS: usize = 6;
const PART: Duration = Duration::from_secs(10);

/// The smallest (arrival − send) of the heartbeats of the last minute, in microseconds. The two clocks have different epochs, so
/// it may be negative.
#[derive(Debug, Clone)]
pub(super) struct ClockOffset {
    smallest: [i64; PARTS],
    /// The part of now, and when it began.
    part: usize,
    began: MonotonicTime,
}

impl ClockOffset {
    /// From the first heartbeat.
    pub(super) fn new(sent: u64, now: MonotonicTime) -> Self {
        Self { smallest: [offset(sent, now); PARTS], part: 0, began: now }
    }

    /// Another heartbeat.
    pub(super) fn add(&mut self, sent: u64, now: MonotonicTime) {
        let offset = offset(sent, now);
        let mut passed = 0;
        while now.since(self.began) >= PART && passed < PARTS {
            self.part = (self.part + 1) % PARTS;
            self.smallest[self.part] = offset;
            self.began = self.began.plus(PART);
            passed += 1;
        }
        if passed == PARTS {
            self.began = now;
        }
        let smallest = &mut self.smallest[self.part];
        *smallest = offset.min(*smallest);
    }

    /// How much longer a message sent at `sent` took than the quickest heartbeat.
    pub(super) fn age(&self, sent: u64, now: MonotonicTime) -> Duration {
        let quickest = self.smallest.iter().min().copied().unwrap_or_default();
        Duration::from_micros(u64::try_from(offset(sent, now).saturating_sub(quickest)).unwrap_or_default())
    }
}

fn offset(sent: u64, now: MonotonicTime) -> i64 {
    now.micros().cast_signed().wrapping_sub(sent.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime::from_micros(millis * 1000)
    }

    #[test]
    fn the_age_is_what_a_message_took_longer_than_the_quickest_heartbeat() {
        // The other clock is an hour ahead.
        let sent = |millis: u64| (3_600_000 + millis) * 1000;
        let mut clock = ClockOffset::new(sent(0), at(5));
        clock.add(sent(1000), at(1002));
        clock.add(sent(2000), at(2050));
        assert_eq!(clock.age(sent(3000), at(3002)), Duration::ZERO);
        assert_eq!(clock.age(sent(3000), at(3001)), Duration::ZERO, "quicker than ever");
        assert_eq!(clock.age(sent(3000), at(7202)), Duration::from_millis(4200));
    }

    #[test]
    fn a_heartbeat_is_forgotten_after_a_minute() {
        let mut clock = ClockOffset::new(0, at(0));
        // The clocks drift apart, or the way became longer.
        for second in 1..=70 {
            clock.add(second * 1_000_000, at(second * 1000 + 20));
        }
        assert_eq!(clock.age(71_000_000, at(71_020)), Duration::ZERO);
        clock.add(200_000_000, at(200_500));
        assert_eq!(clock.age(201_000_000, at(201_500)), Duration::ZERO, "after a long silence, too");
    }
}

//! Owns how old a message of another broker is, without wall clocks: the quickest heartbeat shows the distance between the two
//! brokers' clocks, and what a later message took longer is its age.
//!
//! What is read after a pause of this process, or after the network was held up, is late as a whole, heartbeats too. So no age is
//! known before two heartbeats that were not held up together agree, and those that were never replace all that is remembered.

use std::time::Duration;

use crate::broker::MonotonicTime;

/// Heartbeats are remembered for this long, in parts of it.
const PARTS: usize = 6;
const PART: Duration = Duration::from_secs(10);
/// What was held up is read within this time.
const BACKLOG: Duration = Duration::from_millis(250);
/// Heartbeats that were not held up differ less than this, in microseconds.
const JITTER: i64 = 50_000;
/// So many heartbeats in a row that are equally late are not late: the other clock is not what it was.
const EQUALLY_LATE: u32 = 5;

/// The smallest (arrival − send) of the heartbeats of the last minute in which there were some, in microseconds. The two clocks have different epochs, so
/// it may be negative.
#[derive(Debug, Clone)]
pub(super) struct ClockOffset {
    smallest: [i64; PARTS],
    /// When the quickest heartbeat was read, until another one, which was not held up with it, was as quick.
    unconfirmed: Option<MonotonicTime>,
    /// The latest heartbeats in a row that were late, and equally.
    late: Option<Late>,
    /// The part of now, and when it began.
    part: usize,
    began: MonotonicTime,
}

#[derive(Debug, Clone, Copy)]
struct Late {
    smallest: i64,
    /// How many were not held up together.
    count: u32,
    latest: MonotonicTime,
}

impl ClockOffset {
    /// From the first heartbeat.
    pub(super) fn new(sent: u64, now: MonotonicTime) -> Self {
        Self { smallest: [offset(sent, now); PARTS], unconfirmed: Some(now), late: None, part: 0, began: now }
    }

    /// Another heartbeat.
    pub(super) fn add(&mut self, sent: u64, now: MonotonicTime) {
        let offset = offset(sent, now);
        if now.since(self.began) >= PART {
            self.part = (self.part + 1) % PARTS;
            self.smallest[self.part] = offset;
            self.began = now;
        }
        if let Some(since) = self.unconfirmed {
            let quickest = self.quickest();
            if offset < quickest - JITTER {
                (self.smallest, self.unconfirmed) = ([offset; PARTS], Some(now));
            } else if offset <= quickest + JITTER && now.since(since) >= BACKLOG {
                self.unconfirmed = None;
            }
        }
        self.notice_shift(offset, now);
        let smallest = &mut self.smallest[self.part];
        *smallest = offset.min(*smallest);
    }

    /// Whether ages are known.
    pub(super) fn is_known(&self) -> bool {
        self.unconfirmed.is_none()
    }

    /// How much longer a message sent at `sent` took than the quickest heartbeat; none if that may have been late itself.
    pub(super) fn age(&self, sent: u64, now: MonotonicTime) -> Option<Duration> {
        if self.unconfirmed.is_some() {
            return None;
        }
        let later = u64::try_from(offset(sent, now).saturating_sub(self.quickest()));
        Some(Duration::from_micros(later.unwrap_or_default()))
    }

    /// One late heartbeat is held up. Several that are equally late, and were not held up together, show that the other clock
    /// stood still, or is another one.
    fn notice_shift(&mut self, offset: i64, now: MonotonicTime) {
        if offset <= self.quickest() + JITTER {
            self.late = None;
            return;
        }
        let same = self.late.filter(|late| offset.abs_diff(late.smallest) <= JITTER.unsigned_abs());
        let mut late = same.unwrap_or(Late { smallest: offset, count: 1, latest: now });
        late.smallest = offset.min(late.smallest);
        if now.since(late.latest) >= BACKLOG {
            (late.count, late.latest) = (late.count + 1, now);
        }
        self.late = Some(late);
        if late.count == EQUALLY_LATE {
            (self.smallest, self.late) = ([late.smallest; PARTS], None);
        }
    }

    fn quickest(&self) -> i64 {
        self.smallest.iter().min().copied().unwrap_or_default()
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
        assert_eq!(clock.age(sent(0), at(5)), None);
        clock.add(sent(1000), at(1002));
        clock.add(sent(2000), at(2050));
        assert_eq!(clock.age(sent(3000), at(3002)), Some(Duration::ZERO));
        assert_eq!(clock.age(sent(3000), at(3001)), Some(Duration::ZERO), "quicker than ever");
        assert_eq!(clock.age(sent(3000), at(7202)), Some(Duration::from_millis(4200)));
    }

    #[test]
    fn a_heartbeat_is_forgotten_after_a_minute() {
        let mut clock = ClockOffset::new(0, at(0));
        // The clocks drift apart, or the way became longer.
        for second in 1..=70 {
            clock.add(second * 1_000_000, at(second * 1000 + 20));
        }
        assert_eq!(clock.age(71_000_000, at(71_020)), Some(Duration::ZERO));
    }

    #[test]
    fn a_clock_that_stood_still_is_learned_from_a_few_heartbeats() {
        let mut clock = ClockOffset::new(0, at(2));
        clock.add(1_000_000, at(1002));
        // Its machine slept for an hour.
        let hour = 3_600_000;
        for second in 2..6 {
            clock.add(second * 1_000_000, at(hour + second * 1000 + second));
            assert!(
                clock.age(second * 1_000_000, at(hour + second * 1000)) > Some(Duration::from_secs(3599))
            );
        }
        clock.add(6_000_000, at(hour + 6002));
        assert_eq!(clock.age(6_100_000, at(hour + 6112)), Some(Duration::from_millis(10)));
    }

    #[test]
    fn heartbeats_that_are_read_late_do_not_make_other_late_messages_young() {
        let mut known = ClockOffset::new(0, at(2));
        known.add(1_000_000, at(1002));
        // This process is paused for two minutes. Then it reads what has arrived: a hundred heartbeats at once.
        let after = 120_000;
        for second in 2..100 {
            known.add(second * 1_000_000, at(after));
        }
        assert_eq!(known.age(99_000_000, at(after)), Some(Duration::from_millis(20_998)));

        let mut new = ClockOffset::new(1_000_000, at(after));
        assert_eq!(new.age(1_000_000, at(after)), None, "how late the first heartbeat was is not known");
        new.add(99_000_000, at(after));
        assert_eq!(new.age(99_500_000, at(after + 310)), None, "neither is that of the last of them");
        // The second backlog is not as late as the first one.
        new.add(119_000_000, at(after + 1000));
        assert_eq!(new.age(120_000_000, at(after + 2000)), None);
        for second in [123, 124] {
            new.add(second * 1_000_000, at(second * 1000 + 2));
        }
        assert_eq!(new.age(124_300_000, at(124_402)), Some(Duration::from_millis(100)));
    }
}

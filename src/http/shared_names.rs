//! Owns the detection of controller names that several workers share: each poll of such a worker ends another one's.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ahash::RandomState;
use parking_lot::Mutex;

use crate::logging::Throttle;
use crate::metrics::{Metrics, RejectReason};

/// This many replacements within the window are more than one controller causes that polls again before the end of its old
/// connection is seen.
const MIN_REPLACEMENTS: u32 = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// Slots for names. Names that share a slot are counted less exactly.
const SLOTS: usize = 1024;
/// How much of a name is logged, in characters.
const MAX_LOGGED_CHARS: usize = 256;

/// Counts how often polls of one name from one address have replaced each other lately.
pub(super) struct SharedNameDetector {
    hasher: RandomState,
    slots: Mutex<Box<[Option<ReplacementCount>]>>,
}

#[derive(Debug, Clone, Copy)]
struct ReplacementCount {
    name_hash: u64,
    since: Instant,
    count: u32,
}

impl Default for SharedNameDetector {
    fn default() -> Self {
        Self { hasher: RandomState::new(), slots: Mutex::new(vec![None; SLOTS].into()) }
    }
}

impl SharedNameDetector {
    /// Records that a poll was replaced by another one with its name, from its address. If that happens often, it is measured
    /// and logged.
    pub(super) fn record(&self, metrics: &Metrics, controller: &str, origin: IpAddr) {
        static LINES: Throttle = Throttle::new();
        let times = self.count(controller, origin, Instant::now());
        if times < MIN_REPLACEMENTS {
            return;
        }
        metrics.rejected(RejectReason::SharedName);
        if times == MIN_REPLACEMENTS && LINES.is_open() {
            let controller: String = controller.escape_default().take(MAX_LOGGED_CHARS).collect();
            tracing::warn!(
                controller,
                %origin,
                times,
                "polls with one controller's name end each other, as if several workers had it; give each worker a name of its own"
            );
        }
    }

    /// Counts a replacement, and returns how many there were within the window.
    fn count(&self, controller: &str, origin: IpAddr, now: Instant) -> u32 {
        let name_hash = self.hasher.hash_one((controller, origin));
        let slot = usize::try_from(name_hash % SLOTS as u64).unwrap_or(0);
        let mut slots = self.slots.lock();
        match &mut slots[slot] {
            Some(found)
                if now.saturating_duration_since(found.since) < WINDOW && found.name_hash == name_hash =>
            {
                found.count += 1;
                found.count
            }
            // Another name has the slot. It loses the slot when both have come equally often.
            Some(other) if now.saturating_duration_since(other.since) < WINDOW && other.count > 1 => {
                other.count -= 1;
                1
            }
            free => {
                *free = Some(ReplacementCount { name_hash, since: now, count: 1 });
                1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn one_name_is_counted_for_a_minute_by_its_address() {
        let names = SharedNameDetector::default();
        let begin = Instant::now();
        for second in 1..=10 {
            assert_eq!(names.count("one", ORIGIN, begin + Duration::from_secs(second.into())), second);
        }
        let elsewhere = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
        assert!(names.count("one", elsewhere, begin) < MIN_REPLACEMENTS);
        assert_eq!(names.count("one", ORIGIN, begin + Duration::from_secs(1) + WINDOW), 1);
    }

    #[test]
    fn many_shared_names_are_found_among_many_that_are_not_shared() {
        let names = SharedNameDetector::default();
        let now = Instant::now();
        let mut found = 0;
        for round in 0..20 {
            for name in 0..200 {
                found += u32::from(names.count(&format!("shared {name}"), ORIGIN, now) == MIN_REPLACEMENTS);
            }
            for name in 0..200 {
                names.count(&format!("once {round} {name}"), ORIGIN, now);
            }
        }
        assert!(found > 100, "{found} of 200");
    }
}

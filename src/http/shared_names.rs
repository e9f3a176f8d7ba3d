//! Owns the suspicion that several workers share one controller's name: each poll of theirs ends the other's, for ever.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ahash::RandomState;
use parking_lot::Mutex;

use super::HttpState;
use crate::logging::Throttle;
use crate::metrics::RejectReason;

/// So often within so much time is no controller that polls again before its old connection's end is seen.
const MANY: u32 = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// Names that are counted at once; more of them disturb each other.
const NAMES: usize = 1024;
/// So much is shown of a name.
const SHOWN: usize = 256;

/// How often polls of one name from one address have ended each other lately. Only such an end looks at it.
pub(super) struct SharedNames {
    hasher: RandomState,
    counts: Mutex<Box<[Option<Count>]>>,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    name: u64,
    since: Instant,
    replaced: u32,
}

impl Default for SharedNames {
    fn default() -> Self {
        Self { hasher: RandomState::new(), counts: Mutex::new(vec![None; NAMES].into()) }
    }
}

impl SharedNames {
    /// Counts a poll that ended because another one came with its name, and says how many did within the window.
    fn replaced(&self, controller: &str, origin: IpAddr, now: Instant) -> u32 {
        let name = self.hasher.hash_one((controller, origin));
        let place = usize::try_from(name % NAMES as u64).unwrap_or(0);
        let mut counts = self.counts.lock();
        match &mut counts[place] {
            Some(count) if now.saturating_duration_since(count.since) < WINDOW && count.name == name => {
                count.replaced += 1;
                count.replaced
            }
            // Another name has the place: it goes when the two have come equally often.
            Some(count) if now.saturating_duration_since(count.since) < WINDOW && count.replaced > 1 => {
                count.replaced -= 1;
                1
            }
            free => {
                *free = Some(Count { name, since: now, replaced: 1 });
                1
            }
        }
    }
}

/// A poll ended because another one came with its name, from its address.
pub(super) fn replaced(front: &HttpState, controller: &str, origin: IpAddr) {
    static LINES: Throttle = Throttle::new();
    let times = front.shared_names.replaced(controller, origin, Instant::now());
    if times < MANY {
        return;
    }
    front.metrics.rejected(RejectReason::SharedName);
    if times == MANY && LINES.is_open() {
        let controller: String = controller.escape_default().take(SHOWN).collect();
        tracing::warn!(
            controller,
            %origin,
            times,
            "polls with one controller's name end each other, as if several workers had it; give each worker a name of its own"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn one_name_is_counted_for_a_minute_by_its_address() {
        let names = SharedNames::default();
        let begin = Instant::now();
        for second in 1..=10 {
            assert_eq!(names.replaced("one", ORIGIN, begin + Duration::from_secs(second.into())), second);
        }
        let elsewhere = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
        assert!(names.replaced("one", elsewhere, begin) < MANY);
        assert_eq!(names.replaced("one", ORIGIN, begin + Duration::from_secs(1) + WINDOW), 1);
    }

    #[test]
    fn many_shared_names_are_found_and_many_that_are_not_hide_none() {
        let names = SharedNames::default();
        let now = Instant::now();
        let mut found = 0;
        for round in 0..20 {
            for name in 0..200 {
                found += u32::from(names.replaced(&format!("shared {name}"), ORIGIN, now) == MANY);
            }
            for name in 0..200 {
                names.replaced(&format!("once {round} {name}"), ORIGIN, now);
            }
        }
        assert!(found > 100, "{found} of 200");
    }
}

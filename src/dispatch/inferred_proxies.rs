//! Owns the addresses at which a proxy is inferred that sends no proxy header: every byte of a run was acknowledged, and
//! then its connection was reset.
//!
//! haproxy ends its connections in this way, and so does the kernel of a controller that was killed with the run unread. On
//! the wire both look the same, so such a reset is no proof, and the run must not be offered to another waiter.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ahash::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;

/// How long an address is remembered after its last reset.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// How many addresses are remembered. While there are this many, another one is not stored, and counts as new each time.
const REMEMBERED: usize = 1024;

/// Addresses of proxies that are inferred, and since when.
#[derive(Default)]
pub(super) struct InferredProxies {
    /// Whether there is any address. Nearly always there is none, and then no lock is taken.
    any: AtomicBool,
    since: Mutex<HashMap<IpAddr, Instant, RandomState>>,
}

impl InferredProxies {
    /// Every byte of a run was acknowledged from this address, and its connection was reset. Returns whether the address is
    /// new.
    pub(super) fn add(&self, address: IpAddr, now: Instant) -> bool {
        let mut since = self.since.lock();
        if since.len() >= REMEMBERED && !since.contains_key(&address) {
            since.retain(|_, since| is_fresh(*since, now));
        }
        let is_news = !since.get(&address).is_some_and(|since| is_fresh(*since, now));
        if since.len() < REMEMBERED || !is_news {
            since.insert(address, now);
            self.any.store(true, Ordering::Relaxed);
        }
        is_news
    }

    /// A controller at this address has read a run and closed its connection cleanly, so no proxy in between resets
    /// connections.
    pub(super) fn remove(&self, address: IpAddr) {
        if self.any.load(Ordering::Relaxed) {
            let mut since = self.since.lock();
            since.remove(&address);
            self.any.store(!since.is_empty(), Ordering::Relaxed);
        }
    }

    /// Whether a proxy is inferred at this address.
    pub(super) fn contains(&self, address: IpAddr, now: Instant) -> bool {
        self.any.load(Ordering::Relaxed)
            && self.since.lock().get(&address).is_some_and(|since| is_fresh(*since, now))
    }
}

fn is_fresh(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < REMEMBERED_FOR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_news_once_until_a_receipt_or_its_time() {
        let (inferred, begun) = (InferredProxies::default(), Instant::now());
        let [one, other] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        assert!(!inferred.contains(one, begun));
        assert!(inferred.add(one, begun) && !inferred.add(one, begun) && inferred.add(other, begun));
        inferred.remove(one);
        assert!(!inferred.contains(one, begun) && inferred.contains(other, begun));
        assert!(inferred.add(one, begun), "it is news again");
        let later = begun + REMEMBERED_FOR;
        assert!(!inferred.contains(one, later) && inferred.add(one, later));
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let (inferred, begun) = (InferredProxies::default(), Instant::now());
        let address = |number: usize| IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());
        for number in 0..2 * REMEMBERED {
            assert!(inferred.add(address(number), begun));
        }
        assert_eq!(inferred.since.lock().len(), REMEMBERED);
        assert!(inferred.add(address(3 * REMEMBERED), begun + REMEMBERED_FOR), "the old ones make room");
        assert_eq!(inferred.since.lock().len(), 1);
    }
}

//! Owns when to say no before anything is read: too many POSTs under way or a second, too little memory, too little room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// So many nanoseconds' worth of POSTs may come at once.
const BURST: u64 = 1_000_000_000;

/// How hard the broker is pressed. Its keeper and its door tell of memory and room; POSTs count themselves.
#[derive(Debug)]
pub struct Admission {
    /// The moment, in nanoseconds since the epoch, at which the rate would have let all POSTs in.
    paced_until: AtomicU64,
    epoch: Instant,
    /// Bytes of memory that may still be taken, as the keeper saw it last.
    memory_left: AtomicU64,
    /// Bytes of bodies that are announced, being read, or kept until their runs are over.
    bodies: Arc<AtomicU64>,
    is_short_of_connections: AtomicBool,
    is_ending: AtomicBool,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            paced_until: AtomicU64::new(0),
            epoch: Instant::now(),
            memory_left: AtomicU64::new(u64::MAX),
            bodies: Arc::default(),
            is_short_of_connections: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
        }
    }
}

impl Admission {
    /// Whether a POST is within the rate, as a leaky bucket of one second.
    pub(super) fn is_within_rate(&self, rate: u32) -> bool {
        let now = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let each = BURST / u64::from(rate.max(1));
        let paced = self.paced_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
            let next = until.max(now) + each;
            (next <= now + BURST).then_some(next)
        });
        paced.is_ok()
    }

    /// Says how many bytes of memory may still be taken.
    pub fn set_memory_left(&self, bytes: u64) {
        self.memory_left.store(bytes, Ordering::Relaxed);
    }

    /// Whether nobody new is to be held, and no run taken in.
    pub(super) fn is_short_of_memory(&self) -> bool {
        self.memory_left.load(Ordering::Relaxed) == 0
    }

    /// Reserves memory for a body before it is read; none if what is reserved would be more than what is left. A body that
    /// has come is reserved and in memory, and so counts twice: its run may be copied once, and so much stays free.
    pub(super) fn reserve(&self, bytes: u64) -> Option<Reserved> {
        let mut reserved = Reserved { bytes: 0, bodies: self.bodies.clone() };
        self.reserve_more(&mut reserved, bytes).then_some(reserved)
    }

    /// The same for a body whose length was not announced; false if there is not so much left.
    pub(super) fn reserve_more(&self, reserved: &mut Reserved, bytes: u64) -> bool {
        let left = self.memory_left.load(Ordering::Relaxed);
        let grown = self.bodies.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bodies| {
            bodies.checked_add(bytes).filter(|&bodies| bodies <= left)
        });
        if grown.is_ok() {
            reserved.bytes += bytes;
        }
        grown.is_ok()
    }

    /// Says whether nearly as many connections are open as may be.
    pub fn set_short_of_connections(&self, is_short: bool) {
        // Nearly always it is so already, and then nothing is written that other threads read.
        if self.is_short_of_connections.load(Ordering::Relaxed) != is_short {
            self.is_short_of_connections.store(is_short, Ordering::Relaxed);
        }
    }

    /// Says that the process ends: whoever comes back finds the next one only with a new connection.
    pub fn set_ending(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// Whether connections are not to rest after an answer.
    pub(super) fn closes_connections(&self) -> bool {
        self.is_short_of_connections.load(Ordering::Relaxed) || self.is_ending.load(Ordering::Relaxed)
    }
}

/// Memory that is reserved for a body until this is dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    pub(super) bytes: u64,
    bodies: Arc<AtomicU64>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.bodies.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_reserve_no_more_memory_than_is_left_and_give_it_back() {
        let pressure = Admission::default();
        drop(pressure.reserve(u64::MAX / 2).unwrap());
        pressure.set_memory_left(100);
        let mut first = pressure.reserve(60).unwrap();
        assert!(pressure.reserve(41).is_none());
        assert!(pressure.reserve(u64::MAX).is_none());
        assert!(!pressure.reserve_more(&mut first, 41));
        assert!(pressure.reserve_more(&mut first, 30));
        let second = pressure.reserve(10).unwrap();
        drop(first);
        assert!(pressure.reserve(91).is_none());
        assert!(pressure.reserve(90).is_some());
        drop(second);
        assert!(pressure.reserve(100).is_some());
    }

    #[test]
    fn a_rate_lets_one_second_of_posts_come_at_once_and_then_refuses() {
        let pressure = Admission::default();
        let let_in = (0..1000).filter(|_| pressure.is_within_rate(100)).count();
        assert!((100..110).contains(&let_in), "{let_in}");
    }
}

//! Owns the refusal of requests because of load, before anything is read: the rate of POSTs, memory, connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// The size of a burst, in nanoseconds: the POSTs of this much time may arrive at once.
const BURST_NANOS: u64 = 1_000_000_000;

/// The load of the broker. Housekeeping reports memory, and the connection limiter reports connections.
#[derive(Debug)]
pub struct Admission {
    /// When the rate would have admitted all POSTs so far, in nanoseconds since the epoch.
    paced_until: AtomicU64,
    epoch: Instant,
    /// Bytes of memory that may still be used, as last measured.
    memory_left: AtomicU64,
    /// Bytes of bodies that are announced, being read, or kept until their dispatches end.
    bodies: Arc<AtomicU64>,
    is_short_of_connections: AtomicBool,
    needs_connections_for_replies: AtomicBool,
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
            needs_connections_for_replies: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
        }
    }
}

impl Admission {
    /// Whether a POST is within the rate, as a leaky bucket of one second.
    pub(super) fn is_within_rate(&self, rate: u32) -> bool {
        let now = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let interval = BURST_NANOS / u64::from(rate.max(1));
        let paced = self.paced_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
            let next = until.max(now) + interval;
            (next <= now + BURST_NANOS).then_some(next)
        });
        paced.is_ok()
    }

    /// Sets how many bytes of memory may still be used.
    pub fn set_memory_left(&self, bytes: u64) {
        self.memory_left.store(bytes, Ordering::Relaxed);
    }

    /// Whether dispatches are refused for lack of memory.
    pub(super) fn is_short_of_memory(&self) -> bool {
        self.memory_left.load(Ordering::Relaxed) == 0
    }

    /// Reserves memory for a body before it is read; none if all reservations together would exceed the memory left. A body
    /// that was read counts twice, as reserved and as used: its run may be copied once, and memory for that stays free.
    pub(super) fn reserve(&self, bytes: u64) -> Option<MemoryReservation> {
        let mut reserved = MemoryReservation { bytes: 0, bodies: self.bodies.clone() };
        self.reserve_more(&mut reserved, bytes).then_some(reserved)
    }

    /// Extends a reservation, for a body whose length was not announced; false if not enough memory is left.
    pub(super) fn reserve_more(&self, reserved: &mut MemoryReservation, bytes: u64) -> bool {
        let left = self.memory_left.load(Ordering::Relaxed);
        let grown = self.bodies.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bodies| {
            bodies.checked_add(bytes).filter(|&bodies| bodies <= left)
        });
        if grown.is_ok() {
            reserved.bytes += bytes;
        }
        grown.is_ok()
    }

    /// Sets whether the number of open connections is close to its limit.
    pub fn set_short_of_connections(&self, is_short: bool) {
        set(&self.is_short_of_connections, is_short);
    }

    /// Sets whether the connections that are still free are for the workers of open replies.
    pub fn set_connections_for_replies(&self, are_needed: bool) {
        set(&self.needs_connections_for_replies, are_needed);
    }

    /// Whether polls are refused, for lack of memory or because the connections that are left are for replies.
    pub(super) fn refuses_polls(&self) -> bool {
        self.is_short_of_memory() || self.needs_connections_for_replies.load(Ordering::Relaxed)
    }

    /// Sets that the process is ending: clients reach the next process only with a new connection.
    pub fn set_ending(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// Whether connections are closed after a response instead of kept alive.
    pub(super) fn closes_connections(&self) -> bool {
        self.is_short_of_connections.load(Ordering::Relaxed) || self.is_ending.load(Ordering::Relaxed)
    }
}

/// It is rarely another value. Not writing the same one spares the caches of other threads.
fn set(flag: &AtomicBool, value: bool) {
    if flag.load(Ordering::Relaxed) != value {
        flag.store(value, Ordering::Relaxed);
    }
}

/// Memory that is reserved for a body until this is dropped.
#[derive(Debug)]
pub(super) struct MemoryReservation {
    pub(super) bytes: u64,
    bodies: Arc<AtomicU64>,
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.bodies.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_reserve_no_more_memory_than_is_left_and_give_it_back() {
        let admission = Admission::default();
        drop(admission.reserve(u64::MAX / 2).unwrap());
        admission.set_memory_left(100);
        let mut first = admission.reserve(60).unwrap();
        assert!(admission.reserve(41).is_none());
        assert!(admission.reserve(u64::MAX).is_none());
        assert!(!admission.reserve_more(&mut first, 41));
        assert!(admission.reserve_more(&mut first, 30));
        let second = admission.reserve(10).unwrap();
        drop(first);
        assert!(admission.reserve(91).is_none());
        assert!(admission.reserve(90).is_some());
        drop(second);
        assert!(admission.reserve(100).is_some());
    }

    #[test]
    fn a_rate_lets_one_second_of_posts_come_at_once_and_then_refuses() {
        let admission = Admission::default();
        let admitted = (0..1000).filter(|_| admission.is_within_rate(100)).count();
        assert!((100..110).contains(&admitted), "{admitted}");
    }
}

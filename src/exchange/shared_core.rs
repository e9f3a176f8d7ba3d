//! Owns the one lock around the core, and the clock that gives the core its time.

use std::ops::DerefMut;
use std::time::Instant;

use super::sync::Mutex;
use super::waitlist::Waitlist;
use crate::broker::{Broker, Limits, MonotonicTime, SelectionPolicy};

/// How many slots are scanned before the lock is released for other threads.
pub const SCANNED_PER_LOCK: u32 = 256;
/// How many waiters are removed, moved or listed before the lock is released for other threads.
pub const TAKEN_PER_LOCK: usize = 64;
/// How many pools are listed before the lock is released for other threads.
pub const POOLS_PER_LOCK: u32 = 64;

/// What the lock protects.
pub(super) struct Core<W> {
    pub(super) broker: Broker<W>,
    pub(super) waitlist: Waitlist,
    /// The slot where the next share of a drain begins: no earlier slot has a waiter that the drain has to remove.
    pub(super) drained_to: u32,
}

pub(super) struct SharedCore<W> {
    core: Mutex<Core<W>>,
    epoch: Instant,
}

impl<W> SharedCore<W> {
    pub(super) fn new(limits: Limits, policy: SelectionPolicy) -> Self {
        let core = Core { broker: Broker::new(limits, policy), waitlist: Waitlist::new(), drained_to: 0 };
        Self { core: Mutex::new(core), epoch: Instant::now() }
    }

    pub(super) fn lock(&self) -> impl DerefMut<Target = Core<W>> {
        self.core.lock()
    }

    pub(super) fn now(&self) -> MonotonicTime {
        self.at(Instant::now())
    }

    /// Zero for an instant before the epoch.
    pub(super) fn at(&self, instant: Instant) -> MonotonicTime {
        MonotonicTime::default().plus(instant.saturating_duration_since(self.epoch))
    }
}

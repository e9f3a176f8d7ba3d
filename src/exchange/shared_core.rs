//! Owns the one lock around the core, and the clock that gives the core its time.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use super::sync::{Mutex, Notify};
use super::waitlist::Waitlist;
use crate::broker::{
    Broker, ChangedPool, Filter, Limits, MonotonicTime, Page, PoolSummary, SelectionPolicy, WaiterSummary,
};

/// How many slots are scanned before the lock is released for other threads.
pub const SCANNED_PER_LOCK: u32 = 256;
/// How many waiters are removed, moved or listed before the lock is released for other threads.
pub const TAKEN_PER_LOCK: usize = 64;
/// How many pools are listed before the lock is released for other threads.
pub const POOLS_PER_LOCK: u32 = 64;

/// A poll that comes to a draining broker is held for one to three times as long, at random, and then redirected. Without
/// another broker the client polls here again at once, and a client follows at most 20 redirects within one poll's time.
const HOLD_WHILE_DRAINING: Duration = Duration::from_secs(5);

/// What the lock protects.
pub(super) struct Core<W> {
    pub(super) broker: Broker<W>,
    pub(super) waitlist: Waitlist,
    /// The slot where the next share of a drain begins: no earlier slot has a waiter that the drain has to remove.
    pub(super) drained_to: u32,
}

impl<W> Core<W> {
    /// Until when a poll is held that may be held until `deadline`.
    pub(super) fn latest_deadline(&self, deadline: MonotonicTime, now: MonotonicTime) -> MonotonicTime {
        if self.broker.draining().is_none() {
            return deadline;
        }
        deadline.min(now.plus(HOLD_WHILE_DRAINING.mul_f64(1.0 + 2.0 * fastrand::f64())))
    }
}

pub(super) struct SharedCore<W> {
    core: Mutex<Core<W>>,
    epoch: Instant,
    /// Notified when the feed of changed pools is no longer empty.
    pools_changed: Notify,
}

impl<W> SharedCore<W> {
    pub(super) fn new(limits: Limits, policy: SelectionPolicy) -> Self {
        let core = Core { broker: Broker::new(limits, policy), waitlist: Waitlist::new(), drained_to: 0 };
        Self { core: Mutex::new(core), epoch: Instant::now(), pools_changed: Notify::new() }
    }

    pub(super) fn lock(&self) -> impl DerefMut<Target = Core<W>> {
        let wake = WakeOnDrop { is_due: false, notify: &self.pools_changed };
        Guard { core: self.core.lock(), wake }
    }

    /// The core, to remove waiters of unknown keys.
    pub(super) fn lock_to_remove(&self, reports_keys: bool) -> impl DerefMut<Target = Core<W>> {
        let mut core = self.lock();
        core.broker.report_keys(reports_keys);
        core
    }

    pub(super) fn now(&self) -> MonotonicTime {
        self.at(Instant::now())
    }

    /// Zero for an instant before the epoch.
    pub(super) fn at(&self, instant: Instant) -> MonotonicTime {
        MonotonicTime::default().plus(instant.saturating_duration_since(self.epoch))
    }

    pub(super) fn pools_page(&self, filter: &Filter, from: u32, max_rows: usize) -> Page<PoolSummary> {
        let mut found = Page { rows: Vec::new(), next: Some(from) };
        while let Some(slot) = found.next.filter(|_| found.rows.len() < max_rows) {
            let now = self.now();
            let wanted = u32::try_from(max_rows - found.rows.len()).unwrap_or(u32::MAX).min(POOLS_PER_LOCK);
            let page = self.lock().broker.pools_page(filter, now, slot, wanted);
            found.rows.extend(page.rows);
            found.next = page.next;
        }
        found
    }

    pub(super) fn waiters(&self, filter: &Filter, from: usize, max_rows: usize) -> Page<WaiterSummary> {
        let max_rows = max_rows.max(1);
        let mut found = Page { rows: Vec::new(), next: Some(u32::try_from(from).unwrap_or(u32::MAX)) };
        while let Some(slot) = found.next.filter(|_| found.rows.len() < max_rows) {
            let now = self.now();
            // The filter may select few waiters, so the number of slots to scan does not depend on the rows wanted.
            let wanted = (max_rows - found.rows.len()).min(TAKEN_PER_LOCK);
            let page = self.lock().broker.waiters_page(filter, now, slot, SCANNED_PER_LOCK, wanted);
            found.rows.extend(page.rows);
            found.next = page.next;
        }
        found
    }

    pub(super) fn take_changed_pools(&self, max: usize) -> Vec<ChangedPool> {
        let mut rows = Vec::new();
        let mut continues = true;
        while continues && rows.len() < max {
            let wanted = (max - rows.len()).min(POOLS_PER_LOCK as usize);
            let page;
            (page, continues) = self.lock().broker.take_changed_pools(wanted);
            rows.extend(page);
        }
        rows
    }

    pub(super) async fn pools_changed(&self) {
        self.pools_changed.notified().await;
    }
}

/// The lock while it is held.
struct Guard<'a, W, G: DerefMut<Target = Core<W>>> {
    /// Declared first, so that the lock is released before the wake.
    core: G,
    wake: WakeOnDrop<'a>,
}

impl<W, G: DerefMut<Target = Core<W>>> Deref for Guard<'_, W, G> {
    type Target = Core<W>;

    fn deref(&self) -> &Core<W> {
        &self.core
    }
}

impl<W, G: DerefMut<Target = Core<W>>> DerefMut for Guard<'_, W, G> {
    fn deref_mut(&mut self) -> &mut Core<W> {
        &mut self.core
    }
}

impl<W, G: DerefMut<Target = Core<W>>> Drop for Guard<'_, W, G> {
    fn drop(&mut self) {
        self.wake.is_due = self.core.broker.take_changes_begun();
    }
}

struct WakeOnDrop<'a> {
    is_due: bool,
    notify: &'a Notify,
}

impl Drop for WakeOnDrop<'_> {
    fn drop(&mut self) {
        if self.is_due {
            self.notify.notify_one();
        }
    }
}

//! Owns the connections that are idle between two requests, and closes those that exceed the idle timeout.
//!
//! A delivery does not wake the connection's own task, so that task cannot set a timer; and a timer for each request of a
//! supervisor would cost more than the rest of its wait. So only the time is stored when a connection becomes idle; it has one
//! entry in a queue, and is checked when that entry is due.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Time is counted in ticks of this length, so a connection may be closed two of them too late.
const TICK: Duration = Duration::from_millis(50);
/// A sweep counts at most this many ticks since the one before: in a longer pause of the process or of housekeeping, a
/// connection that becomes idle would be noted as idle since its beginning.
const MAX_TICKS_PER_SWEEP: u32 = 2;
/// After this many connections the queue's lock is released for others.
const BATCH: usize = 256;
/// The timeout that is announced to clients is this much shorter: otherwise they could send a request while we close.
const ANNOUNCED_MARGIN: Duration = Duration::from_secs(5);

/// A connection, as far as the queue uses it.
pub trait Idle {
    /// Its place in the queue.
    fn entry(&self) -> &IdleEntry;

    /// It is idle from this tick on.
    fn begin_idle(&self, since: u32);

    /// The tick since which it is idle, if it is.
    fn idle_since(&self) -> Option<u32>;

    /// Closes it if it is still idle since this tick and nothing was received. Returns whether it did.
    fn close_idle(&self, since: u32) -> bool;
}

/// The connections that are idle, and their timeout.
pub struct IdleQueue<C> {
    epoch: Instant,
    /// The tick of the last sweep, by the clock.
    swept: AtomicU32,
    /// The tick of the last sweep, without the rest of long pauses.
    now: AtomicU32,
    timeout: AtomicU32,
    entries: Mutex<Entries<C>>,
}

/// A connection's place in the queue.
#[derive(Default)]
pub struct IdleEntry {
    /// Its key; 0 while it is not in the queue.
    key: AtomicU64,
}

struct Entries<C> {
    serial: u32,
    /// By key: the tick at which the connection is checked, and a serial number.
    by_key: BTreeMap<u64, Weak<C>>,
}

impl<C> Default for IdleQueue<C> {
    fn default() -> Self {
        let (swept, now, timeout) = (AtomicU32::new(0), AtomicU32::new(1), AtomicU32::new(u32::MAX));
        let entries = Mutex::new(Entries { serial: 0, by_key: BTreeMap::new() });
        Self { epoch: Instant::now(), swept, now, timeout, entries }
    }
}

impl<C> IdleQueue<C> {
    /// From now on connections may be idle for this long.
    pub fn set_timeout(&self, timeout: Duration) {
        self.timeout.store(ticks(timeout), Ordering::Relaxed);
    }

    /// How long a connection may be idle.
    pub fn timeout(&self) -> Duration {
        TICK * self.timeout.load(Ordering::Relaxed)
    }

    /// The timeout that is announced to clients, in whole seconds.
    pub fn keep_alive_seconds(&self) -> u64 {
        self.timeout().saturating_sub(ANNOUNCED_MARGIN).as_secs()
    }

    /// Removes the entry of a connection that is dropped.
    pub(super) fn remove(&self, entry: &IdleEntry) {
        let key = entry.key.load(Ordering::Acquire);
        if key != 0 {
            let removed = self.entries.lock().by_key.remove(&key);
            drop(removed);
        }
    }

    fn expires_at(&self, since: u32) -> u32 {
        since.saturating_add(self.timeout.load(Ordering::Relaxed))
    }
}

impl<C: Idle> IdleQueue<C> {
    /// A response was written, and no byte of the next request was read: the connection is idle from now on.
    pub(super) fn insert(&self, connection: &Arc<C>) {
        // A part of the present tick is over already.
        let now = self.now.load(Ordering::Relaxed) + 1;
        connection.begin_idle(now);
        // A read-modify-write instead of a load: either it sees that a sweep has just removed the entry, or that sweep
        // sees `now`.
        let key = connection.entry().key.fetch_add(0, Ordering::AcqRel);
        let due = self.expires_at(now);
        // An entry is later than that only if the timeout has become shorter.
        let is_too_late = |key| key == 0 || tick_of(key) > due;
        if is_too_late(key) {
            let mut entries = self.entries.lock();
            let key = connection.entry().key.load(Ordering::Relaxed);
            if is_too_late(key) {
                let later = entries.by_key.remove(&key);
                drop(later);
                entries.insert(connection, due);
            }
        }
    }

    /// Closes the connections that exceed the timeout, and returns their number. To be called every tick: it also sets the
    /// time that [`IdleQueue::insert`] stores.
    pub fn sweep(&self) -> usize {
        let now = self.advance(ticks(self.epoch.elapsed()));
        let mut closed = 0;
        loop {
            let due = self.take_due(now);
            let is_last = due.len() < BATCH;
            // Dropped without the lock, because dropping a connection's last reference takes it to remove the entry.
            for (connection, since) in due {
                closed += usize::from(since.is_some_and(|since| connection.close_idle(since)));
            }
            if is_last {
                return closed;
            }
        }
    }

    /// Advances the time to a sweep at this tick by the clock, and returns it.
    fn advance(&self, clock: u32) -> u32 {
        let passed = clock.saturating_sub(self.swept.swap(clock, Ordering::Relaxed));
        let now = self.now.load(Ordering::Relaxed) + passed.min(MAX_TICKS_PER_SWEEP);
        self.now.store(now, Ordering::Relaxed);
        now
    }

    /// Removes a batch of entries that are due. Returns each connection, with the tick since which it is idle if it exceeds
    /// the timeout; one that does not gets its next entry.
    fn take_due(&self, now: u32) -> Vec<(Arc<C>, Option<u32>)> {
        let mut due = Vec::new();
        let mut entries = self.entries.lock();
        while due.len() < BATCH
            && let Some(entry) = entries.by_key.first_entry().filter(|entry| tick_of(*entry.key()) <= now)
        {
            let Some(connection) = entry.remove().upgrade() else { continue };
            connection.entry().key.swap(0, Ordering::AcqRel);
            let since = connection.idle_since();
            let expires_at = since.map(|since| self.expires_at(since));
            match expires_at.filter(|&expires_at| expires_at > now) {
                Some(expires_at) => {
                    entries.insert(&connection, expires_at);
                    due.push((connection, None));
                }
                None => due.push((connection, since)),
            }
        }
        due
    }
}

impl<C: Idle> Entries<C> {
    fn insert(&mut self, connection: &Arc<C>, due: u32) {
        self.serial = self.serial.wrapping_add(1);
        let key = u64::from(due) << 32 | u64::from(self.serial);
        connection.entry().key.store(key, Ordering::Release);
        let before = self.by_key.insert(key, Arc::downgrade(connection));
        drop(before);
    }
}

fn tick_of(key: u64) -> u32 {
    u32::try_from(key >> 32).unwrap_or(u32::MAX)
}

fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Never;

    impl Idle for Never {
        fn entry(&self) -> &IdleEntry {
            unreachable!("there is no connection")
        }
        fn begin_idle(&self, _: u32) {}
        fn idle_since(&self) -> Option<u32> {
            None
        }
        fn close_idle(&self, _: u32) -> bool {
            false
        }
    }

    #[test]
    fn a_pause_counts_as_two_ticks() {
        let queue = IdleQueue::<Never>::default();
        let times = [1, 2, 2, 4, 100, 101].map(|clock| queue.advance(clock));
        assert_eq!(times, [2, 3, 3, 5, 7, 8]);
    }
}

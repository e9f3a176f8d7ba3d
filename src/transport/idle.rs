//! Owns the connections that rest between two requests while nobody reads from them, and ends those that rest too long.
//!
//! Whoever hands over a run does not wake the connection's own task, so that task cannot set a timer. A delivery only notes
//! the time; a connection stands in the queue once, and is looked at when the timeout is over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Connection;

/// Time is counted in ticks of this length: how exact the timeout is.
const TICK: Duration = Duration::from_millis(50);
/// So many connections are looked at before the lock is let go for others.
const BATCH: usize = 256;
/// Clients are told so much less than the timeout: else they send a request while we close.
const MARGIN: Duration = Duration::from_secs(5);

/// The connections that rest.
pub struct IdleConnections {
    epoch: Instant,
    /// The tick of the last sweep.
    now: AtomicU32,
    timeout: AtomicU32,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    serial: u32,
    /// By the tick at which they are looked at, and a number of their own.
    due: BTreeMap<u64, Weak<Connection>>,
}

/// What a connection knows of its rests.
#[derive(Default)]
pub(super) struct IdleEntry {
    /// Its key in the queue; 0 if it stands in none.
    key: AtomicU64,
}

impl Default for IdleConnections {
    fn default() -> Self {
        let (now, timeout) = (AtomicU32::new(1), AtomicU32::new(u32::MAX));
        Self { epoch: Instant::now(), now, timeout, queue: Mutex::default() }
    }
}

impl IdleConnections {
    /// From now on connections may rest so long.
    pub fn set_timeout(&self, timeout: Duration) {
        self.timeout.store(ticks(timeout), Ordering::Relaxed);
    }

    /// How long a connection may rest.
    pub fn timeout(&self) -> Duration {
        TICK * self.timeout.load(Ordering::Relaxed)
    }

    /// What clients are told that the timeout is, in whole seconds.
    pub fn keep_alive_seconds(&self) -> u64 {
        self.timeout().saturating_sub(MARGIN).as_secs()
    }

    /// An answer was written, and nobody reads yet from the connection: it rests from now on.
    pub(super) fn insert(&self, connection: &Arc<Connection>) {
        let now = self.now.load(Ordering::Relaxed);
        connection.handover.begin_idle(now);
        // Read by writing: either this sees that a sweep has just taken the connection out, or the sweep sees the rest.
        if connection.idle_entry.key.fetch_add(0, Ordering::AcqRel) == 0 {
            let mut queue = self.queue.lock();
            if connection.idle_entry.key.load(Ordering::Relaxed) == 0 {
                queue.insert(connection, self.ends(now));
            }
        }
    }

    /// Ends the connections that have rested for the timeout, and returns how many. Called often: its pace is the clock's.
    pub fn sweep(&self) -> usize {
        let now = ticks(self.epoch.elapsed()).max(1);
        self.now.store(now, Ordering::Relaxed);
        let mut ended = 0;
        loop {
            let due = self.take_due(now);
            let is_last = due.len() < BATCH;
            // Dropped with the lock let go: a connection that ends takes itself out of the queue.
            for (connection, since) in due {
                ended += usize::from(since.is_some_and(|since| connection.close_idle(since)));
            }
            if is_last {
                return ended;
            }
        }
    }

    /// Takes out those that are due, each with the tick since which it has rested if that is too long ago.
    fn take_due(&self, now: u32) -> Vec<(Arc<Connection>, Option<u32>)> {
        let mut due = Vec::new();
        let mut queue = self.queue.lock();
        while due.len() < BATCH
            && let Some(entry) = queue.due.first_entry().filter(|entry| tick_of(*entry.key()) <= now)
        {
            let Some(connection) = entry.remove().upgrade() else { continue };
            connection.idle_entry.key.swap(0, Ordering::AcqRel);
            let since = connection.handover.idle_since();
            let ends = since.map(|since| self.ends(since));
            match ends.filter(|&ends| ends > now) {
                Some(ends) => {
                    queue.insert(&connection, ends);
                    due.push((connection, None));
                }
                None => due.push((connection, since)),
            }
        }
        due
    }

    /// A connection is no more.
    pub(super) fn remove(&self, rest: &IdleEntry) {
        let key = rest.key.load(Ordering::Acquire);
        if key != 0 {
            let gone = self.queue.lock().due.remove(&key);
            drop(gone);
        }
    }

    fn ends(&self, since: u32) -> u32 {
        since.saturating_add(self.timeout.load(Ordering::Relaxed))
    }
}

impl Queue {
    fn insert(&mut self, connection: &Arc<Connection>, due: u32) {
        self.serial = self.serial.wrapping_add(1);
        let key = u64::from(due) << 32 | u64::from(self.serial);
        connection.idle_entry.key.store(key, Ordering::Release);
        let before = self.due.insert(key, Arc::downgrade(connection));
        drop(before);
    }
}

fn tick_of(key: u64) -> u32 {
    u32::try_from(key >> 32).unwrap_or(u32::MAX)
}

fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX)
}

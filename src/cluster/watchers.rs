//! Owns the runs that wait for another broker to announce a waiter: an announcement of so many waiters wakes as many runs.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::codec::Row;
use super::digest::Digest;

type ByPool = HashMap<Digest, VecDeque<Arc<Notify>>, RandomState>;

/// Waiting runs by pool, the first that came first.
#[derive(Default)]
pub(super) struct Watchers(Mutex<ByPool>);

/// A run that waits, until it is dropped.
pub(super) struct Watcher {
    watchers: Arc<Watchers>,
    pool: Digest,
    notify: Arc<Notify>,
    was_woken: bool,
}

impl Watchers {
    pub(super) fn watch(self: &Arc<Self>, pool: Digest) -> Watcher {
        let notify = Arc::new(Notify::new());
        self.0.lock().entry(pool).or_default().push_back(notify.clone());
        Watcher { watchers: self.clone(), pool, notify, was_woken: false }
    }

    /// Another broker has announced waiters.
    pub(super) fn announced(&self, row: &Row) {
        let count = usize::try_from(row.waiters.into_iter().max().unwrap_or_default()).unwrap_or(usize::MAX);
        if let Some(watching) = self.0.lock().get_mut(&row.pool.key) {
            let woken = count.min(watching.len());
            for notify in watching.iter().take(woken) {
                notify.notify_one();
            }
            // The next announcement wakes the others first.
            watching.rotate_left(woken);
        }
    }

    /// A broker that had announced waiters can be reached again.
    pub(super) fn wake_all(&self) {
        for notify in self.0.lock().values().flatten() {
            notify.notify_one();
        }
    }
}

impl Watcher {
    /// Returns when another broker may have a waiter.
    pub(super) async fn announced(&mut self) {
        self.notify.notified().await;
        self.was_woken = true;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut by_pool = self.watchers.0.lock();
        let Some(watching) = by_pool.get_mut(&self.pool) else { return };
        watching.retain(|other| !Arc::ptr_eq(other, &self.notify));
        // It may have found a waiter elsewhere: then the one that woke it is there for another run.
        if self.was_woken
            && let Some(next) = watching.front()
        {
            next.notify_one();
        }
        if watching.is_empty() {
            by_pool.remove(&self.pool);
        }
    }
}

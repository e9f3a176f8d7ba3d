//! Owns the cursor: where a subscriber is in the log.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::journal::record::EventKinds;

/// Where a subscriber is in the log. Its numbers change only under the log's lock.
pub(super) struct EventCursor {
    /// Its topic's place in the index.
    pub(super) topic: usize,
    pub(super) kinds: EventKinds,
    /// The subscriber has read its events before this number.
    pub(super) next: AtomicU64,
    /// Events that were dropped before the subscriber could read them; it has not been notified of them yet.
    pub(super) missed: AtomicU64,
    pub(super) added: Notify,
    has_lagged: AtomicBool,
    lagged: Notify,
}

impl EventCursor {
    pub(super) fn new(topic: usize, kinds: EventKinds, next: u64, missed: u64) -> Self {
        Self {
            topic,
            kinds,
            next: AtomicU64::new(next),
            missed: AtomicU64::new(missed),
            added: Notify::new(),
            has_lagged: AtomicBool::new(false),
            lagged: Notify::new(),
        }
    }

    pub(super) fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    pub(super) fn has_lagged(&self) -> bool {
        self.has_lagged.load(Ordering::Relaxed)
    }

    /// An event that the subscriber has not read has left the log.
    pub(super) fn set_lagged(&self) {
        self.has_lagged.store(true, Ordering::Relaxed);
        self.lagged.notify_one();
    }

    pub(super) async fn lagged(&self) {
        while !self.has_lagged() {
            self.lagged.notified().await;
        }
    }
}

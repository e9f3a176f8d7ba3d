//! Owns how many operators' connections there are: when there is no room, the one that has been silent for longest makes some,
//! so that a flood of silent ones keeps no probe out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The places of all ops listeners.
pub(in crate::server) struct Room {
    most: usize,
    taken: AtomicUsize,
    /// Connections that had not asked for anything when they were last looked at, the oldest first.
    silent: Mutex<VecDeque<Weak<Seat>>>,
}

/// A connection's place, free again when this is dropped.
pub(super) struct Seat {
    room: Arc<Room>,
    has_asked: AtomicBool,
    given_away: Notify,
}

impl Room {
    /// With so many places.
    pub(in crate::server) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: AtomicUsize::new(0), silent: Mutex::default() })
    }

    /// A place, if need be that of a silent connection. None if there is none.
    pub(super) fn seat(self: &Arc<Self>) -> Option<Arc<Seat>> {
        let mut silent = self.silent.lock();
        silent.retain(|seat| seat.upgrade().is_some_and(|seat| !seat.has_asked.load(Ordering::Relaxed)));
        if self.taken.load(Ordering::Relaxed) >= self.most {
            silent.pop_front()?.upgrade()?.given_away.notify_one();
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        let (has_asked, given_away) = (AtomicBool::new(false), Notify::new());
        let seat = Arc::new(Seat { room: self.clone(), has_asked, given_away });
        silent.push_back(Arc::downgrade(&seat));
        Some(seat)
    }
}

impl Seat {
    /// Something was asked for: the place is not given to another one any more.
    pub(super) fn asked(&self) {
        self.has_asked.store(true, Ordering::Relaxed);
    }

    /// Waits until the place is given to another one.
    pub(super) async fn is_given_away(&self) {
        self.given_away.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

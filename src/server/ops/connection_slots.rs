//! Owns how many operators' connections there are, so that a probe always comes in: when there is no room, the one that has
//! been quiet for longest makes some, and readers of events never take it all.

use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Of so many places, readers of events leave one to others.
const ONE_FREE_OF: usize = 5;

/// The places of all ops listeners.
pub(in crate::server) struct ConnectionSlots {
    most: usize,
    seats: Mutex<Vec<Weak<ConnectionSlot>>>,
}

/// A connection's place, free again when this is dropped.
pub(super) struct ConnectionSlot {
    room: Arc<ConnectionSlots>,
    state: Mutex<State>,
    given_away: Notify,
}

/// What a connection does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is to be answered since then.
    Quiet(Instant),
    /// It has asked for something.
    Asking,
    /// It reads events for as long as it likes.
    Following,
}

impl ConnectionSlots {
    /// With so many places.
    pub(in crate::server) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, seats: Mutex::default() })
    }

    /// A place, if need be that of a quiet connection. None if there is none.
    pub(super) fn take_slot(self: &Arc<Self>) -> Option<Arc<ConnectionSlot>> {
        let mut seats = self.seats.lock();
        seats.retain(|seat| seat.strong_count() > 0);
        if seats.len() >= self.most {
            let quiet = |(place, seat): (usize, &Weak<ConnectionSlot>)| {
                let state = *seat.upgrade()?.state.lock();
                if let State::Quiet(since) = state { Some((since, place)) } else { None }
            };
            let (_, longest) = seats.iter().enumerate().filter_map(quiet).min()?;
            if let Some(seat) = seats.swap_remove(longest).upgrade() {
                seat.given_away.notify_one();
            }
        }
        let state = Mutex::new(State::Quiet(Instant::now()));
        let seat = Arc::new(ConnectionSlot { room: self.clone(), state, given_away: Notify::new() });
        seats.push(Arc::downgrade(&seat));
        Some(seat)
    }
}

impl ConnectionSlot {
    /// Something was asked for: until it is answered, the place is not given to another one.
    pub(super) fn asked(&self) {
        *self.state.lock() = State::Asking;
    }

    /// The answer is there.
    pub(super) fn answered(&self) {
        *self.state.lock() = State::Quiet(Instant::now());
    }

    /// Keeps the place for a reader of events; not if too many do.
    pub(super) fn follow(&self) -> bool {
        let seats = self.room.seats.lock();
        let follows = |seat: &Arc<Self>| *seat.state.lock() == State::Following;
        let readers = seats.iter().filter_map(Weak::upgrade).filter(follows).count();
        let may = readers < self.room.most - self.room.most.div_ceil(ONE_FREE_OF);
        if may {
            *self.state.lock() = State::Following;
        }
        may
    }

    /// Waits until the place is given to another one.
    pub(super) async fn revoked(&self) {
        self.given_away.notified().await;
    }
}

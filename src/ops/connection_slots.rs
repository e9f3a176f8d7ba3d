//! Owns the number of connections to the ops listeners. When all slots are taken, the connection that has been idle for
//! longest loses its slot, and event streams never take all of them: so a health probe always gets one.

use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Event streams leave at least one of this many slots free.
const ONE_FREE_OF: usize = 5;

/// The slots of all ops listeners together.
pub struct ConnectionSlots {
    capacity: usize,
    taken: Mutex<Vec<Weak<ConnectionSlot>>>,
}

/// The slot of one connection, free again when this is dropped.
pub struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    state: Mutex<SlotState>,
    revoked: Notify,
}

/// What a connection does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SlotState {
    /// It has had no request to answer since then.
    Idle(Instant),
    /// It waits for a response.
    Busy,
    /// It streams events, without a limit of time.
    Streaming,
}

impl ConnectionSlots {
    /// Slots for this many connections.
    pub fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { capacity, taken: Mutex::default() })
    }

    /// Takes a slot, if necessary that of the connection that has been idle for longest. `None` if no connection is idle.
    pub fn take(self: &Arc<Self>) -> Option<Arc<ConnectionSlot>> {
        let mut taken = self.taken.lock();
        taken.retain(|slot| slot.strong_count() > 0);
        if taken.len() >= self.capacity {
            let idle = |(index, slot): (usize, &Weak<ConnectionSlot>)| {
                let state = *slot.upgrade()?.state.lock();
                if let SlotState::Idle(since) = state { Some((since, index)) } else { None }
            };
            let (_, longest) = taken.iter().enumerate().filter_map(idle).min()?;
            if let Some(slot) = taken.swap_remove(longest).upgrade() {
                slot.revoked.notify_one();
            }
        }
        let state = Mutex::new(SlotState::Idle(Instant::now()));
        let slot = Arc::new(ConnectionSlot { slots: self.clone(), state, revoked: Notify::new() });
        taken.push(Arc::downgrade(&slot));
        Some(slot)
    }
}

impl ConnectionSlot {
    /// Keeps the slot from being revoked until the request is answered.
    pub(super) fn begin_request(&self) {
        *self.state.lock() = SlotState::Busy;
    }

    /// Lets the slot be revoked again.
    pub(super) fn end_request(&self) {
        *self.state.lock() = SlotState::Idle(Instant::now());
    }

    /// Keeps the slot for an event stream. False if there are too many of them.
    pub(super) fn begin_stream(&self) -> bool {
        let taken = self.slots.taken.lock();
        let is_streaming = |slot: &Arc<Self>| *slot.state.lock() == SlotState::Streaming;
        let streams = taken.iter().filter_map(Weak::upgrade).filter(is_streaming).count();
        let has_room = streams < self.slots.capacity - self.slots.capacity.div_ceil(ONE_FREE_OF);
        if has_room {
            *self.state.lock() = SlotState::Streaming;
        }
        has_room
    }

    /// Waits until another connection gets this slot.
    pub async fn revoked(&self) {
        self.revoked.notified().await;
    }
}

//! Owns how a controller waits with several slots, and what it receives in all of these ways.

/// How many slots the controller in this place has: one to eight.
pub(super) fn slots(place: usize) -> usize {
    1 + place % 8
}

/// How a controller waits on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    WebSocket,
    EventStream,
}

/// A run that was received, and what acknowledges it.
pub(super) struct Delivery {
    pub(super) payload: Vec<u8>,
    pub(super) acknowledgement: Acknowledgement,
}

/// What acknowledges a run and frees its slot.
pub(super) enum Acknowledgement {
    Messages(Vec<u8>),
    Targets { ack: String, ready: String },
}

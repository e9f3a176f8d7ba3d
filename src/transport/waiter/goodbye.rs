//! Owns why a session ends, where it can still be said.

use crate::broker::LimitReached;
use crate::model::PollEnd;
use crate::transport::websocket::{RejectedMessage, Violation};

/// Goodbyes are spread over the drain's window, so that a short, random delay is enough for a controller to come back.
const MAX_RETRY_MS: u64 = 1000;

/// After how many milliseconds a controller should come back that is sent away by a drain.
pub(super) fn retry_in_ms() -> u64 {
    fastrand::u64(..MAX_RETRY_MS)
}

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) enum Goodbye {
    /// The broker is draining: the controller should connect again, to another one if there is one.
    Drained,
    /// An operator has retired the controller: it should not come back.
    Retired,
    /// The same controller waits on a newer connection.
    Replaced,
    /// A limit of waiters leaves no place for another slot.
    Limit(LimitReached),
    /// The controller has broken the WebSocket protocol.
    Violation(Violation),
    /// A message of the controller is not understood.
    Rejected(RejectedMessage),
    /// The controller has more slots ready than it may.
    TooManySlots,
    /// The controller has acknowledged an offer that was never made.
    UnknownOffer,
    /// The controller has closed the WebSocket, with this code if it gave one.
    Closed(Option<u16>),
}

impl Goodbye {
    /// How the slots that are still in their pool end.
    pub(super) fn poll_end(self) -> PollEnd {
        match self {
            Self::Drained => PollEnd::Drained,
            Self::Retired => PollEnd::Retired,
            Self::Replaced => PollEnd::Replaced,
            Self::Limit(_)
            | Self::Violation(_)
            | Self::Rejected(_)
            | Self::TooManySlots
            | Self::UnknownOffer
            | Self::Closed(_) => PollEnd::ClientGone,
        }
    }
}

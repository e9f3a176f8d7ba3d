//! Owns the kinds of waiter: an entry of a pool that a run can be offered to, whatever holds it.
//!
//! There is one file per kind, and one arm in each `match`. The code that removes a waiter from its pool calls
//! [`Waiter::offer`] or [`Waiter::close`], or drops it, which closes the connection of a poll, and lets a slot wait again.
//!
//! ```text
//! LongPoll ────────────────────────────► Connection
//! WebSocket, EventStream ─ Slot ► Session ─► Connection      websocket, sse: what a session writes
//! ```

mod goodbye;
mod long_poll;
mod offer_token;
mod offers;
mod owner;
mod run_write;
mod session;
mod session_offers;
mod session_state;
mod slot;
mod sse;
mod websocket;

use std::net::IpAddr;
use std::ops::ControlFlow;

use super::delivery::{Delivery, DeliveryRequirements, Run};
use super::liveness::Liveness;
use super::response_format::CloseReason;
use crate::model::Proof;
pub(super) use goodbye::Goodbye;
pub use long_poll::{LongPoll, ProvingLongPoll};
pub use offer_token::OfferToken;
pub(super) use offers::AckEnd;
pub use owner::SessionOwner;
pub use session::Session;
pub(super) use session_state::{Duty, SessionContext};
pub use session_state::{MAX_SLOTS, Receipt, ReceiptError, SessionKind, TooManySlots};
pub use slot::{ProvingSlot, Slot};
pub use sse::write_beginning;

/// The exchange of these waiters.
pub type Exchange = crate::exchange::Exchange<Waiter>;
/// A waiter's place in its pool, held by the connection's task.
pub type ParkedGuard = crate::exchange::ParkedGuard<Waiter>;

/// A waiter as the exchange keeps it.
pub enum Waiter {
    /// A held GET.
    LongPoll(LongPoll),
    /// A held GET with metadata. A variant of its own, so that the others pay nothing for it.
    LongPollWithMetadata(Box<(LongPoll, Box<str>)>),
    /// A slot of a WebSocket.
    WebSocket(Slot),
    /// A slot of a stream of server-sent events.
    EventStream(Slot),
}

impl Waiter {
    /// A held GET, and what it says to whoever claims it.
    pub fn long_poll(waiter: LongPoll, metadata: Option<&str>) -> Self {
        match metadata {
            None => Self::LongPoll(waiter),
            Some(metadata) => Self::LongPollWithMetadata(Box::new((waiter, metadata.into()))),
        }
    }

    /// What it says to whoever claims it, which may be a secret.
    pub fn metadata(&self) -> Option<&str> {
        match self {
            Self::LongPoll(_) => None,
            Self::LongPollWithMetadata(waiter) => Some(&waiter.1),
            Self::WebSocket(slot) | Self::EventStream(slot) => slot.metadata(),
        }
    }

    /// Writes as much of a run as the kernel takes now. `Break` if the offer has ended; `Continue` if its proof takes time.
    /// Unless the required proof is reached, no byte of the run is sent any more after the offer has ended.
    ///
    /// It runs in the caller's task: waking the waiter's own task would double the latency.
    pub fn offer(self, run: &Run, requirements: DeliveryRequirements) -> ControlFlow<Delivery, PendingProof> {
        match self {
            Self::LongPoll(waiter) => waiter.offer(run, requirements).map_continue(PendingProof::LongPoll),
            Self::LongPollWithMetadata(waiter) => {
                waiter.0.offer(run, requirements).map_continue(PendingProof::LongPoll)
            }
            Self::WebSocket(slot) | Self::EventStream(slot) => {
                slot.offer(run, requirements).map_continue(PendingProof::Slot)
            }
        }
    }

    /// Ends the wait without a run: a slot's whole session.
    pub fn close(self, reason: CloseReason<'_>) {
        match self {
            Self::LongPoll(waiter) => waiter.close(reason),
            Self::LongPollWithMetadata(waiter) => waiter.0.close(reason),
            Self::WebSocket(slot) | Self::EventStream(slot) => slot.close(reason),
        }
    }

    /// The strongest proof that a delivery to it can reach. An acknowledgement is the process's own, also behind proxies.
    pub fn strongest_proof(&self) -> Proof {
        match self {
            Self::LongPoll(waiter) => waiter.strongest_proof(),
            Self::LongPollWithMetadata(waiter) => waiter.0.strongest_proof(),
            Self::WebSocket(_) | Self::EventStream(_) => Proof::Received,
        }
    }

    /// Whether its connection ends with the run that it gets, so that the kind of end shows whether the run was read, and what
    /// is in between. A session goes on: without an acknowledgement its controller has not taken the run, however it ended.
    pub fn ends_with_run(&self) -> bool {
        match self {
            Self::LongPoll(_) | Self::LongPollWithMetadata(_) => true,
            Self::WebSocket(_) | Self::EventStream(_) => false,
        }
    }

    /// The address that it waits from.
    pub fn origin(&self) -> IpAddr {
        match self {
            Self::LongPoll(waiter) => waiter.origin(),
            Self::LongPollWithMetadata(waiter) => waiter.0.origin(),
            Self::WebSocket(slot) | Self::EventStream(slot) => slot.origin(),
        }
    }

    /// A check whether its machine is alive, which outlives the waiter.
    pub fn liveness(&self) -> Liveness {
        match self {
            Self::LongPoll(waiter) => waiter.liveness(),
            Self::LongPollWithMetadata(waiter) => waiter.0.liveness(),
            Self::WebSocket(slot) | Self::EventStream(slot) => slot.liveness(),
        }
    }
}

/// An offer whose proof takes time.
pub enum PendingProof {
    /// Of a held GET.
    LongPoll(ProvingLongPoll),
    /// Of a slot.
    Slot(ProvingSlot),
}

impl PendingProof {
    /// Writes the rest, and proves the delivery before its deadline.
    pub async fn prove(self) -> Delivery {
        match self {
            Self::LongPoll(proving) => proving.prove().await,
            Self::Slot(proving) => proving.prove().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_is_as_large_as_a_long_poll_without_metadata() {
        assert_eq!(size_of::<Waiter>(), size_of::<LongPoll>());
    }
}

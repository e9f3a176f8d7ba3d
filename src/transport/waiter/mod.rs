//! Owns the kinds of waiter: an entry of a pool that a run can be offered to, whatever holds it.
//!
//! There is one file per kind, and one arm in each `match`. The code that removes a waiter from its pool calls
//! [`Waiter::offer`] or [`Waiter::close`], or drops it, which closes its connection.
//!
//! Planned for future kinds: a kind that carries replies gets a method for that beside [`Waiter::strongest_proof`]; one with
//! several waiters on a connection (WebSocket, server-sent events) gets one that returns whether its connection is free to
//! be written to. A long poll that is not free is over, so `offer` checks that by itself.

mod long_poll;

use std::net::IpAddr;
use std::ops::ControlFlow;

use super::delivery::{Delivery, DeliveryRequirements, Run};
use super::liveness::Liveness;
use super::response_format::CloseReason;
use crate::model::Proof;
pub use long_poll::{LongPoll, ProvingLongPoll};

/// The exchange of these waiters.
pub type Exchange = crate::exchange::Exchange<Waiter>;
/// A waiter's place in its pool, held by the connection's task.
pub type ParkedGuard = crate::exchange::ParkedGuard<Waiter>;

/// A waiter as the exchange keeps it.
pub enum Waiter {
    /// A held GET.
    LongPoll(LongPoll),
}

impl Waiter {
    /// Writes as much of a run as the kernel takes now. `Break` if the offer has ended; `Continue` if its proof takes time.
    /// Unless the required proof is reached, no byte of the run is sent any more after the offer has ended.
    ///
    /// It runs in the caller's task: waking the waiter's own task would double the latency.
    pub fn offer(self, run: &Run, requirements: DeliveryRequirements) -> ControlFlow<Delivery, PendingProof> {
        match self {
            Self::LongPoll(waiter) => waiter.offer(run, requirements).map_continue(PendingProof::LongPoll),
        }
    }

    /// Ends the wait without a run.
    pub fn close(self, reason: CloseReason<'_>) {
        match self {
            Self::LongPoll(waiter) => waiter.close(reason),
        }
    }

    /// The strongest proof that a delivery to it can reach.
    pub fn strongest_proof(&self) -> Proof {
        match self {
            Self::LongPoll(waiter) => waiter.strongest_proof(),
        }
    }

    /// The address that it waits from.
    pub fn origin(&self) -> IpAddr {
        match self {
            Self::LongPoll(waiter) => waiter.origin(),
        }
    }

    /// A check whether its machine is alive, which outlives the waiter.
    pub fn liveness(&self) -> Liveness {
        match self {
            Self::LongPoll(waiter) => waiter.liveness(),
        }
    }
}

/// An offer whose proof takes time.
pub enum PendingProof {
    /// Of a held GET.
    LongPoll(ProvingLongPoll),
}

impl PendingProof {
    /// Writes the rest, and proves the delivery before its deadline.
    pub fn prove(self) -> impl Future<Output = Delivery> + Send {
        match self {
            Self::LongPoll(proving) => proving.prove(),
        }
    }
}

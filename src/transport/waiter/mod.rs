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

use super::delivery::{Delivery, DeliveryRequirements, Run};
use super::liveness::Liveness;
use super::response_format::CloseReason;
use crate::model::Proof;
pub use long_poll::LongPoll;

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
    /// Delivers a run and proves it as required, before the deadline. Unless the proof is reached, no byte of the run
    /// is sent any more after this returns.
    ///
    /// It runs in the caller's task: waking the waiter's own task would double the latency. (It is no async function,
    /// which would store every argument twice.)
    pub fn offer(
        self,
        run: &Run,
        requirements: DeliveryRequirements,
    ) -> impl Future<Output = Delivery> + Send {
        match self {
            Self::LongPoll(waiter) => waiter.offer(run, requirements),
        }
    }

    /// Ends the wait without a run.
    pub fn close(self, reason: CloseReason) {
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

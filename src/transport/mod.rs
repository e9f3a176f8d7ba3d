//! Owns the way to a waiter: holding it, handing it a run, saying goodbye. Knows sockets, not statuses.
//!
//! [`Waiter`] is the seam: what stands in a pool and can be offered a run. Today it is a long poll on a
//! socket, plain or with TLS; other ways to wait (WebSocket, server-sent events, HTTP/2) are other kinds of waiter behind
//! the same two calls, [`Waiter::offer`] and [`Waiter::dismiss`].

mod atomics;
mod connection;
mod flags;
mod handover;
mod held_poll;
mod idle;
mod io;
mod liveness;
mod origin;
mod proof;
mod socket;
mod tls;
mod waiter;

use std::borrow::Cow;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::model::{Proof, Verdict};

pub use connection::Connection;
pub use held_poll::{HeldPoll, HoldEnd};
pub use idle::IdleConnections;
pub use io::Io;
pub use liveness::{KEEPALIVE_IDLE, Liveness};
pub use tls::TlsSession;
pub use waiter::Waiter;

/// The exchange of waiters that transport can reach.
pub type Exchange = crate::exchange::Exchange<Waiter>;
/// A place in that exchange.
pub type Place = crate::exchange::ParkedGuard<Waiter>;

/// A run on its way to a waiter.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its name, as the supervisor or the broker gave it. Printable ASCII.
    pub id: Box<str>,
    /// The payload's media type, as a header value.
    pub content_type: Bytes,
    /// The bytes to relay, unchanged.
    pub payload: Bytes,
}

/// What an offer has to reach, and by when.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryRequirements {
    /// The proof that makes it a delivery.
    pub proof: Proof,
    /// How long an acknowledged run may stay unread.
    pub read_timeout: Duration,
    /// Everything has to be taken by then, at the speed of the moment: it leaves time for the proof, or for another waiter.
    pub taken_by: Instant,
    /// The verdict is in by then.
    pub until: Instant,
}

/// How an offer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// What is known of it.
    pub verdict: Verdict,
    /// No byte was sent, so the run may go to another waiter whatever the rules on redelivery.
    pub nothing_sent: bool,
    /// Every byte was sent and seen acknowledged.
    pub acked: bool,
    /// It ended because the time for it was over, not by anything that its peer did or left undone.
    pub by_budget: bool,
}

impl Delivery {
    fn untouched(verdict: Verdict) -> Self {
        Self { verdict, nothing_sent: true, acked: false, by_budget: false }
    }
}

/// Why a waiter is sent away without a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Its time is over.
    Expired,
    /// The broker ends: wait elsewhere.
    Drained,
    /// An operator sends it away for good.
    Retired,
    /// The same controller waits on a newer connection.
    Replaced,
}

/// What is written to a waiter that is sent away, and whether its connection goes on afterwards.
#[derive(Debug, Clone)]
pub struct CloseResponse {
    /// The whole answer; empty to close without one.
    pub bytes: Cow<'static, [u8]>,
    /// Whether the connection may carry another request.
    pub reusable: bool,
}

/// How one dialect puts a run or a goodbye on the wire; the statuses in it are the dialect's business.
#[derive(Debug)]
pub struct ResponseFormat {
    /// Appends the head of the answer that carries a run; the payload follows in the same write. If the connection goes on
    /// afterwards, the client is told for how many seconds it may rest.
    pub head: fn(run: &Run, keep_alive: Option<u64>, head: &mut Vec<u8>),
    /// The answer to a waiter that is sent away. If its connection can go on, it may rest for so many seconds.
    pub close_response: fn(farewell: CloseReason, keep_alive: Option<u64>) -> CloseResponse,
}

//! Owns what a session's task and its offers share, behind one lock.

use std::task::Waker;

use parking_lot::Mutex;
use prometheus::IntGauge;
use smallvec::SmallVec;

use super::goodbye::Goodbye;
use super::offers::Offers;
use crate::broker::WaiterId;
use crate::model::{PollEnd, Transport};

/// The most slots of one session that are ready and have no run yet.
pub const MAX_SLOTS: u16 = 256;

/// What all sessions of a broker share.
pub(in crate::transport) struct SessionContext {
    /// How many slots wait on each kind of session.
    pub(in crate::transport) waiting: [IntGauge; 2],
    /// The id of this broker in its cluster, which can change.
    pub(in crate::transport) broker: Mutex<Option<u128>>,
    /// Takes a slot out of its pool, if it is still there.
    pub(in crate::transport) withdraw: Withdraw,
}

/// Takes a waiter out of its pool.
pub(in crate::transport) type Withdraw = Box<dyn Fn(WaiterId, PollEnd) + Send + Sync>;

/// How a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    /// A WebSocket.
    WebSocket,
    /// A stream of server-sent events.
    EventStream {
        /// The events are HTTP chunks; without it, the end of the connection is the end of the stream.
        is_chunked: bool,
    },
}

impl SessionKind {
    /// What holds the waiters of each kind, by its index.
    pub(in crate::transport) const TRANSPORTS: [Transport; 2] =
        [Transport::WebSocket, Transport::EventStream];

    /// The index of the kind.
    pub(in crate::transport) const fn index(self) -> usize {
        match self {
            Self::WebSocket => 0,
            Self::EventStream { .. } => 1,
        }
    }
}

/// What a session's task and its offers share.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, which every session pays for")]
pub(super) struct SessionState {
    pub(super) phase: Phase,
    /// An offer's write is unfinished.
    pub(super) is_writing: bool,
    /// At the last heartbeat something was awaited that has not come since: a pong, or the end of the session.
    pub(super) is_overdue: bool,
    /// At the last heartbeat something waited to be written, and was not written since.
    pub(super) was_stuck: bool,
    /// A slot found no place in its pool, and nothing is parked before the next heartbeat.
    pub(super) is_deferred: bool,
    /// Slots that are ready and have no run.
    pub(super) ready: u16,
    /// Those of them that are in no pool.
    pub(super) to_park: u16,
    /// How many of these have had a place before.
    pub(super) returning: u16,
    /// The ticket of the newest slot; slots are told apart by it.
    pub(super) last_ticket: u32,
    /// Whether the newest slot is being parked, and was not claimed yet.
    pub(super) is_parking: bool,
    /// The other slots that are in their pool.
    pub(super) parked: SmallVec<[(u32, WaiterId); 1]>,
    pub(super) offers: Offers,
    /// Bytes that the kernel has taken.
    pub(super) written: u64,
    /// What is to be written between two runs.
    pub(super) control: Vec<u8>,
    /// The length of the pong that `control` ends with. If less is there, its beginning was sent. Zero if it ends otherwise.
    pub(super) pong_length: u8,
    /// Wakes the connection's task.
    pub(super) waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    Closing(Goodbye),
    /// The last bytes are written, or wait in `control`.
    Closed(Goodbye),
    Ended,
}

/// What a session's task has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) enum Duty {
    /// Put this slot into its pool.
    Park(u32),
    /// Nothing: all slots that are ready are in their pool.
    Wait,
    /// Take the slots out of their pool, for this reason.
    Withdraw(PollEnd),
    /// Nothing more will be written.
    Finish,
    /// The connection is over.
    End,
}

/// A session has more slots ready than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManySlots;

/// What a worker says about an offer on another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// It has read the run.
    Ack,
    /// It is done with the run and can take another one. It has read it, too.
    Ready,
}

/// Why a receipt counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptError {
    /// This broker has not made the token.
    Forged,
    /// The token's offer is of another run.
    OtherRun,
    /// The offer's stream has ended, and with it every offer that was not acknowledged.
    Gone,
}

impl SessionState {
    /// Whether a run that began now would be written into the middle of something else.
    pub(super) fn is_busy(&self) -> bool {
        self.is_writing || !self.control.is_empty()
    }

    /// Where to append anything but a pong.
    pub(super) fn control_behind_pong(&mut self) -> &mut Vec<u8> {
        self.pong_length = 0;
        &mut self.control
    }

    pub(super) fn remove_unsent_pong(&mut self) {
        if let Some(length) = self.control.len().checked_sub(self.pong_length.into()) {
            self.control.truncate(length);
        }
    }

    /// A slot is not in its pool any more.
    pub(super) fn unpark(&mut self, ticket: u32) {
        if self.is_parking && self.last_ticket == ticket {
            self.is_parking = false;
        } else if let Some(at) = self.parked.iter().position(|(parked, _)| *parked == ticket) {
            self.parked.swap_remove(at);
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

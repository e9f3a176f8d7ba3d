//! Owns the handover of a connection back to its own task, by the code that removed its waiter from the pool.
//!
//! ```text
//! begin ──► undecided ──resolve──► keep alive ──► begin of the next waiter
//!                          └─────► close
//! ```
//! It uses no socket, so that `tests/races` can run every interleaving of it.

use std::task::{Context, Poll, ready};

use super::atomics::{AtomicU8, AtomicU32, AtomicWaker, Ordering};

/// What happens to a connection after its waiter was taken out of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disposition {
    /// The response is written, and the next request may come.
    KeepAlive,
    /// Nothing more will be written.
    Close,
}

/// The decision about a connection's present waiter, and since when the connection is idle after it.
pub(super) struct Handover {
    disposition: AtomicU8,
    /// The tick since which the connection is idle, or `IN_USE`, or `TIMED_OUT`.
    idle_since: AtomicU32,
    /// Wakes the connection's own task.
    waker: AtomicWaker,
}

impl Handover {
    pub(super) fn new() -> Self {
        Self {
            disposition: AtomicU8::new(UNDECIDED),
            idle_since: AtomicU32::new(IN_USE),
            waker: AtomicWaker::new(),
        }
    }

    /// A new waiter begins: nothing is decided about it.
    pub(super) fn begin(&self) {
        self.disposition.store(UNDECIDED, Ordering::Release);
    }

    /// Decides about the present waiter, and wakes the connection's task if it waits for the decision.
    pub(super) fn resolve(&self, disposition: Disposition) {
        let value = match disposition {
            Disposition::KeepAlive => KEEP_ALIVE,
            Disposition::Close => CLOSE,
        };
        self.disposition.store(value, Ordering::Release);
        self.waker.wake();
    }

    /// The connection is idle from this tick on, until its task reads from it.
    pub(super) fn begin_idle(&self, since: u32) {
        self.idle_since.store(since, Ordering::Release);
    }

    /// The tick since which the connection is idle, if it is.
    pub(super) fn idle_since(&self) -> Option<u32> {
        Some(self.idle_since.load(Ordering::Acquire)).filter(|&since| since != IN_USE && since != TIMED_OUT)
    }

    /// The connection's task reads from it again. False if the connection has timed out before.
    pub(super) fn end_idle(&self) -> bool {
        self.idle_since.swap(IN_USE, Ordering::AcqRel) != TIMED_OUT
    }

    /// Times the connection out. False if it is in use again, or idle since another tick.
    pub(super) fn claim_idle(&self, since: u32) -> bool {
        self.idle_since.compare_exchange(since, TIMED_OUT, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Polls until the connection's task may go on: with the next request, or to close. Returns the disposition, and what
    /// `probe` returned if it was called.
    ///
    /// The task sleeps on the socket. It wakes when the peer has sent bytes or has ended the connection; `probe` shows
    /// which. If the waiter is still in its pool, `leave` removes it and returns true. Otherwise the task that removed it
    /// decides.
    pub(super) fn poll_held<P>(
        &self,
        cx: &mut Context<'_>,
        readable: impl FnOnce(&mut Context<'_>) -> Poll<()>,
        probe: impl FnOnce(&mut Context<'_>) -> Poll<P>,
        leave: impl FnOnce() -> bool,
    ) -> Poll<(Disposition, Option<P>)> {
        if self.disposition() == Some(Disposition::KeepAlive) {
            ready!(readable(cx));
            return Poll::Ready((Disposition::KeepAlive, None));
        }
        let probed = ready!(probe(cx));
        let disposition = match self.disposition() {
            Some(disposition) => disposition,
            None if leave() => Disposition::Close,
            None => ready!(self.poll_disposition(cx)),
        };
        Poll::Ready((disposition, Some(probed)))
    }

    fn disposition(&self) -> Option<Disposition> {
        match self.disposition.load(Ordering::Acquire) {
            KEEP_ALIVE => Some(Disposition::KeepAlive),
            CLOSE => Some(Disposition::Close),
            _ => None,
        }
    }

    /// Registers the waker before the load, so that a decision in between is not missed.
    fn poll_disposition(&self, cx: &mut Context<'_>) -> Poll<Disposition> {
        self.waker.register(cx.waker());
        self.disposition().map_or(Poll::Pending, Poll::Ready)
    }
}

const UNDECIDED: u8 = 0;
const KEEP_ALIVE: u8 = 1;
const CLOSE: u8 = 2;

const IN_USE: u32 = 0;
const TIMED_OUT: u32 = u32::MAX;

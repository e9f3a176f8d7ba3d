//! Owns the handover between whoever took a waiter out and the hold: does the connection go on or end?
//!
//! ```text
//! begin ──► undecided ──decide──► reuse ──► begin of the next waiter
//!                        └──────► close
//! ```
//! It knows no socket, so that `tests/races` can walk every interleaving of it.

use std::task::{Context, Poll, ready};

use super::atomics::{AtomicU8, AtomicU32, AtomicWaker, Ordering};

/// What becomes of a connection after its waiter was taken out of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disposition {
    /// The answer is written, the next request may come.
    KeepAlive,
    /// Nothing more will be written.
    Close,
}

/// A decision about the present waiter, and who is to be woken by it.
pub(super) struct Handover {
    decided: AtomicU8,
    /// The tick since which the connection rests.
    idle_since: AtomicU32,
    hold: AtomicWaker,
}

impl Handover {
    pub(super) fn new() -> Self {
        Self {
            decided: AtomicU8::new(UNDECIDED),
            idle_since: AtomicU32::new(AWAKE),
            hold: AtomicWaker::new(),
        }
    }

    /// A new waiter begins: nothing is decided about it.
    pub(super) fn begin(&self) {
        self.decided.store(UNDECIDED, Ordering::Release);
    }

    /// Decides, and wakes the hold if it is waiting for the decision.
    pub(super) fn resolve(&self, ending: Disposition) {
        let ending = match ending {
            Disposition::KeepAlive => REUSE,
            Disposition::Close => CLOSE,
        };
        self.decided.store(ending, Ordering::Release);
        self.hold.wake();
    }

    /// The connection rests from this tick on, until its reader takes it back.
    pub(super) fn begin_idle(&self, since: u32) {
        self.idle_since.store(since, Ordering::Release);
    }

    /// Since which tick it rests, if it does.
    pub(super) fn idle_since(&self) -> Option<u32> {
        Some(self.idle_since.load(Ordering::Acquire)).filter(|&since| since != AWAKE && since != ENDED)
    }

    /// Its reader takes it back. False if the rest was ended before.
    pub(super) fn end_idle(&self) -> bool {
        self.idle_since.swap(AWAKE, Ordering::AcqRel) != ENDED
    }

    /// Ends the rest that has lasted since then. False if it is over.
    pub(super) fn claim_idle(&self, since: u32) -> bool {
        self.idle_since.compare_exchange(since, ENDED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Polls the hold of a waiter until its connection goes on or ends, and says what a `look` showed, if there was one.
    ///
    /// The hold sleeps on the socket: it is `readable` with the peer's bytes or end, and a `look` tells which. Then, if
    /// nobody took the waiter, it can `leave`; else its taker decides, or has decided.
    pub(super) fn poll_held<L>(
        &self,
        cx: &mut Context<'_>,
        readable: impl FnOnce(&mut Context<'_>) -> Poll<()>,
        look: impl FnOnce(&mut Context<'_>) -> Poll<L>,
        leave: impl FnOnce() -> bool,
    ) -> Poll<(Disposition, Option<L>)> {
        if self.disposition() == Some(Disposition::KeepAlive) {
            ready!(readable(cx));
            return Poll::Ready((Disposition::KeepAlive, None));
        }
        let look = ready!(look(cx));
        let ending = match self.disposition() {
            Some(decided) => decided,
            None if leave() => Disposition::Close,
            None => ready!(self.poll_disposition(cx)),
        };
        Poll::Ready((ending, Some(look)))
    }

    fn disposition(&self) -> Option<Disposition> {
        match self.decided.load(Ordering::Acquire) {
            REUSE => Some(Disposition::KeepAlive),
            CLOSE => Some(Disposition::Close),
            _ => None,
        }
    }

    /// Registered before the look: a decision in between is not missed.
    fn poll_disposition(&self, cx: &mut Context<'_>) -> Poll<Disposition> {
        self.hold.register(cx.waker());
        self.disposition().map_or(Poll::Pending, Poll::Ready)
    }
}

const UNDECIDED: u8 = 0;
const REUSE: u8 = 1;
const CLOSE: u8 = 2;

const AWAKE: u32 = 0;
const ENDED: u32 = u32::MAX;

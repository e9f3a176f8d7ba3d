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
pub(super) enum Ending {
    /// The answer is written, the next request may come.
    Reuse,
    /// Nothing more will be written.
    Close,
}

/// A decision about the present waiter, and who is to be woken by it.
pub(super) struct Handover {
    decided: AtomicU8,
    /// The tick since which the connection rests.
    rests_since: AtomicU32,
    hold: AtomicWaker,
}

impl Handover {
    pub(super) fn new() -> Self {
        Self {
            decided: AtomicU8::new(UNDECIDED),
            rests_since: AtomicU32::new(AWAKE),
            hold: AtomicWaker::new(),
        }
    }

    /// A new waiter begins: nothing is decided about it.
    pub(super) fn begin(&self) {
        self.decided.store(UNDECIDED, Ordering::Release);
    }

    /// Decides, and wakes the hold if it is waiting for the decision.
    pub(super) fn decide(&self, ending: Ending) {
        let ending = match ending {
            Ending::Reuse => REUSE,
            Ending::Close => CLOSE,
        };
        self.decided.store(ending, Ordering::Release);
        self.hold.wake();
    }

    /// The connection rests from this tick on, until its reader takes it back.
    pub(super) fn rest(&self, since: u32) {
        self.rests_since.store(since, Ordering::Release);
    }

    /// Since which tick it rests, if it does.
    pub(super) fn rests_since(&self) -> Option<u32> {
        Some(self.rests_since.load(Ordering::Acquire)).filter(|&since| since != AWAKE && since != ENDED)
    }

    /// Its reader takes it back. False if the rest was ended before.
    pub(super) fn wake(&self) -> bool {
        self.rests_since.swap(AWAKE, Ordering::AcqRel) != ENDED
    }

    /// Ends the rest that has lasted since then. False if it is over.
    pub(super) fn end_rest(&self, since: u32) -> bool {
        self.rests_since.compare_exchange(since, ENDED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
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
    ) -> Poll<(Ending, Option<L>)> {
        if self.decided() == Some(Ending::Reuse) {
            ready!(readable(cx));
            return Poll::Ready((Ending::Reuse, None));
        }
        let look = ready!(look(cx));
        let ending = match self.decided() {
            Some(decided) => decided,
            None if leave() => Ending::Close,
            None => ready!(self.poll_decided(cx)),
        };
        Poll::Ready((ending, Some(look)))
    }

    fn decided(&self) -> Option<Ending> {
        match self.decided.load(Ordering::Acquire) {
            REUSE => Some(Ending::Reuse),
            CLOSE => Some(Ending::Close),
            _ => None,
        }
    }

    /// Registered before the look: a decision in between is not missed.
    fn poll_decided(&self, cx: &mut Context<'_>) -> Poll<Ending> {
        self.hold.register(cx.waker());
        self.decided().map_or(Poll::Pending, Poll::Ready)
    }
}

const UNDECIDED: u8 = 0;
const REUSE: u8 = 1;
const CLOSE: u8 = 2;

const AWAKE: u32 = 0;
const ENDED: u32 = u32::MAX;

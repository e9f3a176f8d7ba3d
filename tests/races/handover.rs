//! Owns the races between the one who took a waiter and its hold, under loom: every interleaving is walked.
//!
//! `src/transport/handover.rs` is compiled into this test with loom's atomics; the socket, the pool and the waiter around it
//! are models of a few lines.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use loom::future::block_on;
use loom::model::Builder;
use loom::sync::Mutex;
use loom::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use loom::thread;

use atomics::{AtomicU8, AtomicWaker};
use handover::{Disposition, Handover};

/// What `src/transport/atomics.rs` names, as loom has it.
mod atomics {
    use std::task::Waker;

    use loom::sync::Mutex;
    pub(super) use loom::sync::atomic::{AtomicU8, AtomicU32, Ordering};

    /// The promise of the real one, kept by a lock: a wake after a registration, or during it, is not lost.
    pub(super) struct AtomicWaker(Mutex<Option<Waker>>);

    impl AtomicWaker {
        pub(super) fn new() -> Self {
            Self(Mutex::new(None))
        }

        pub(super) fn register(&self, waker: &Waker) {
            let old = self.0.lock().unwrap().replace(waker.clone());
            drop(old);
        }

        pub(super) fn wake(&self) {
            let waker = self.0.lock().unwrap().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

#[path = "../../src/transport/handover.rs"]
mod handover;

/// The peer sent bytes.
const TALKING: u8 = 1;
/// The peer, or we, ended the connection.
const ENDED: u8 = 2;

/// A connection, as far as a hold sees one.
struct Line {
    handover: Handover,
    /// What a look shows. It stays until it is read.
    shows: AtomicU8,
    reader: AtomicWaker,
    /// How often a waiter's ending was decided. Only counted, so it is no atomic of loom's, and costs no interleavings.
    endings: std::sync::atomic::AtomicU8,
}

impl Line {
    fn new() -> Self {
        Self {
            handover: Handover::new(),
            shows: AtomicU8::new(0),
            reader: AtomicWaker::new(),
            endings: 0.into(),
        }
    }

    fn show(&self, what: u8) {
        self.shows.fetch_or(what, AcqRel);
        self.reader.wake();
    }

    fn poll_look(&self, cx: &mut Context<'_>) -> Poll<u8> {
        self.reader.register(cx.waker());
        match self.shows.load(Acquire) {
            0 => Poll::Pending,
            shows => Poll::Ready(shows),
        }
    }
}

/// A waiter, as `transport::Waiter` ends: dropped without a word, it closes the connection.
struct Waiter {
    line: Arc<Line>,
    ended: bool,
}

impl Waiter {
    fn park(line: &Arc<Line>, pool: &Pool) {
        line.handover.begin();
        *pool.lock().unwrap() = Some(Self { line: line.clone(), ended: false });
    }

    fn reuse(mut self) {
        self.ended = true;
        self.line.endings.fetch_add(1, AcqRel);
        self.line.handover.resolve(Disposition::KeepAlive);
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if !self.ended {
            self.line.endings.fetch_add(1, AcqRel);
            self.line.handover.resolve(Disposition::Close);
            self.line.show(ENDED);
        }
    }
}

type Pool = Mutex<Option<Waiter>>;

/// Who comes first has it; the lock is let go before anything else.
fn take(pool: &Pool) -> Option<Waiter> {
    pool.lock().unwrap().take()
}

/// Holds as `transport::Hold` does. Returns the ending, and whether the waiter left by itself.
fn hold(line: &Line, pool: &Pool) -> (Disposition, Option<u8>, bool) {
    let mut left = false;
    let (ending, look) = block_on(poll_fn(|cx| {
        let leave = || {
            left = take(pool).is_some();
            left
        };
        let readable = |cx: &mut Context<'_>| line.poll_look(cx).map(drop);
        line.handover.poll_held(cx, readable, |cx| line.poll_look(cx), leave)
    }));
    (ending, look, left)
}

/// Every interleaving with at most so many switches away from a thread that could go on.
fn explore(switches: usize, walk: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(switches + usize::from(super::is_long()));
    builder.check(walk);
}

/// Walks one hold, one taker that decides so, and one peer that shows this.
fn walk(decision: Disposition, peer: u8) {
    explore(2, move || {
        let (line, pool) = (Arc::new(Line::new()), Arc::new(Pool::new(None)));
        Waiter::park(&line, &pool);
        let taker = thread::spawn({
            let pool = pool.clone();
            move || {
                let Some(waiter) = take(&pool) else { return false };
                match decision {
                    Disposition::KeepAlive => waiter.reuse(),
                    Disposition::Close => drop(waiter),
                }
                true
            }
        });
        let client = (peer != 0).then(|| {
            let line = line.clone();
            thread::spawn(move || line.show(peer))
        });
        let (ending, look, left) = hold(&line, &pool);
        let taken = taker.join().unwrap();
        if let Some(client) = client {
            client.join().unwrap();
        }
        assert_ne!(taken, left, "I4: either the taker or the hold has the waiter");
        assert_eq!(ending, if taken { decision } else { Disposition::Close }, "I2: its owner decides");
        assert!(look.is_some() || ending == Disposition::KeepAlive, "nothing closes unseen");
        assert_eq!(line.endings.load(Acquire), 1, "I5: a waiter is ended once");
    });
}

#[test]
fn a_hold_that_is_closed_always_wakes() {
    walk(Disposition::Close, 0);
    walk(Disposition::Close, TALKING);
    walk(Disposition::Close, ENDED);
}

#[test]
fn a_hold_that_is_reused_always_goes_on_with_the_next_bytes() {
    walk(Disposition::KeepAlive, TALKING);
    walk(Disposition::KeepAlive, ENDED);
}

#[test]
fn two_takers_and_a_peer_end_a_waiter_once() {
    explore(2, || {
        let (line, pool) = (Arc::new(Line::new()), Arc::new(Pool::new(None)));
        Waiter::park(&line, &pool);
        let dispatcher = thread::spawn({
            let pool = pool.clone();
            move || take(&pool).map(Waiter::reuse).is_some()
        });
        let keeper = thread::spawn({
            let pool = pool.clone();
            move || take(&pool).map(drop).is_some()
        });
        line.show(TALKING);
        let (ending, _, left) = hold(&line, &pool);
        let (reused, closed) = (dispatcher.join().unwrap(), keeper.join().unwrap());
        assert_eq!(u8::from(reused) + u8::from(closed) + u8::from(left), 1, "I4: exactly one wins");
        assert_eq!(ending == Disposition::KeepAlive, reused, "I2: its owner decides");
        assert_eq!(line.endings.load(Acquire), 1, "I5: a waiter is ended once");
    });
}

/// The connection carries a second waiter: what is late from the first one's ending must not decide the second's.
#[test]
fn a_rest_is_ended_or_taken_back_and_never_both() {
    explore(2, || {
        let line = Arc::new(Line::new());
        line.handover.begin_idle(7);
        let sweep = thread::spawn({
            let line = line.clone();
            move || line.handover.idle_since().is_some_and(|since| line.handover.claim_idle(since))
        });
        let is_taken_back = line.handover.end_idle();
        let is_ended = sweep.join().unwrap();
        assert!(is_taken_back != is_ended);
        // The next rest is one of its own, and the last sweep has nothing to do with it.
        if is_taken_back {
            line.handover.begin_idle(8);
            assert!(!line.handover.claim_idle(7) && line.handover.end_idle());
        }
    });
}

#[test]
fn the_next_waiter_of_a_connection_is_not_ended_by_the_last_ones_taker() {
    explore(2, || {
        let (line, pool) = (Arc::new(Line::new()), Arc::new(Pool::new(None)));
        Waiter::park(&line, &pool);
        let first = take(&pool).unwrap();
        let dispatcher = thread::spawn(move || {
            // The peer has the answer before the hold is told, and is quick with its next poll.
            first.line.show(TALKING);
            first.reuse();
        });
        let (ending, _, left) = hold(&line, &pool);
        assert_eq!((ending, left), (Disposition::KeepAlive, false));
        // Its reader takes the next poll off the socket.
        line.shows.store(0, Release);
        Waiter::park(&line, &pool);
        let client = thread::spawn({
            let line = line.clone();
            move || line.show(ENDED)
        });
        let (ending, _, left) = hold(&line, &pool);
        assert_eq!((ending, left), (Disposition::Close, true), "nobody else ended it");
        assert_eq!(line.endings.load(Acquire), 2, "I5: each waiter is ended once");
        dispatcher.join().unwrap();
        client.join().unwrap();
    });
}

//! Owns the races between the owner of a removed waiter and the waiter's hold, under loom: every interleaving is explored.
//!
//! `src/transport/handover.rs` is compiled into this test with loom's atomics; the socket, the pool and the waiter around it
//! are models of a few connections.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use loom::future::block_on;
use loom::model::Builder;
use loom::sync::Mutex;
use loom::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use loom::thread;

use atomics::{AtomicU8, AtomicWaker};
use under_test::{Disposition, Handover};

/// The types of `src/transport/atomics.rs`, from loom.
mod atomics {
    use std::task::Waker;

    use loom::sync::Mutex;
    pub(super) use loom::sync::atomic::{AtomicU8, AtomicU32, Ordering};

    /// As the real one, but with a lock: a wake after a registration, or during it, is not lost.
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
mod under_test;

/// The peer sent bytes.
const DATA: u8 = 1;
/// The peer or the broker ended the connection.
const ENDED: u8 = 2;

/// The part of a connection that a hold uses.
struct Connection {
    handover: Handover,
    /// The state of the socket. It stays until it is read.
    socket: AtomicU8,
    reader: AtomicWaker,
    /// How often a waiter was ended. Not an atomic of loom's, because a counter needs no interleavings.
    endings: std::sync::atomic::AtomicU8,
}

impl Connection {
    fn new() -> Self {
        Self {
            handover: Handover::new(),
            socket: AtomicU8::new(0),
            reader: AtomicWaker::new(),
            endings: 0.into(),
        }
    }

    fn set(&self, state: u8) {
        self.socket.fetch_or(state, AcqRel);
        self.reader.wake();
    }

    fn poll_socket(&self, cx: &mut Context<'_>) -> Poll<u8> {
        self.reader.register(cx.waker());
        match self.socket.load(Acquire) {
            0 => Poll::Pending,
            state => Poll::Ready(state),
        }
    }
}

/// A waiter that ends as `transport::Waiter` does: if it is dropped, it closes the connection.
struct Waiter {
    connection: Arc<Connection>,
    ended: bool,
}

impl Waiter {
    fn park(connection: &Arc<Connection>, pool: &Pool) {
        connection.handover.begin();
        *pool.lock().unwrap() = Some(Self { connection: connection.clone(), ended: false });
    }

    fn reuse(mut self) {
        self.ended = true;
        self.connection.endings.fetch_add(1, AcqRel);
        self.connection.handover.resolve(Disposition::KeepAlive);
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.endings.fetch_add(1, AcqRel);
            self.connection.handover.resolve(Disposition::Close);
            self.connection.set(ENDED);
        }
    }
}

type Pool = Mutex<Option<Waiter>>;

/// Removes the waiter, if it is still there.
fn remove(pool: &Pool) -> Option<Waiter> {
    pool.lock().unwrap().take()
}

/// Holds as `transport::HeldPoll` does. Returns the disposition, the socket's state, and whether the hold removed the waiter.
fn hold(connection: &Connection, pool: &Pool) -> (Disposition, Option<u8>, bool) {
    let mut left = false;
    let (disposition, state) = block_on(poll_fn(|cx| {
        let leave = || {
            left = remove(pool).is_some();
            left
        };
        let readable = |cx: &mut Context<'_>| connection.poll_socket(cx).map(drop);
        connection.handover.poll_held(cx, readable, |cx| connection.poll_socket(cx), leave)
    }));
    (disposition, state, left)
}

/// Explores every interleaving with at most this many preemptions.
fn explore(preemptions: usize, walk: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions + usize::from(super::is_long()));
    builder.check(walk);
}

/// Explores one hold, one owner with this decision, and one peer that sets the socket to this state.
fn check(decision: Disposition, peer: u8) {
    explore(2, move || {
        let (connection, pool) = (Arc::new(Connection::new()), Arc::new(Pool::new(None)));
        Waiter::park(&connection, &pool);
        let owner = thread::spawn({
            let pool = pool.clone();
            move || {
                let Some(waiter) = remove(&pool) else { return false };
                match decision {
                    Disposition::KeepAlive => waiter.reuse(),
                    Disposition::Close => drop(waiter),
                }
                true
            }
        });
        let client = (peer != 0).then(|| {
            let connection = connection.clone();
            thread::spawn(move || connection.set(peer))
        });
        let (disposition, state, left) = hold(&connection, &pool);
        let removed = owner.join().unwrap();
        if let Some(client) = client {
            client.join().unwrap();
        }
        assert_ne!(removed, left, "I4: either the owner or the hold has the waiter");
        assert_eq!(disposition, if removed { decision } else { Disposition::Close }, "I2: its owner decides");
        assert!(state.is_some() || disposition == Disposition::KeepAlive, "a close shows on the socket");
        assert_eq!(connection.endings.load(Acquire), 1, "I5: a waiter is ended once");
    });
}

#[test]
fn a_hold_that_is_closed_always_wakes() {
    check(Disposition::Close, 0);
    check(Disposition::Close, DATA);
    check(Disposition::Close, ENDED);
}

#[test]
fn a_hold_that_is_kept_alive_always_continues_with_the_next_bytes() {
    check(Disposition::KeepAlive, DATA);
    check(Disposition::KeepAlive, ENDED);
}

#[test]
fn two_owners_and_a_peer_end_a_waiter_once() {
    explore(2, || {
        let (connection, pool) = (Arc::new(Connection::new()), Arc::new(Pool::new(None)));
        Waiter::park(&connection, &pool);
        let dispatcher = thread::spawn({
            let pool = pool.clone();
            move || remove(&pool).map(Waiter::reuse).is_some()
        });
        let housekeeping = thread::spawn({
            let pool = pool.clone();
            move || remove(&pool).map(drop).is_some()
        });
        connection.set(DATA);
        let (disposition, _, left) = hold(&connection, &pool);
        let (reused, closed) = (dispatcher.join().unwrap(), housekeeping.join().unwrap());
        assert_eq!(u8::from(reused) + u8::from(closed) + u8::from(left), 1, "I4: exactly one wins");
        assert_eq!(disposition == Disposition::KeepAlive, reused, "I2: its owner decides");
        assert_eq!(connection.endings.load(Acquire), 1, "I5: a waiter is ended once");
    });
}

#[test]
fn an_idle_connection_is_closed_or_used_again_and_never_both() {
    explore(2, || {
        let connection = Arc::new(Connection::new());
        connection.handover.begin_idle(7);
        let sweep = thread::spawn({
            let connection = connection.clone();
            move || {
                connection.handover.idle_since().is_some_and(|since| connection.handover.claim_idle(since))
            }
        });
        let is_reused = connection.handover.end_idle();
        let is_closed = sweep.join().unwrap();
        assert!(is_reused != is_closed);
        // A later idle period is separate: the last sweep must not end it.
        if is_reused {
            connection.handover.begin_idle(8);
            assert!(!connection.handover.claim_idle(7) && connection.handover.end_idle());
        }
    });
}

/// The connection has a second waiter: a late decision about the first one must not affect the second.
#[test]
fn the_next_waiter_of_a_connection_is_not_ended_by_the_last_ones_owner() {
    explore(2, || {
        let (connection, pool) = (Arc::new(Connection::new()), Arc::new(Pool::new(None)));
        Waiter::park(&connection, &pool);
        let first = remove(&pool).unwrap();
        let dispatcher = thread::spawn(move || {
            // The peer has the response before the hold has the disposition, and sends its next poll at once.
            first.connection.set(DATA);
            first.reuse();
        });
        let (disposition, _, left) = hold(&connection, &pool);
        assert_eq!((disposition, left), (Disposition::KeepAlive, false));
        // The reader consumes the next poll.
        connection.socket.store(0, Release);
        Waiter::park(&connection, &pool);
        let client = thread::spawn({
            let connection = connection.clone();
            move || connection.set(ENDED)
        });
        let (disposition, _, left) = hold(&connection, &pool);
        assert_eq!((disposition, left), (Disposition::Close, true), "the first owner did not end it");
        assert_eq!(connection.endings.load(Acquire), 2, "I5: each waiter is ended once");
        dispatcher.join().unwrap();
        client.join().unwrap();
    });
}

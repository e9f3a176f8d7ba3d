//! Owns a held poll from its parking to its ending: it sleeps, and wakes only for the peer's bytes or end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::connection::Ending;
use super::proof::End;
use super::{Connection, Place};

/// How a hold ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// An answer was written, and the next request is there to be read.
    Again,
    /// The connection is over.
    Over,
    /// The peer sent bytes while it was held: misuse, the connection is over.
    Pipelined,
}

/// A parked waiter, until its connection is over or carries the next request. A struct of its own, because a held
/// connection costs what this costs.
pub struct Hold<'a> {
    connection: &'a Connection,
    place: Place,
}

impl<'a> Hold<'a> {
    /// Holds a waiter that has its place.
    pub fn new(connection: &'a Connection, place: Place) -> Self {
        Self { connection, place }
    }
}

impl Future for Hold<'_> {
    type Output = Held;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Held> {
        let Self { connection, place } = &mut *self;
        poll_held(connection, place, cx)
    }
}

fn poll_held(connection: &Connection, place: &mut Place, cx: &mut Context<'_>) -> Poll<Held> {
    if connection.ending() == Some(Ending::Reuse) {
        // What comes is the next request, or the end: its reader sees which.
        ready!(connection.poll_readable(cx));
        place.was_taken();
        return Poll::Ready(Held::Again);
    }
    let look = ready!(connection.poll_look(cx));
    // Something came. If nobody took the waiter, that ends it; else its taker decides, or has decided.
    let ending = match connection.ending() {
        Some(decided) => {
            place.was_taken();
            decided
        }
        None if place.leave() => Ending::Close,
        None => ready!(connection.poll_ending(cx)),
    };
    Poll::Ready(match (ending, look) {
        (Ending::Reuse, End::Talking) => Held::Again,
        (Ending::Close, End::Talking) => Held::Pipelined,
        _ => Held::Over,
    })
}

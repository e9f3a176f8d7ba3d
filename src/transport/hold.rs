//! Owns a held poll from its parking to its ending: it sleeps, and wakes only for the peer's bytes or end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::ending::Ending;
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
    let (ending, look) = ready!(connection.handover.poll_held(
        cx,
        |cx| connection.poll_readable(cx),
        |cx| connection.poll_look(cx),
        || place.leave(),
    ));
    place.was_taken();
    Poll::Ready(match (ending, look) {
        // Without a look, what comes is the next request, or the end: its reader sees which.
        (Ending::Reuse, None | Some(End::Talking)) if connection.handover.wake() => Held::Again,
        (Ending::Close, Some(End::Talking)) => Held::Pipelined,
        _ => Held::Over,
    })
}

//! Owns a held poll from its parking to its ending: it sleeps, and wakes only for the peer's bytes or end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::handover::Disposition;
use super::proof::ReadState;
use super::{Connection, Place};

/// How a hold ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldEnd {
    /// An answer was written, and the next request is there to be read.
    NextRequest,
    /// The connection is over.
    Closed,
    /// The peer sent bytes while it was held: misuse, the connection is over.
    Pipelined,
}

/// A parked waiter, until its connection is over or carries the next request. A struct of its own, because a held
/// connection costs what this costs.
pub struct HeldPoll<'a> {
    connection: &'a Connection,
    place: Place,
}

impl<'a> HeldPoll<'a> {
    /// Holds a waiter that has its place.
    pub fn new(connection: &'a Connection, place: Place) -> Self {
        Self { connection, place }
    }
}

impl Future for HeldPoll<'_> {
    type Output = HoldEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<HoldEnd> {
        let Self { connection, place } = &mut *self;
        poll_held(connection, place, cx)
    }
}

fn poll_held(connection: &Connection, place: &mut Place, cx: &mut Context<'_>) -> Poll<HoldEnd> {
    let (ending, look) = ready!(connection.handover.poll_held(
        cx,
        |cx| connection.poll_readable(cx),
        |cx| connection.poll_probe(cx),
        || place.leave(),
    ));
    place.disarm();
    Poll::Ready(match (ending, look) {
        // Without a look, what comes is the next request, or the end: its reader sees which.
        (Disposition::KeepAlive, None | Some(ReadState::Data)) if connection.handover.end_idle() => {
            HoldEnd::NextRequest
        }
        (Disposition::Close, Some(ReadState::Data)) => HoldEnd::Pipelined,
        _ => HoldEnd::Closed,
    })
}

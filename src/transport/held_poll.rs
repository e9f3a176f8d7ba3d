//! Owns a held poll as the connection's task sees it: it sleeps until the peer sends bytes or ends the connection.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::connection::Connection;
use super::handover::Disposition;
use super::proof::ReadState;
use super::waiter::ParkedGuard;

/// How the hold of a poll ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldEnd {
    /// A response was written, and the next request can be read.
    NextRequest,
    /// The connection is over.
    Closed,
    /// The peer sent bytes while its poll was held, which ends the connection.
    Pipelined,
}

/// A parked waiter's connection, until it is over or carries the next request. It is a struct instead of an async
/// function, because its size is paid for by every held connection.
pub struct HeldPoll<'a> {
    connection: &'a Connection,
    parked: ParkedGuard,
}

impl<'a> HeldPoll<'a> {
    /// Holds the poll of a parked waiter.
    pub fn new(connection: &'a Connection, parked: ParkedGuard) -> Self {
        Self { connection, parked }
    }
}

impl Future for HeldPoll<'_> {
    type Output = HoldEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<HoldEnd> {
        let Self { connection, parked } = &mut *self;
        poll_held(connection, parked, cx)
    }
}

fn poll_held(connection: &Connection, parked: &mut ParkedGuard, cx: &mut Context<'_>) -> Poll<HoldEnd> {
    let (disposition, probed) = ready!(connection.handover.poll_held(
        cx,
        |cx| connection.poll_read_ready(cx).map(drop),
        |cx| connection.poll_probe(cx),
        || parked.leave(),
    ));
    parked.disarm();
    Poll::Ready(match (disposition, probed) {
        // Without a probe, the socket has the next request or an EOF: the reader finds out which.
        (Disposition::KeepAlive, None | Some(ReadState::Data)) if connection.handover.end_idle() => {
            HoldEnd::NextRequest
        }
        (Disposition::Close, Some(ReadState::Data)) => HoldEnd::Pipelined,
        _ => HoldEnd::Closed,
    })
}

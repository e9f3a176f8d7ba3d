//! Owns parking: a poll that was parsed becomes a waiter in its pool, or a session with several.

use std::io::IoSlice;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dialect::{PollKind, PollRequest, PollTerms};
use super::replies::HeldReply;
use super::state::HttpState;
use crate::broker::ParkRequest;
use crate::transport::{
    CloseReason, Connection, HeldSession, LongPoll, ParkedGuard, SessionKind, SessionOwner, Waiter,
    with_write_buffer, write_stream_beginning,
};

/// How a connection waits.
pub(super) enum Waiting {
    /// With one request, which is held.
    Once(ParkedGuard),
    /// With a session, until the connection is over.
    Session(Pin<Box<HeldSession>>),
    /// For the reply to a run.
    Reply(HeldReply),
}

/// Parks the poll; `unread` came behind it, which only a WebSocket reads. `Break` if a limit refuses it: then the connection is closed without a response, because any status would
/// end a stock controller.
pub(super) fn park(
    state: &HttpState,
    connection: &Arc<Connection>,
    poll: &PollRequest<'_>,
    unread: &mut [u8],
) -> ControlFlow<(), Waiting> {
    if state.admission.refuses_polls() {
        state.metrics.poll_refused();
        return ControlFlow::Break(());
    }
    match &poll.kind {
        PollKind::Once(terms) => park_once(state, connection, poll, terms).map_continue(Waiting::Once),
        PollKind::WebSocket(accept) => {
            let head = |out: &mut Vec<u8>| {
                out.extend_from_slice(
                    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                      sec-websocket-protocol: pilotlight.v1\r\nsec-websocket-accept: ",
                );
                out.extend_from_slice(accept);
                out.extend_from_slice(b"\r\n\r\n");
            };
            open_session(state, connection, poll, (SessionKind::WebSocket, 0), unread, head)
        }
        PollKind::EventStream { slots, is_chunked } => {
            let head = |out: &mut Vec<u8>| {
                // Without the third field, nginx would keep events back.
                out.extend_from_slice(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\
                      x-accel-buffering: no\r\nconnection: close\r\n",
                );
                if *is_chunked {
                    out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                }
                out.extend_from_slice(b"\r\n");
                write_stream_beginning(*is_chunked, out);
            };
            let kind = SessionKind::EventStream { is_chunked: *is_chunked };
            open_session(state, connection, poll, (kind, *slots), unread, head)
        }
    }
}

fn park_once(
    state: &HttpState,
    connection: &Arc<Connection>,
    poll: &PollRequest<'_>,
    terms: &PollTerms,
) -> ControlFlow<(), ParkedGuard> {
    let now = state.exchange.at(Instant::now());
    let PollRequest { key, accepts, controller, host, client, metadata, .. } = poll;
    let PollTerms { format, reusable, replies_early, timeout, guard, grace } = terms;
    let guard = guard.map_or(Duration::ZERO, |least| least.max(4 * connection.round_trip()));
    let origin = client.origin();
    let long_poll =
        LongPoll::new(connection.clone(), format, *reusable, *replies_early, client.through_proxy);
    let request = ParkRequest {
        key: key.as_ref(),
        accepts: *accepts,
        controller: (**controller).into(),
        host: *host,
        is_exclusive: true,
        offer_until: now.plus(timeout.saturating_sub(guard)),
        deadline: now.plus(*timeout + *grace),
        waiter: Waiter::long_poll(long_poll, metadata.as_deref()),
    };
    match state.exchange.park(request, now) {
        Ok((place, replaced)) => {
            if let Some(replaced) = replaced {
                state.shared_names.record(&state.metrics, &replaced.controller, origin);
                replaced.waiter.close(CloseReason::Replaced);
            }
            state.sessions.replace(|| SessionOwner::new(key.as_ref(), *accepts, controller, "", origin));
            ControlFlow::Continue(place)
        }
        Err(full) => {
            tracing::debug!(limit = full.limit(), "a poll was closed without an answer");
            ControlFlow::Break(())
        }
    }
}

/// Writes the head of the response, and opens a session with these slots, which ends what the same controller waited on before.
fn open_session(
    state: &HttpState,
    connection: &Arc<Connection>,
    poll: &PollRequest<'_>,
    (kind, slots): (SessionKind, u16),
    unread: &mut [u8],
    head: impl FnOnce(&mut Vec<u8>),
) -> ControlFlow<(), Waiting> {
    let Some(place) = state.sessions.place() else {
        state.metrics.poll_refused();
        tracing::debug!(
            "a session was closed without an answer, because there are as many as waiters may be"
        );
        return ControlFlow::Break(());
    };
    let is_written = with_write_buffer(|out| {
        head(out);
        connection.write_now(&[IoSlice::new(out)]).is_ok_and(|written| written == out.len())
    });
    if !is_written {
        return ControlFlow::Break(());
    }
    let (key, address) = (poll.key.as_ref(), poll.client.origin());
    let metadata = poll.metadata.as_deref().unwrap_or_default();
    let owner = SessionOwner::new(key, poll.accepts, &poll.controller, metadata, address);
    let session = HeldSession::open(&state.exchange, place, connection.clone(), kind, owner, slots, unread);
    if let Some(replaced) = state.exchange.replace(key, &poll.controller, address) {
        replaced.waiter.close(CloseReason::Replaced);
    }
    ControlFlow::Continue(Waiting::Session(Box::pin(session)))
}

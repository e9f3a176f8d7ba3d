//! Owns the life of one connection: a request is read, a poll is held, and the next request is read.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use hyper::Method;

use super::dialect::PollRequest;
use super::h1::{HeadParse, NO_FIELDS, parse, write_response};
use super::request_loop::{HEAD_TIMEOUT, request_loop};
use super::routes::{Action, Routed, route};
use super::state::HttpState;
use crate::broker::ParkRequest;
use crate::metrics::{Listener, RejectReason};
use crate::transport::{CloseReason, Connection, HeldPoll, HoldEnd, LongPoll, ParkedGuard, Waiter};

/// Serves one connection until it is over, and then drops its `permit`.
///
/// Every held connection pays for what this future keeps while a poll is held: a test bounds its size.
#[expect(clippy::manual_async_fn, reason = "an async fn would keep each argument twice")]
pub fn serve<P: AsRef<Arc<Connection>> + Send + 'static>(
    state: Arc<HttpState>,
    listener: Listener,
    permit: P,
) -> impl Future<Output = ()> + Send + 'static {
    async move {
        let mut is_new = true;
        loop {
            let connection = permit.as_ref();
            let time = if std::mem::take(&mut is_new) { HEAD_TIMEOUT } else { connection.idle_timeout() };
            let poll = match next_poll(&state, listener, connection, time) {
                NextPoll::Ready(poll) => poll,
                NextPoll::Requests(requests) => match requests.await {
                    ControlFlow::Continue(poll) => poll,
                    ControlFlow::Break(()) => break,
                },
            };
            let ControlFlow::Continue(place) = park(&state, connection, *poll) else { break };
            match HeldPoll::new(connection, place).await {
                HoldEnd::NextRequest => {}
                HoldEnd::Closed => break,
                HoldEnd::Pipelined => {
                    state.metrics.rejected(RejectReason::Pipelined);
                    tracing::debug!("bytes followed a held poll; closed");
                    break;
                }
            }
        }
        drop(permit);
    }
}

/// Where the next poll of a connection comes from.
enum NextPoll<'a> {
    /// Its request was there already.
    Ready(Box<PollRequest>),
    /// Other requests may come first. Boxed, so that all memory for them is freed while the poll is held.
    Requests(Pin<Box<dyn Future<Output = ControlFlow<(), Box<PollRequest>>> + Send + 'a>>),
}

fn next_poll<'a>(
    state: &'a Arc<HttpState>,
    listener: Listener,
    connection: &'a Arc<Connection>,
    time: Duration,
) -> NextPoll<'a> {
    match try_ready_request(state, listener, connection) {
        Ok(Action::Park(poll)) => NextPoll::Ready(poll),
        Ok(Action::Respond(response)) => NextPoll::Requests(Box::pin(async move {
            write_response(connection, response).await?;
            request_loop(state, listener, connection, BytesMut::new(), connection.idle_timeout()).await
        })),
        Ok(Action::Close) => NextPoll::Requests(Box::pin(std::future::ready(ControlFlow::Break(())))),
        Err(begun) => NextPoll::Requests(Box::pin(request_loop(state, listener, connection, begun, time))),
    }
}

/// Handles a request that is there already, unless it is a dispatch: a controller's next poll usually is, after each run on a
/// kept connection. `Err` with the bytes read so far if there is no such request.
fn try_ready_request(
    state: &HttpState,
    listener: Listener,
    connection: &Connection,
) -> Result<Action, BytesMut> {
    let mut bytes = BytesMut::new();
    if connection.try_read(&mut bytes).is_err() {
        // The buffer is not kept for a request that may come much later.
        return Err(BytesMut::new());
    }
    let mut fields = NO_FIELDS;
    let HeadParse::Complete(head, _) = parse(&bytes, &mut fields, || state.limits().body_limit) else {
        return Err(bytes);
    };
    if head.method != Method::GET {
        // A dispatch takes its time, and its route counts it only once.
        return Err(bytes);
    }
    let Routed::Now(mut action) = route(state, listener, connection.origin(), &head) else {
        return Err(bytes);
    };
    if let Action::Respond(response) = &mut action {
        response.close |= !head.is_reusable() || state.admission.closes_connections();
    }
    Ok(action)
}

/// Parks the poll. `Break` if a limit refuses it: then the connection is closed without a response, because any status would
/// end a stock controller.
fn park(
    state: &Arc<HttpState>,
    connection: &Arc<Connection>,
    poll: PollRequest,
) -> ControlFlow<(), ParkedGuard> {
    if state.admission.is_short_of_memory() {
        state.metrics.poll_refused();
        return ControlFlow::Break(());
    }
    let now = state.exchange.now();
    let PollRequest { key, accepts, controller, host, client, format, reusable, timeout, guard, grace } =
        poll;
    let guard = guard.map_or(Duration::ZERO, |least| least.max(4 * connection.round_trip()));
    let origin = client.origin();
    let request = ParkRequest {
        key,
        accepts,
        controller,
        origin,
        host,
        offer_until: now.plus(timeout.saturating_sub(guard)),
        deadline: now.plus(timeout + grace),
        waiter: Waiter::LongPoll(LongPoll::new(connection.clone(), format, reusable, client.through_proxy)),
    };
    match state.exchange.park(request) {
        Ok((place, replaced)) => {
            if let Some(replaced) = replaced {
                state.shared_names.record(&state.metrics, &replaced.controller, origin);
                replaced.waiter.close(CloseReason::Replaced);
            }
            ControlFlow::Continue(place)
        }
        Err(full) => {
            tracing::debug!(limit = full.limit(), "a poll was closed without an answer");
            ControlFlow::Break(())
        }
    }
}

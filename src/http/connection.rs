//! Owns the life of one connection: a request is read, a poll is held, and the next request is read.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use hyper::Method;
use tokio::task::yield_now;

use super::h1::{HeadParse, HeaderFields, RequestHead, parse, write_response};
use super::park::{Waiting, park};
use super::replies::HeldReply;
use super::request_loop::request_loop;
use super::response::HttpResponse;
use super::routes::{Action, Routed, is_streamed, route};
use super::state::HttpState;
use super::streamed::StreamedRequest;
use crate::metrics::{Listener, RejectReason};
use crate::transport::{Connection, HeldPoll, HeldSession, HoldEnd, return_buffer};

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
        let mut unread = BytesMut::new();
        loop {
            let connection = permit.as_ref();
            let poll = next_poll(&state, listener, connection, unread, std::mem::take(&mut is_new));
            let ControlFlow::Continue(waiting) = poll.await else { break };
            match Held::new(connection, waiting).await {
                HeldEnd::NextRequest(received) => unread = received,
                HeldEnd::Closed => break,
                HeldEnd::Pipelined => {
                    state.metrics.rejected(RejectReason::Pipelined);
                    tracing::debug!("bytes followed a held poll; closed");
                    break;
                }
            }
        }
        drop(permit);
    }
}

/// How the hold of a connection ended.
enum HeldEnd {
    /// The next request can be read, of which these bytes were read already.
    NextRequest(BytesMut),
    Closed,
    /// The peer sent bytes while its poll was held.
    Pipelined,
}

/// What a connection is held for.
enum Held<'a> {
    /// One request.
    Once(HeldPoll<'a>),
    /// A session, after which the connection is over.
    Session(Pin<Box<HeldSession>>),
    /// A reply.
    Reply(HeldReply),
}

impl<'a> Held<'a> {
    fn new(connection: &'a Connection, waiting: Waiting) -> Self {
        match waiting {
            Waiting::Once(parked) => Self::Once(HeldPoll::new(connection, parked)),
            Waiting::Session(session) => Self::Session(session),
            Waiting::Reply(reply) => Self::Reply(reply),
        }
    }
}

impl Future for Held<'_> {
    type Output = HeldEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<HeldEnd> {
        match &mut *self {
            Self::Once(poll) => Pin::new(poll).poll(cx).map(|ended| match ended {
                HoldEnd::NextRequest => HeldEnd::NextRequest(BytesMut::new()),
                HoldEnd::Closed => HeldEnd::Closed,
                HoldEnd::Pipelined => HeldEnd::Pipelined,
            }),
            Self::Session(session) => session.as_mut().poll(cx).map(|()| HeldEnd::Closed),
            Self::Reply(reply) => reply.as_mut().poll(cx).map(|ended| match ended {
                ControlFlow::Continue(unread) => HeldEnd::NextRequest(unread),
                ControlFlow::Break(()) => HeldEnd::Closed,
            }),
        }
    }
}

/// The next poll of a connection, parked. `Break` if the connection is over.
enum NextPoll<'a> {
    /// Its request was there already; none once this was returned.
    Ready(Option<ControlFlow<(), Waiting>>),
    /// Other requests may come first. Boxed, so that all memory for them is freed while the poll is held.
    Requests(Pin<Box<dyn Future<Output = ControlFlow<(), Waiting>> + Send + 'a>>),
}

impl Future for NextPoll<'_> {
    type Output = ControlFlow<(), Waiting>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Ready(poll) => poll.take().map_or(Poll::Pending, Poll::Ready),
            Self::Requests(requests) => requests.as_mut().poll(cx),
        }
    }
}

fn next_poll<'a>(
    state: &'a Arc<HttpState>,
    listener: Listener,
    connection: &'a Arc<Connection>,
    unread: BytesMut,
    is_new: bool,
) -> NextPoll<'a> {
    if !unread.is_empty() {
        return NextPoll::Requests(Box::pin(async move {
            // Whoever sends requests without waiting for their answers has one answered per turn.
            yield_now().await;
            request_loop(state, listener, connection, unread, false).await
        }));
    }
    match try_ready_request(state, listener, connection) {
        ReadyRequest::Poll(poll) => NextPoll::Ready(Some(poll)),
        ReadyRequest::Answered(response) => NextPoll::Requests(Box::pin(async move {
            write_response(connection, &response).await?;
            drop(response);
            request_loop(state, listener, connection, BytesMut::new(), false).await
        })),
        ReadyRequest::Begun(begun) => {
            NextPoll::Requests(Box::pin(request_loop(state, listener, connection, begun, is_new)))
        }
    }
}

/// What is there of a connection's next request.
enum ReadyRequest {
    /// A poll, which is parked now, or a reply under way. `Break` if the connection is over instead.
    Poll(ControlFlow<(), Waiting>),
    /// A request with this response.
    Answered(HttpResponse),
    /// A dispatch, an incomplete request or nothing: the bytes read so far.
    Begun(BytesMut),
}

/// Handles a request that is there already, unless it is a dispatch: a controller's next poll usually is, after each run on a
/// kept connection, and a worker's reply on a new one.
fn try_ready_request(
    state: &Arc<HttpState>,
    listener: Listener,
    connection: &Arc<Connection>,
) -> ReadyRequest {
    let mut buffer = BytesMut::new();
    let read = connection.try_read(&mut buffer);
    let bytes = buffer.freeze();
    if bytes.is_empty() {
        // The buffer is not kept for a request that may come much later.
        return_buffer(bytes);
        let has_ended = read.is_ok();
        return if has_ended {
            ReadyRequest::Poll(ControlFlow::Break(()))
        } else {
            ReadyRequest::Begun(BytesMut::new())
        };
    }
    let mut fields = HeaderFields::default();
    let ready = match parse(&bytes, &mut fields, is_streamed, || state.limits().body_limit) {
        // A dispatch takes its time, and its route counts it only once.
        HeadParse::Complete(head, _) if head.method == Method::GET => {
            answer_or_park(state, listener, connection, &head)
        }
        HeadParse::Streamed(head, body) => {
            let request = StreamedRequest::route(state, listener, connection, &head, body);
            let reply = request.map_continue(|request| request.hold(state, connection, bytes));
            return ReadyRequest::Poll(reply.map_continue(Waiting::Reply));
        }
        HeadParse::Complete(..)
        | HeadParse::PartialHead
        | HeadParse::PartialBody
        | HeadParse::NeedsHyper
        | HeadParse::Refused(_) => None,
    };
    let Some(ready) = ready else { return ReadyRequest::Begun(bytes.into()) };
    return_buffer(bytes);
    ready
}

/// None if the request is a dispatch, or is to be passed on.
fn answer_or_park(
    state: &HttpState,
    listener: Listener,
    connection: &Arc<Connection>,
    head: &RequestHead<'_>,
) -> Option<ReadyRequest> {
    Some(match route(state, listener, connection.origin(), head) {
        Routed::Now(Action::Park(poll)) => ReadyRequest::Poll(park(state, connection, &poll, &mut [])),
        Routed::Now(Action::Close) => ReadyRequest::Poll(ControlFlow::Break(())),
        Routed::Now(Action::Respond(mut response)) => {
            response.close |= state.closes_after(head);
            ReadyRequest::Answered(response)
        }
        Routed::Dispatch(..) | Routed::PassOn(_) | Routed::Reply(_) => return None,
    })
}

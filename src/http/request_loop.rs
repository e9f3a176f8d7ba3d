//! Owns the requests of a connection between two held polls: each is read, by our parser or by hyper, and answered.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Incoming};
use hyper::{Method, Request, Version};
use tokio::time::Instant;

use super::dialect::{Dispatched, dispatch};
use super::h1::{
    AllFields, HeadParse, HeaderFields, HyperEnd, HyperRead, RequestBody, RequestHead, Signs, discard, parse,
    read_idle, read_line, read_more, read_with_hyper, write_and_cut_off, write_and_linger, write_response,
};
use super::park::{Waiting, park};
use super::receipts::pass_on;
use super::replies::{CallerTerms, HandedReply, ReplyRequest, WorkerAnswer, receive};
use super::response::HttpResponse;
use super::routes::{Action, Routed, is_streamed, route};
use super::state::HttpState;
use super::streamed::StreamedRequest;
use crate::metrics::{Listener, RejectReason, Route};
use crate::transport::{Connection, RUNS_PATH, return_buffer};

/// A request's head must be complete within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A plain request whose body is not complete after this time is left to hyper.
const BODY_GRACE: Duration = Duration::from_millis(100);

/// What follows a request.
enum AfterRequest {
    /// It was a poll, which is parked now.
    Waits(Waiting),
    /// It was answered; these bytes came after it.
    Unread(BytesMut),
}

/// Answers requests until a poll is parked. `Break` if the connection is over. `received` is what was read of the first
/// request. A new connection has to send its first head in time; later ones may be idle before each request.
pub(super) async fn request_loop(
    state: &Arc<HttpState>,
    listener: Listener,
    connection: &Arc<Connection>,
    mut received: BytesMut,
    is_new: bool,
) -> ControlFlow<(), Waiting> {
    // The silence of a new connection counts as part of the time for its first head.
    let mut head_deadline = is_new.then(|| Instant::now() + HEAD_TIMEOUT);
    loop {
        if received.is_empty() {
            // No buffer is taken before there is something to read.
            match head_deadline {
                Some(deadline) => read_more(connection, &mut received, deadline).await?,
                None => read_idle(connection, &mut received).await?,
            }
        }
        match handle_request(state, listener, connection, received, head_deadline.take()).await? {
            AfterRequest::Waits(waiting) => return ControlFlow::Continue(waiting),
            AfterRequest::Unread(unread) => received = unread,
        }
        // A client that has sent many requests has one answered per turn, so that other connections of this thread get theirs.
        if !received.is_empty() || connection.may_have_more() {
            tokio::task::yield_now().await;
        }
    }
}

/// Reads one request, and answers it or parks it. `Break` if the connection is over.
async fn handle_request(
    state: &Arc<HttpState>,
    listener: Listener,
    connection: &Arc<Connection>,
    mut received: BytesMut,
    mut head_deadline: Option<Instant>,
) -> ControlFlow<(), AfterRequest> {
    let mut body_deadline = None;
    loop {
        let bytes = received.freeze();
        let mut fields = HeaderFields::default();
        let validated = match parse(&bytes, &mut fields, is_streamed, || state.limits().body_limit) {
            HeadParse::Complete(head, body) => {
                let body = bytes.slice(body);
                let handled = handle_plain(state, listener, connection, head, body).await;
                return_buffer(bytes);
                return handled;
            }
            HeadParse::PartialHead => {
                received = bytes.into();
                let deadline = *head_deadline.get_or_insert_with(|| Instant::now() + HEAD_TIMEOUT);
                read_line(connection, &mut received, deadline).await?;
                continue;
            }
            HeadParse::PartialBody => {
                received = bytes.into();
                let deadline = *body_deadline.get_or_insert_with(|| Instant::now() + BODY_GRACE);
                if read_more(connection, &mut received, deadline).await.is_continue() {
                    continue;
                }
                received.freeze()
            }
            HeadParse::Streamed(head, body) => {
                let request = StreamedRequest::route(state, listener, connection, &head, body)?;
                let reply = request.hold(state, connection, bytes);
                return ControlFlow::Continue(AfterRequest::Waits(Waiting::Reply(reply)));
            }
            HeadParse::NeedsHyper => bytes,
            HeadParse::Refused(problem) => {
                let response = HttpResponse::from(problem);
                state.metrics.answered(Route::Other, response.status.as_u16());
                write_and_linger(connection, response).await?;
                return ControlFlow::Break(());
            }
        };
        return Box::pin(handle_with_hyper(state, listener, connection, validated)).await;
    }
}

/// Answers a plain request, or parks it. `Break` if the connection is over.
async fn handle_plain(
    state: &Arc<HttpState>,
    listener: Listener,
    connection: &Arc<Connection>,
    head: RequestHead<'_>,
    body: Bytes,
) -> ControlFlow<(), AfterRequest> {
    let mut response = match route(state, listener, connection.origin(), &head) {
        Routed::Now(Action::Park(poll)) => {
            return park(state, connection, &poll, &mut []).map_continue(AfterRequest::Waits);
        }
        Routed::Now(Action::Close) => return ControlFlow::Break(()),
        Routed::Now(Action::Respond(response)) => response,
        Routed::Dispatch(dialect, limit) => {
            let dispatched = dispatch(dialect, state, &head, RequestBody::Whole(body), limit);
            match abort_on_disconnect(connection, pin!(dispatched)).await? {
                Dispatched::Answered(response) => response,
                Dispatched::HandedOver(pending) => {
                    let terms = caller_terms(state, &head);
                    let relayed = Waiting::Reply(pending.relay(state.clone(), connection.clone(), terms));
                    return ControlFlow::Continue(AfterRequest::Waits(relayed));
                }
            }
        }
        Routed::Reply(_) => {
            debug_assert!(false, "a reply's body is read as it comes");
            return ControlFlow::Break(());
        }
        // Also for a client that does not wait for the response, as its receipt would count here.
        Routed::PassOn(receipt) => pass_on(state, receipt).await,
    };
    response.close |= state.closes_after(&head);
    write_response(connection, &response).await?;
    ControlFlow::Continue(AfterRequest::Unread(BytesMut::new()))
}

fn caller_terms(state: &HttpState, head: &RequestHead<'_>) -> CallerTerms {
    CallerTerms { is_http_11: head.is_http_11, closes: state.closes_after(head) }
}

/// Waits for the end of a dispatch. `Break` if the client leaves before it.
async fn abort_on_disconnect(
    connection: &Connection,
    mut response: Pin<&mut impl Future<Output = Dispatched>>,
) -> ControlFlow<(), Dispatched> {
    let mut closed = pin!(connection.closed());
    poll_fn(|cx| match response.as_mut().poll(cx) {
        Poll::Ready(response) => Poll::Ready(ControlFlow::Continue(response)),
        Poll::Pending => closed.as_mut().poll(cx).map(ControlFlow::Break),
    })
    .await
}

/// Handles a request whose head is valid, and which hyper reads. `Break` if the connection is over.
async fn handle_with_hyper(
    state: &Arc<HttpState>,
    listener: Listener,
    connection: &Arc<Connection>,
    validated: Bytes,
) -> ControlFlow<(), AfterRequest> {
    // A worker may be done with its connection when it has sent all of its reply. A supervisor's end of it means that it has left.
    let is_workers =
        validated.strip_prefix(b"POST ").is_some_and(|target| target.starts_with(RUNS_PATH.as_bytes()));
    let handle = |request| handle_hyper_request(state, listener, connection, request);
    let (handled, mut unread) = match read_with_hyper(connection, validated, is_workers, handle).await {
        Ok(HyperRead { handled, unread }) => (handled, unread),
        Err(HyperEnd::BadRequest) => {
            state.metrics.answered(Route::Other, 400);
            return ControlFlow::Break(());
        }
        Err(HyperEnd::Closed) => return ControlFlow::Break(()),
    };
    let action = match handled {
        Handled::Done(action) => action,
        Handled::HandedOver(pending, terms) => {
            let relayed = pending.relay(state.clone(), connection.clone(), terms);
            if unread.is_empty() {
                return ControlFlow::Continue(AfterRequest::Waits(Waiting::Reply(relayed)));
            }
            relayed.await?;
            return ControlFlow::Continue(AfterRequest::Unread(unread));
        }
        Handled::CutOff(response) => {
            write_and_cut_off(connection, &response).await;
            return ControlFlow::Break(());
        }
    };
    match action {
        Action::Park(poll) if unread.is_empty() || poll.kind.reads_on() => {
            park(state, connection, &poll, &mut unread).map_continue(AfterRequest::Waits)
        }
        Action::Park(_) => {
            state.metrics.poll_refused();
            state.metrics.rejected(RejectReason::Pipelined);
            ControlFlow::Break(())
        }
        Action::Close => ControlFlow::Break(()),
        Action::Respond(response) => {
            write_and_linger(connection, response).await?;
            ControlFlow::Continue(AfterRequest::Unread(unread))
        }
    }
}

/// What a request has come to that hyper has read.
enum Handled {
    /// This is done with it.
    Done(Action<'static>),
    /// It is a dispatch whose reply is awaited.
    HandedOver(Box<HandedReply>, CallerTerms),
    /// It is a reply that nobody wants any more.
    CutOff(HttpResponse),
}

async fn handle_hyper_request(
    state: &Arc<HttpState>,
    listener: Listener,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
) -> Handled {
    let (parts, body) = request.into_parts();
    let fields = HeaderFields::from(&parts.headers);
    let head = RequestHead {
        method: &parts.method,
        path: parts.uri.path(),
        query: parts.uri.query(),
        is_http_11: parts.version == Version::HTTP_11,
        fields: &fields,
        all_fields: AllFields::Map(&parts.headers),
    };
    let mut response = match route(state, listener, connection.origin(), &head) {
        Routed::Now(Action::Park(poll)) => {
            if discard(&mut body.into(), connection).await {
                return Handled::Done(Action::Park(poll.into_owned()));
            }
            state.metrics.poll_refused();
            return Handled::Done(Action::Close);
        }
        Routed::Now(Action::Close) => return Handled::Done(Action::Close),
        Routed::Now(Action::Respond(response)) => without_body(response, &head, body, connection).await,
        Routed::Dispatch(dialect, limit) => {
            match dispatch(dialect, state, &head, RequestBody::Stream(body), limit).await {
                Dispatched::Answered(response) => response,
                Dispatched::HandedOver(pending) => {
                    return Handled::HandedOver(pending, caller_terms(state, &head));
                }
            }
        }
        Routed::PassOn(receipt) => without_body(pass_on(state, receipt).await, &head, body, connection).await,
        Routed::Reply(path) => {
            let (expects, length) = (fields.show(Signs::EXPECT), body.size_hint().exact());
            let RequestHead { query, all_fields, .. } = head;
            let request = ReplyRequest { path, query, fields: all_fields, expects, length };
            let (mut reply, mut body) = (receive(state, connection, &request), body.into());
            let (answer, _) = Box::pin(reply.finish(state, connection, &mut body)).await;
            if let Some(status) = answer.status() {
                state.metrics.answered(Route::Reply, status);
            }
            match answer {
                WorkerAnswer::Respond(response) => response,
                WorkerAnswer::CutOff(response) => return Handled::CutOff(response),
                WorkerAnswer::Close => return Handled::Done(Action::Close),
            }
        }
    };
    response.close |= state.closes_after(&head);
    response.omits_body |= head.method == Method::HEAD;
    Handled::Done(Action::Respond(response))
}

/// The same response to a request whose body is not needed. A body that is not read would be taken for the next request. A client that
/// expects to be asked for its body is not asked.
async fn without_body(
    mut response: HttpResponse,
    head: &RequestHead<'_>,
    body: Incoming,
    connection: &Connection,
) -> HttpResponse {
    let closes = response.close || head.fields.show(Signs::EXPECT);
    response.close = closes || !discard(&mut body.into(), connection).await;
    response
}

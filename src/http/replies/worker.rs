//! Owns a worker's reply: its token is checked, and its body is written down the caller's connection as it comes.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::timeout;

use super::answer::{ReplyRequest, WorkerAnswer};
use super::caller_response::{Framing, frame};
use super::function_error::{Completion, FunctionError};
use super::head::ReplyHead;
use super::peer::{PeerReply, pass_on};
use super::worker_body::{LateFailure, Piece, RelayError, Trailers, next_piece};
use crate::http::h1::{StreamedBody, discard};
use crate::http::peer_route::of_another_broker;
use crate::http::problem::Problem;
use crate::http::response::HttpResponse;
use crate::http::run_request::{RunPath, RunQuery, RunResource};
use crate::http::state::HttpState;
use crate::metrics::Route;
use crate::model::ReplyOutcome;
use crate::reply::{OpenError, OpenReply, ReplyToken, ResponseStyle};
use crate::transport::{Connection, return_buffer};

/// A body that is not needed is waited for this long.
const BODY_GRACE: Duration = Duration::from_millis(100);

/// So much of an error is kept where it must be there before it can be written, in bytes.
const MAX_ERROR_BYTES: usize = 256 * 1024;

/// What is kept for the line before each chunk.
const MAX_KEPT_BYTES: usize = 16;

/// A worker's request of which nothing but the body is needed any more.
pub(in crate::http) struct ReceivedReply(Received);

/// What has become of it.
enum Received {
    /// It is relayed to the caller; the head until it is written.
    Opened(OpenReply, Option<Box<ReplyHead>>),
    /// It is passed on to another broker; none once it is.
    Elsewhere(Option<Box<PeerReply>>),
    /// It is answered, and its body is for nobody; none once it is.
    Answered(Option<Box<HttpResponse>>, BodyUse),
}

/// Whether a body that is for nobody is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyUse {
    /// If it is short and there already, so that the connection can be kept.
    ReadIfShort,
    /// Its client waits to be asked for it.
    NeverAsked,
}

/// Opens the reply that a worker's request is for.
pub(in crate::http) fn receive(
    state: &HttpState,
    connection: &Connection,
    request: &ReplyRequest<'_>,
) -> ReceivedReply {
    connection.limit_unread();
    ReceivedReply(open_or_answer(state, request))
}

fn open_or_answer(state: &HttpState, request: &ReplyRequest<'_>) -> Received {
    let answered = |response: HttpResponse| {
        let body_use = if request.expects { BodyUse::NeverAsked } else { BodyUse::ReadIfShort };
        Received::Answered(Some(Box::new(response)), body_use)
    };
    let reply = match open(state, request) {
        Ok(Opened::Here(reply)) => reply,
        Ok(Opened::Elsewhere(reply)) => {
            return Received::Elsewhere(Some(Box::new(reply)));
        }
        Err(problem) => return answered(problem.into()),
    };
    if reply.comes_late() {
        return answered(HttpResponse::empty());
    }
    let Some(mut head) = ReplyHead::parse(request.fields, request.length, reply.is_error()) else {
        // This breaks it.
        drop(reply);
        return answered(Problem::bad_reply_status().into());
    };
    head.log_tail = head.log_tail.filter(|_| reply.wants_log());
    Received::Opened(reply, Some(Box::new(head)))
}

impl ReceivedReply {
    /// Reads the body, as far as it is needed. Returns what the worker is told, and what was read behind the body.
    pub(in crate::http) async fn finish(
        &mut self,
        state: &HttpState,
        connection: &Arc<Connection>,
        body: &mut StreamedBody,
    ) -> (WorkerAnswer, BytesMut) {
        let answer = match &mut self.0 {
            Received::Opened(reply, head) => match head.take() {
                Some(head) => relay_whole(reply, head, body, connection).await,
                None => WorkerAnswer::Close,
            },
            Received::Elsewhere(passing) => match passing.take() {
                Some(passing) => return Box::pin(pass_on(state, *passing, body, connection)).await,
                None => WorkerAnswer::Close,
            },
            Received::Answered(response, body_use) => match response.take() {
                Some(response) => Box::pin(respond_early(*response, *body_use, body, connection)).await,
                None => WorkerAnswer::Close,
            },
        };
        (answer, body.take_unread())
    }

    /// The same as a future that owns all that it needs, so that the memory for the request can be freed meanwhile. It writes the
    /// answer, too. The connection `is_reusable` if its client wants that.
    #[expect(clippy::manual_async_fn, reason = "an async fn would keep each argument twice")]
    pub(in crate::http) fn hold(
        mut self,
        state: Arc<HttpState>,
        connection: Arc<Connection>,
        mut body: StreamedBody,
        is_reusable: bool,
    ) -> impl Future<Output = ControlFlow<(), BytesMut>> + Send {
        async move {
            let (answer, unread) = self.finish(&state, &connection, &mut body).await;
            if let Some(status) = answer.status() {
                state.metrics.answered(Route::Reply, status);
            }
            let closes = !is_reusable || state.admission.closes_connections();
            Box::pin(answer.write(&connection, closes)).await?;
            ControlFlow::Continue(unread)
        }
    }
}

/// Answers a request whose body is not needed. Only a short one that is there already is read: a worker may open its reply long
/// before it has one.
async fn respond_early(
    mut response: HttpResponse,
    body_use: BodyUse,
    body: &mut StreamedBody,
    connection: &Connection,
) -> WorkerAnswer {
    let is_read = body_use == BodyUse::ReadIfShort
        && timeout(BODY_GRACE, discard(body, connection)).await.unwrap_or(false);
    if is_read {
        return WorkerAnswer::Respond(response);
    }
    response.close = true;
    WorkerAnswer::CutOff(response)
}

/// Whose reply it is.
enum Opened {
    Here(OpenReply),
    /// It is another broker's, at this path.
    Elsewhere(PeerReply),
}

fn open(state: &HttpState, request: &ReplyRequest<'_>) -> Result<Opened, Problem> {
    let RunPath { resource, .. } = request.path;
    let query = RunQuery::parse(resource, request.query)?;
    let token = query.token.as_deref().and_then(ReplyToken::parse);
    // In a cluster, and only there, a token names its broker.
    let token = token.filter(|token| token.broker.is_some() == state.cluster.is_some());
    let token = token.ok_or_else(Problem::no_reply_token)?;
    let run = request.path.decode_run().ok_or_else(Problem::reply_of_other_run)?;
    match state.replies.open(&token, &run, resource == RunResource::Error) {
        Ok(reply) => Ok(Opened::Here(reply)),
        Err(OpenError::OtherRun) => Err(Problem::reply_of_other_run()),
        Err(OpenError::Gone) => match of_another_broker(state, token.broker) {
            None => Err(Problem::reply_gone()),
            Some(_) if query.is_passed_on => Err(Problem::misdirected_receipt()),
            Some(broker) => {
                state.replies.open_forwarded(&token);
                PeerReply::find(state, broker, &run, request, token).map(Opened::Elsewhere)
            }
        },
    }
}

/// Relays all of a reply, and says how it has ended.
async fn relay_whole(
    reply: &mut OpenReply,
    head: Box<ReplyHead>,
    body: &mut StreamedBody,
    connection: &Connection,
) -> WorkerAnswer {
    let relayed = if head.needs_whole_body(reply.style()) {
        Box::pin(relay_error(reply, *head, body, connection)).await
    } else {
        relay(reply, head, body, connection).await
    };
    match relayed {
        Ok(RelayEnd::Complete) => reply.finish(),
        Ok(RelayEnd::Failed { is_complete }) => reply.end(ReplyOutcome::WorkerError, is_complete),
        Ok(RelayEnd::Cut) => {
            reply.end(ReplyOutcome::WorkerError, true);
            return WorkerAnswer::CutOff(HttpResponse { close: true, ..HttpResponse::empty() });
        }
        Ok(RelayEnd::Died) => {
            reply.end(ReplyOutcome::ReplyBroken, true);
            return WorkerAnswer::Close;
        }
        Err(RelayError::Gone) => return WorkerAnswer::CutOff(Problem::reply_gone().closing().into()),
        Err(RelayError::Broken) => return WorkerAnswer::Close,
    }
    WorkerAnswer::Respond(HttpResponse::empty())
}

/// How a relay has ended.
enum RelayEnd {
    /// The caller has the reply.
    Complete,
    /// The run has failed. The caller's response says so, if it is complete.
    Failed { is_complete: bool },
    /// The run has failed, as the caller's complete response says. The rest of the worker's request is for nobody.
    Cut,
    /// The worker's request broke off, and the caller's response, which is complete, says so.
    Died,
}

/// Writes a reply as it comes.
async fn relay(
    reply: &mut OpenReply,
    head: Box<ReplyHead>,
    body: &mut StreamedBody,
    connection: &Connection,
) -> Result<RelayEnd, RelayError> {
    let mut framing = None;
    let (error, log_tail, end) = match relay_pieces(reply, &head, &mut framing, body, connection).await {
        Ok(None) => return Ok(RelayEnd::Complete),
        Ok(Some(failure)) => {
            let LateFailure { error, log_tail } = *failure;
            (error, log_tail, RelayEnd::Failed { is_complete: true })
        }
        Err(RelayError::Broken) if matches!(framing, Some(Framing::Events { .. })) => {
            (FunctionError::worker_died(), None, RelayEnd::Died)
        }
        Err(error) => return Err(error),
    };
    match framing {
        None => Box::pin(write_error(reply, *head, &error)).await,
        Some(Framing::Events { .. }) => {
            let log_tail = log_tail.as_deref().or(head.log_tail.as_deref());
            Box::pin(write_completion(reply, framing, &error, log_tail)).await?;
            Ok(end)
        }
        // Nothing but a broken response can say so any more.
        Some(_) => Ok(RelayEnd::Failed { is_complete: false }),
    }
}

/// Writes the pieces of a reply. `used_framing` is that of the caller's response once it has begun. Returns the failure with which the
/// worker has ended it, if it has.
async fn relay_pieces(
    reply: &mut OpenReply,
    head: &ReplyHead,
    used_framing: &mut Option<Framing>,
    body: &mut StreamedBody,
    connection: &Connection,
) -> Result<Option<Box<LateFailure>>, RelayError> {
    let style = reply.style();
    let mut before = Vec::new();
    loop {
        let (data, last) = match next_piece(reply, body, connection).await? {
            Piece::Data { data, last } => (data, last),
            Piece::Failed(failure) => return Ok(Some(failure)),
        };
        let framing = if let Some(framing) = *used_framing {
            framing
        } else {
            let caller = reply.begin(head.status(style).as_u16()).await?;
            head.write(style, &caller, &mut before);
            *used_framing.insert(head.framing(style, &caller))
        };
        let completion = last.as_ref().map(|Trailers { log_tail }| Completion {
            error: None,
            log_tail: log_tail.as_deref().or(head.log_tail.as_deref()),
        });
        let after = frame(framing, &data, completion, &mut before);
        let is_last = last.is_some();
        if is_last {
            reply.begin_finish();
        }
        if !(before.is_empty() && data.is_empty() && after.is_empty()) {
            reply.write([&before, &data, &after], data.len()).await?;
        }
        return_buffer(data);
        if is_last {
            return Ok(None);
        }
        if before.capacity() > MAX_KEPT_BYTES {
            before = Vec::with_capacity(MAX_KEPT_BYTES);
        }
        before.clear();
    }
}

/// Writes the last event of a stream, which says how the function has failed.
async fn write_completion(
    reply: &mut OpenReply,
    framing: Option<Framing>,
    error: &FunctionError,
    log_tail: Option<&[u8]>,
) -> Result<(), RelayError> {
    let Some(framing) = framing else { return Ok(()) };
    let completion = Completion { error: Some(error), log_tail };
    let mut before = Vec::new();
    let after = frame(framing, &[], Some(completion), &mut before);
    reply.begin_finish();
    Ok(reply.write([&before, &after, &[]], 0).await?)
}

/// Reads an error whole, and writes it.
async fn relay_error(
    reply: &mut OpenReply,
    head: ReplyHead,
    body: &mut StreamedBody,
    connection: &Connection,
) -> Result<RelayEnd, RelayError> {
    let mut sent = Vec::new();
    loop {
        match next_piece(reply, body, connection).await? {
            Piece::Data { data, last } => {
                let room = MAX_ERROR_BYTES - sent.len();
                let is_cut = data.len() > room;
                sent.extend_from_slice(&data[..data.len().min(room)]);
                if last.is_some() || is_cut {
                    let end = write_error(reply, head, &FunctionError::of_worker(sent, None)).await?;
                    return Ok(if is_cut { RelayEnd::Cut } else { end });
                }
            }
            Piece::Failed(failure) => return write_error(reply, head, &failure.error).await,
        }
    }
}

/// Writes the caller's response, which has not begun, as one that says how the function has failed.
async fn write_error(
    reply: &mut OpenReply,
    head: ReplyHead,
    error: &FunctionError,
) -> Result<RelayEnd, RelayError> {
    let style = reply.style();
    let head = head.into_error(error.document.len());
    let caller = reply.begin(head.status(style).as_u16()).await?;
    let mut before = Vec::new();
    head.write(style, &caller, &mut before);
    let framing = head.framing(style, &caller);
    let document: &[u8] = if style == ResponseStyle::InvokeStream { &[] } else { &error.document };
    let completion = Completion { error: Some(error), log_tail: head.log_tail.as_deref() };
    let after = frame(framing, document, Some(completion), &mut before);
    reply.begin_finish();
    reply.write([&before, document, &after], document.len()).await?;
    Ok(RelayEnd::Failed { is_complete: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what is held for an open reply, in bytes.
    fn size<F: Future>(
        _: impl Fn(ReceivedReply, Arc<HttpState>, Arc<Connection>, StreamedBody, bool) -> F,
    ) -> usize {
        size_of::<F>()
    }

    /// Each open reply costs this much memory at its worker's connection, and no buffer.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn an_open_reply_keeps_no_more_than_this() {
        let [held, body] = [size(ReceivedReply::hold), size_of::<StreamedBody>()];
        assert!(held <= 768 && body <= 96, "held {held}, body {body}");
    }
}

//! Owns a worker's reply: its token is checked, and its body is written down the caller's connection as it comes.

use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::EXPECT;
use tokio::time::timeout;

use super::answer::{ReplyRequest, WorkerAnswer};
use super::caller_response::{Framing, frame};
use super::function_error::{Completion, FunctionError};
use super::head::ReplyHead;
use super::peer::{PeerReply, pass_on};
use super::worker_body::{LateFailure, Piece, RelayError, Trailers, next_piece};
use crate::http::h1::discard;
use crate::http::peer_route::of_another_broker;
use crate::http::problem::Problem;
use crate::http::response::HttpResponse;
use crate::http::run_request::{RunPath, RunQuery, RunResource};
use crate::http::state::HttpState;
use crate::model::ReplyOutcome;
use crate::reply::{OpenError, OpenReply, ReplyToken, ResponseStyle};
use crate::transport::Connection;

/// A body that is not needed is waited for this long.
const BODY_GRACE: Duration = Duration::from_millis(100);
/// So much of an error is kept where it must be there before it can be written, in bytes.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// Relays a reply, from a worker's connection to the caller of its run.
pub(in crate::http) async fn receive(
    state: &HttpState,
    connection: &Connection,
    request: ReplyRequest<'_>,
    body: Incoming,
) -> WorkerAnswer {
    connection.limit_unread();
    let mut reply = match open(state, &request) {
        Ok(Opened::Here(reply)) => reply,
        Ok(Opened::Elsewhere(reply)) => return pass_on(state, &request, reply, body).await,
        Err(problem) => return respond_early(problem.into(), &request, body).await,
    };
    if reply.comes_late() {
        return respond_early(HttpResponse::empty(), &request, body).await;
    }
    let Some(head) = ReplyHead::parse(request.fields, body.size_hint().exact(), reply.is_error()) else {
        // This breaks it.
        drop(reply);
        return respond_early(Problem::bad_reply_status().into(), &request, body).await;
    };
    let relayed = if head.needs_whole_body(reply.style()) {
        relay_error(&mut reply, head, body).await
    } else {
        relay(&mut reply, head, body).await
    };
    match relayed {
        Ok(RelayEnd::Complete) => reply.finish(),
        Ok(RelayEnd::Failed { is_complete }) => reply.end(ReplyOutcome::WorkerError, is_complete),
        Ok(RelayEnd::Died) => {
            reply.end(ReplyOutcome::ReplyBroken, true);
            return WorkerAnswer::Close;
        }
        Err(RelayError::Gone) => {
            return WorkerAnswer::CutOff(HttpResponse::from(Problem::reply_gone().closing()));
        }
        Err(RelayError::Broken) => return WorkerAnswer::Close,
    }
    WorkerAnswer::Respond(HttpResponse::empty())
}

/// Answers a request whose body is not needed. Only a short one that is there already is read, so that the connection can be kept: a
/// worker may open its reply long before it has one.
async fn respond_early(
    mut response: HttpResponse,
    request: &ReplyRequest<'_>,
    body: Incoming,
) -> WorkerAnswer {
    let expects = request.fields.contains_key(EXPECT);
    let is_read = !expects && timeout(BODY_GRACE, discard(body)).await.unwrap_or(false);
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
                PeerReply::find(state, broker, &run, resource, token).map(Opened::Elsewhere)
            }
        },
    }
}

/// How a relay has ended.
enum RelayEnd {
    /// The caller has the reply.
    Complete,
    /// The run has failed. The caller's response says so, if it is complete.
    Failed { is_complete: bool },
    /// The worker's request broke off, and the caller's response, which is complete, says so.
    Died,
}

/// Writes a reply as it comes.
async fn relay(reply: &mut OpenReply, head: ReplyHead, body: Incoming) -> Result<RelayEnd, RelayError> {
    let mut framing = None;
    match relay_pieces(reply, &head, &mut framing, body).await {
        Ok(None) => Ok(RelayEnd::Complete),
        Ok(Some(failure)) => match framing {
            None => write_error(reply, head, &failure.error).await,
            Some(Framing::Events { .. }) => {
                let log_tail = failure.log_tail.or(head.log_tail);
                write_completion(reply, framing, &failure.error, log_tail.as_deref()).await?;
                Ok(RelayEnd::Failed { is_complete: true })
            }
            // Nothing but a broken response can say so any more.
            Some(_) => Ok(RelayEnd::Failed { is_complete: false }),
        },
        Err(RelayError::Broken) if matches!(framing, Some(Framing::Events { .. })) => {
            let log_tail = head.log_tail.as_deref();
            write_completion(reply, framing, &FunctionError::worker_died(), log_tail).await?;
            Ok(RelayEnd::Died)
        }
        Err(error) => Err(error),
    }
}

/// Writes the pieces of a reply. `used_framing` is that of the caller's response once it has begun. Returns the failure with which the
/// worker has ended it, if it has.
async fn relay_pieces(
    reply: &mut OpenReply,
    head: &ReplyHead,
    used_framing: &mut Option<Framing>,
    mut body: Incoming,
) -> Result<Option<LateFailure>, RelayError> {
    let style = reply.style();
    loop {
        let (data, last) = match next_piece(reply, &mut body).await? {
            Piece::Data { data, last } => (data, last),
            Piece::Failed(failure) => return Ok(Some(*failure)),
        };
        let mut before = Vec::new();
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
        if last.is_some() {
            reply.begin_finish();
        }
        if !(before.is_empty() && data.is_empty() && after.is_empty()) {
            reply.write([&before, &data, &after], data.len()).await?;
        }
        if last.is_some() {
            return Ok(None);
        }
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
    mut body: Incoming,
) -> Result<RelayEnd, RelayError> {
    let mut sent = Vec::new();
    loop {
        match next_piece(reply, &mut body).await? {
            Piece::Data { data, last } => {
                sent.extend_from_slice(&data[..data.len().min(MAX_ERROR_BYTES - sent.len())]);
                if last.is_some() {
                    return write_error(reply, head, &FunctionError::of_worker(sent, None)).await;
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

//! Owns a worker's reply: its token is checked, and its body is written down the caller's connection as it comes.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::EXPECT;
use tokio::time::timeout;

use super::answer::{ReplyRequest, WorkerAnswer};
use super::head::{Framing, ReplyHead};
use super::peer::{PeerReply, pass_on};
use crate::http::h1::discard;
use crate::http::peer_route::of_another_broker;
use crate::http::problem::Problem;
use crate::http::response::HttpResponse;
use crate::http::run_request::{RunPath, RunQuery, RunResource};
use crate::http::state::HttpState;
use crate::reply::{OpenError, OpenReply, ReplyGone, ReplyToken};
use crate::transport::Connection;

/// A body that is not needed is waited for this long.
const BODY_GRACE: Duration = Duration::from_millis(100);

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
    match relay(&mut reply, &head, body).await {
        Ok(()) => {
            reply.finish();
            WorkerAnswer::Respond(HttpResponse::empty())
        }
        Err(RelayError::Gone) => WorkerAnswer::CutOff(HttpResponse::from(Problem::reply_gone().closing())),
        Err(RelayError::Broken) => WorkerAnswer::Close,
    }
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

/// Why a relay has ended early.
enum RelayError {
    /// Nobody wants the rest.
    Gone,
    /// The worker's request broke off.
    Broken,
}

impl From<ReplyGone> for RelayError {
    fn from(ReplyGone: ReplyGone) -> Self {
        Self::Gone
    }
}

async fn relay(reply: &mut OpenReply, head: &ReplyHead, mut body: Incoming) -> Result<(), RelayError> {
    let mut framing = None;
    loop {
        let data = next_data(reply, &mut body).await?;
        let is_last = data.is_none() || body.is_end_stream();
        let data = data.unwrap_or_default();
        let mut before = Vec::new();
        let framing = if let Some(framing) = framing {
            framing
        } else {
            let caller = reply.begin(head.status.as_u16()).await?;
            head.write(&caller, &mut before);
            *framing.insert(head.framing(&caller))
        };
        let after = frame(framing, data.len(), is_last, &mut before);
        if is_last {
            reply.begin_finish();
        }
        if !(before.is_empty() && data.is_empty()) {
            reply.write([&before, &data, after], data.len()).await?;
        }
        if is_last {
            return Ok(());
        }
    }
}

/// The next bytes of the body; none at its end.
async fn next_data(reply: &mut OpenReply, body: &mut Incoming) -> Result<Option<Bytes>, RelayError> {
    loop {
        let Some(frame) = reply.unless_gone(body.frame()).await? else { return Ok(None) };
        // Trailers are not relayed.
        match frame.map_err(|_| RelayError::Broken)?.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => return Ok(Some(data)),
            Err(_) => {}
        }
    }
}

/// Appends what comes before these bytes of the body, and returns what comes after them.
pub(super) fn frame(framing: Framing, length: usize, is_last: bool, before: &mut Vec<u8>) -> &'static [u8] {
    if framing != Framing::Chunked {
        return b"";
    }
    match (length, is_last) {
        (0, false) => b"",
        (0, true) => {
            before.extend_from_slice(b"0\r\n\r\n");
            b""
        }
        _ => {
            before.extend_from_slice(format!("{length:x}\r\n").as_bytes());
            if is_last { b"\r\n0\r\n\r\n" } else { b"\r\n" }
        }
    }
}

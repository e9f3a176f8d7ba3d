//! Owns replies whose caller is at another broker: their requests are passed on to it as they come.

use std::sync::Arc;

use bytes::BytesMut;
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::answer::{ReplyRequest, WorkerAnswer};
use super::head::STATUS;
use crate::http::h1::{AllFields, StreamedBody};
use crate::http::peer_route::{Peer, find_peer, peer_problem};
use crate::http::peers::{PeerError, PeerResponse, RelaySource};
use crate::http::problem::Problem;
use crate::http::response::{HttpResponse, ResponseBody};
use crate::http::run_request::PASSED_ON;
use crate::http::state::HttpState;
use crate::lambda::{ERROR_BODY, ERROR_TYPE, LOG_TAIL};
use crate::reply::ReplyToken;
use crate::transport::{Connection, run_path};

/// The fields that are passed on: those that make a difference to the caller, and the framing.
const PASSED: [HeaderName; 5] = [
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    HeaderName::from_static(STATUS),
    HeaderName::from_static(LOG_TAIL),
];

/// The fields behind a reply that are passed on.
static PASSED_TRAILERS: [HeaderName; 3] = [
    HeaderName::from_static(ERROR_TYPE),
    HeaderName::from_static(ERROR_BODY),
    HeaderName::from_static(LOG_TAIL),
];

/// A reply to a caller of another broker.
pub(super) struct PeerReply {
    peer: Peer,
    /// The path and the query of the request to that broker.
    target: String,
    fields: HeaderMap,
}

impl PeerReply {
    /// An error if that broker cannot be reached.
    pub(super) fn find(
        state: &HttpState,
        broker: u128,
        run: &str,
        request: &ReplyRequest<'_>,
        token: ReplyToken,
    ) -> Result<Self, Problem> {
        let peer = find_peer(state, broker)?;
        let path = run_path(run.as_bytes(), request.path.resource.text(), token);
        let target = format!("{path}&{PASSED_ON}=true");
        Ok(Self { peer, target, fields: passed_fields(request.fields) })
    }
}

/// The fields of a worker's request that are passed on.
fn passed_fields(fields: AllFields<'_>) -> HeaderMap {
    let mut passed = HeaderMap::new();
    fields.visit(|name, value| {
        if let Some(name) = PASSED.iter().find(|passed| name.eq_ignore_ascii_case(passed.as_str()))
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            passed.append(name, value);
        }
    });
    passed
}

/// Passes a reply on. The answer is that broker's, or says why there is none. What was read behind the body comes with it.
pub(super) async fn pass_on(
    state: &HttpState,
    PeerReply { peer, target, fields }: PeerReply,
    body: &mut StreamedBody,
    connection: &Arc<Connection>,
) -> (WorkerAnswer, BytesMut) {
    let body = std::mem::take(body);
    let source = Arc::new(RelaySource::new(connection.clone(), body, &PASSED_TRAILERS));
    let response = state.peers.relay(&peer.origin, &target, fields, source.clone()).await;
    let (has_ended, unread) = source.end();
    (answer(&peer, response, has_ended), unread)
}

/// What a worker is told.
fn answer(peer: &Peer, response: Result<PeerResponse, PeerError>, has_ended: bool) -> WorkerAnswer {
    let error = match response {
        Ok(PeerResponse { status: StatusCode::OK, .. }) if has_ended => {
            return WorkerAnswer::Respond(HttpResponse::empty());
        }
        // What is left of the body must not be taken for the next request.
        Ok(PeerResponse { status: StatusCode::OK, .. }) => {
            return WorkerAnswer::CutOff(HttpResponse { close: true, ..HttpResponse::empty() });
        }
        Ok(PeerResponse { status, problem: Some(problem) }) if status.is_client_error() => {
            let body = ResponseBody::from_slice(&problem);
            let mut response = HttpResponse::new(status, Problem::CONTENT_TYPE, body);
            response.close = true;
            return WorkerAnswer::CutOff(response);
        }
        Ok(PeerResponse { status, .. }) => PeerError::Unexpected(status),
        Err(error) => error,
    };
    WorkerAnswer::CutOff(peer_problem(peer, &error).closing().into())
}

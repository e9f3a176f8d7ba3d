//! Owns replies whose caller is at another broker: their requests are passed on to it as they come.

use std::sync::atomic::Ordering;

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRAILER,
};

use super::answer::{ReplyRequest, WorkerAnswer};
use super::head::{LOG_TAIL, STATUS};
use super::worker_body::TRAILERS;
use crate::http::peer_route::{Peer, find_peer, peer_problem};
use crate::http::peers::{PeerError, PeerResponse, RelayedBody};
use crate::http::problem::Problem;
use crate::http::response::{HttpResponse, ResponseBody};
use crate::http::run_request::{PASSED_ON, RunResource};
use crate::http::state::HttpState;
use crate::reply::ReplyToken;
use crate::transport::run_path;

/// The fields that are passed on: those that make a difference to the caller, and the framing.
const PASSED: [HeaderName; 5] = [
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    HeaderName::from_static(STATUS),
    HeaderName::from_static(LOG_TAIL),
];

/// A reply to a caller of another broker.
pub(super) struct PeerReply {
    peer: Peer,
    /// The path and the query of the request to that broker.
    target: String,
}

impl PeerReply {
    /// An error if that broker cannot be reached.
    pub(super) fn find(
        state: &HttpState,
        broker: u128,
        run: &str,
        resource: RunResource,
        token: ReplyToken,
    ) -> Result<Self, Problem> {
        let peer = find_peer(state, broker)?;
        let target = format!("{}&{PASSED_ON}=true", run_path(run.as_bytes(), resource.text(), token));
        Ok(Self { peer, target })
    }
}

/// Passes a reply on. The answer is that broker's, or says why there is none.
pub(super) async fn pass_on(
    state: &HttpState,
    request: &ReplyRequest<'_>,
    PeerReply { peer, target }: PeerReply,
    body: Incoming,
) -> WorkerAnswer {
    let mut fields = HeaderMap::new();
    for name in PASSED {
        for value in request.fields.get_all(&name) {
            fields.append(name.clone(), value.clone());
        }
    }
    // Those that are not announced would not be sent.
    if !fields.contains_key(CONTENT_LENGTH) {
        fields.insert(TRAILER, HeaderValue::from_static(TRAILERS));
    }
    let (body, is_read) = RelayedBody::new(body);
    let error = match state.peers.relay(&peer.origin, &target, fields, body).await {
        Ok(PeerResponse { status: StatusCode::OK, .. }) if is_read.load(Ordering::Acquire) => {
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
    WorkerAnswer::CutOff(peer_problem(&peer, &error).closing().into())
}

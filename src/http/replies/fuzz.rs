//! Owns what fuzzers reach of replies: the path of a worker's request, and the response that relays it. It exists with `--cfg fuzzing` only.

use std::sync::Arc;

use hyper::HeaderMap;

use super::caller::caller_fields;
use super::caller_response::frame;
use super::function_error::Completion;
use super::head::ReplyHead;
use crate::http::h1::AllFields;
use crate::http::run_request::{RunPath, RunQuery, RunResource};
use crate::reply::{Caller, ResponseStyle};
use crate::transport::Connection;

/// What a worker's request says in its path and its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunTarget {
    /// As it is shown to the caller; none if no run can have it.
    pub run: Option<String>,
    /// The last segment of the path.
    pub resource: &'static str,
    /// Decoded, but not parsed.
    pub token: Option<String>,
    /// Whether another broker has passed it on.
    pub is_passed_on: bool,
}

/// Parses the target of a worker's request. None if it is refused.
pub fn parse_target(path: &str, query: Option<&str>) -> Option<RunTarget> {
    let path = RunPath::find(path)?;
    let RunQuery { token, is_passed_on, is_ready } = RunQuery::parse(path.resource, query).ok()?;
    assert!(!is_ready || path.resource == RunResource::Ack, "only a receipt says that its worker is ready");
    Some(RunTarget {
        run: path.decode_run().map(Into::into),
        resource: path.resource.text(),
        token: token.map(Into::into),
        is_passed_on,
    })
}

/// The caller of a run.
#[derive(Clone)]
#[allow(missing_docs, reason = "each is what the request itself has by this name")]
pub struct CallerSide<'a> {
    pub connection: Arc<Connection>,
    pub is_http_11: bool,
    pub closes: bool,
    pub run: &'a str,
    /// The controller that has the run.
    pub controller: Option<&'a str>,
    pub metadata: Option<&'a str>,
}

/// What a worker sends.
#[derive(Debug, Clone, Copy)]
pub struct WorkerSide<'a> {
    /// The fields of its request.
    pub fields: &'a HeaderMap,
    /// The length of the body, if it is announced.
    pub length: Option<u64>,
    /// Whether the run has failed.
    pub is_error: bool,
    /// The body as it comes. Only the last one may be empty: then its end comes later than its last byte.
    pub pieces: &'a [&'a [u8]],
}

/// What the caller is sent: the head, and the body. None if the reply is refused.
pub fn relay(worker: WorkerSide<'_>, caller: &CallerSide<'_>) -> Option<(Vec<u8>, Vec<u8>)> {
    let parsed = ReplyHead::parse(AllFields::Map(worker.fields), worker.length, worker.is_error)?;
    let CallerSide { is_http_11, closes, run, controller, metadata, .. } = *caller;
    let fields = caller_fields(run.as_bytes(), controller, metadata);
    let caller = Caller { connection: caller.connection.clone(), is_http_11, closes, fields };
    let (mut head, mut body) = (Vec::new(), Vec::new());
    let style = ResponseStyle::Native;
    parsed.write(style, &caller, &mut head);
    for (number, piece) in worker.pieces.iter().enumerate() {
        let is_last = number + 1 == worker.pieces.len();
        let completion = is_last.then(Completion::default);
        let after = frame(parsed.framing(style, &caller), piece, completion, &mut body);
        body.extend_from_slice(piece);
        body.extend_from_slice(&after);
    }
    Some((head, body))
}

//! Owns the body of a worker's reply as it comes: its pieces, and what its trailers say.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};

use super::function_error::FunctionError;
use super::head::parse_log_tail;
use crate::reply::{OpenReply, ReplyGone};

/// The trailer that says that the run has failed while its reply was sent: the type of the error.
const ERROR_TYPE: &str = "pilotlight-error-type";
/// The trailer with the error's document, in base64.
const ERROR_BODY: &str = "pilotlight-error-body";
/// All trailers that are read.
pub(super) const TRAILERS: &str = "pilotlight-error-type, pilotlight-error-body, pilotlight-log-tail";
/// An error's type has at most this many bytes, and its document in base64 so many.
const MAX_TYPE_BYTES: usize = 256;
const MAX_DOCUMENT_BYTES: usize = 6 * 1024;

/// A piece of a body.
pub(super) enum Piece {
    /// Bytes of it; with the trailers, if they are the last ones. Only the last ones may be empty.
    Data { data: Bytes, last: Option<Trailers> },
    /// Its end, with which the worker says that the run has failed.
    Failed(Box<LateFailure>),
}

/// What the trailers of a reply say.
#[derive(Default)]
pub(super) struct Trailers {
    /// The end of the log, in base64.
    pub(super) log_tail: Option<Box<[u8]>>,
}

/// A failure while the reply was sent.
pub(super) struct LateFailure {
    pub(super) error: FunctionError,
    /// The end of the log, in base64.
    pub(super) log_tail: Option<Box<[u8]>>,
}

/// Why a relay has ended early.
pub(super) enum RelayError {
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

/// The next piece of the body.
pub(super) async fn next_piece(reply: &mut OpenReply, body: &mut Incoming) -> Result<Piece, RelayError> {
    loop {
        let Some(frame) = reply.unless_gone(body.frame()).await? else {
            return Ok(Piece::Data { data: Bytes::new(), last: Some(Trailers::default()) });
        };
        match frame.map_err(|_| RelayError::Broken)?.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => {
                let last = body.is_end_stream().then(Trailers::default);
                return Ok(Piece::Data { data, last });
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return Ok(end(&trailers));
                }
            }
        }
    }
}

/// The end of a body with these trailers. Others are not relayed.
fn end(trailers: &HeaderMap) -> Piece {
    let log_tail = parse_log_tail(trailers);
    let kind = trailers.get(ERROR_TYPE).and_then(|kind| kind.to_str().ok());
    let Some(kind) = kind.filter(|kind| !kind.is_empty() && kind.len() <= MAX_TYPE_BYTES) else {
        return Piece::Data { data: Bytes::new(), last: Some(Trailers { log_tail }) };
    };
    let document = trailers.get(ERROR_BODY).filter(|body| body.len() <= MAX_DOCUMENT_BYTES);
    let document = document.and_then(|body| STANDARD.decode(body.as_bytes()).ok()).unwrap_or_default();
    Piece::Failed(Box::new(LateFailure { error: FunctionError::of_worker(document, Some(kind)), log_tail }))
}

//! Owns the body of a worker's reply as it comes: its pieces, and what its trailers say.

use std::future::poll_fn;
use std::task::Poll;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::function_error::FunctionError;
use super::head::parse_log_tail;
use crate::http::h1::{BadBody, StreamedBody};
use crate::lambda::{ERROR_BODY, ERROR_TYPE, LOG_TAIL};
use crate::reply::{OpenReply, ReplyGone};
use crate::transport::Connection;

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

impl From<BadBody> for RelayError {
    fn from(BadBody: BadBody) -> Self {
        Self::Broken
    }
}

/// The next piece of the body.
pub(super) async fn next_piece(
    reply: &mut OpenReply,
    body: &mut StreamedBody,
    connection: &Connection,
) -> Result<Piece, RelayError> {
    let data = poll_fn(|cx| match reply.poll_gone(cx) {
        Poll::Ready(()) => Poll::Ready(Err(RelayError::Gone)),
        Poll::Pending => body.poll_next(connection, cx).map(|data| Ok(data.transpose()?)),
    });
    let data = data.await?.unwrap_or_default();
    let last = match body.has_ended().then(|| end(body, reply.wants_log())) {
        Some(Ok(trailers)) => Some(trailers),
        Some(Err(failure)) if data.is_empty() => return Ok(Piece::Failed(failure)),
        // After these bytes it is asked for once more, and there are none before the failure then.
        Some(Err(_)) | None => None,
    };
    Ok(Piece::Data { data, last })
}

/// What the trailers of a body say that has ended. Others are not relayed.
fn end(body: &StreamedBody, wants_log: bool) -> Result<Trailers, Box<LateFailure>> {
    let log_tail = body.trailer(LOG_TAIL).filter(|_| wants_log).and_then(parse_log_tail);
    let Some(kind) = body.trailer(ERROR_TYPE) else { return Ok(Trailers { log_tail }) };
    // The run has failed, whatever the type is called.
    let kind = std::str::from_utf8(kind).ok().filter(|kind| !kind.is_empty() && kind.len() <= MAX_TYPE_BYTES);
    let document = body.trailer(ERROR_BODY).filter(|document| document.len() <= MAX_DOCUMENT_BYTES);
    let document = document.and_then(|document| STANDARD.decode(document).ok()).unwrap_or_default();
    Err(Box::new(LateFailure { error: FunctionError::of_worker(document, kind), log_tail }))
}

//! Owns reading a request's body: bounded in size and time, copied at most once.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};

use super::head::Head;
use super::problem::Problem;

/// The whole body must arrive within this time.
const BODY_TIME: Duration = Duration::from_secs(10);
/// The body of a request that needs none is read and thrown away up to this size, so that the next request is found behind it.
const POLL_BODY_BYTES: usize = 1024;

/// A body, as far as it is there.
pub(super) enum Source {
    /// It came with its head.
    Whole(Bytes),
    /// hyper reads it.
    Stream(Incoming),
}

/// Reads a POST's body. A body that came with its head is not copied at all.
pub(super) async fn read(head: &Head<'_>, body: Source, limit: usize) -> Result<Bytes, Problem> {
    if head.fields.has("content-encoding") {
        return Err(Problem::encoded_body().closing());
    }
    let body = match body {
        Source::Whole(body) if body.len() > limit => return Err(Problem::body_too_large(limit)),
        Source::Whole(body) => return Ok(body),
        Source::Stream(body) => body,
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(Problem::body_too_large(limit));
    }
    match tokio::time::timeout(BODY_TIME, Limited::new(body, limit).collect()).await {
        Err(_) => Err(Problem::body_too_slow()),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::body_too_large(limit)),
        Ok(Err(_)) => {
            Err(Problem::bad_body("ended before its announced length, or is framed wrongly").closing())
        }
    }
}

/// Takes the body of a request that needs none out of the way; false if it is too large or too slow for that.
pub(super) async fn discard(body: Incoming) -> bool {
    if body.is_end_stream() {
        return true;
    }
    // Nobody is asked to send what will not be read.
    if body.size_hint().lower() > POLL_BODY_BYTES as u64 {
        return false;
    }
    let read = Limited::new(body, POLL_BODY_BYTES).collect();
    matches!(tokio::time::timeout(BODY_TIME, read).await, Ok(Ok(_)))
}

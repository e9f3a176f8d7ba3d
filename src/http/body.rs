//! Owns reading a request's body: bounded in size, time and memory, copied at most once.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};

use super::admission::{Admission, Reserved};
use super::head::RequestHead;
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

/// Reads a POST's body. A body that came with its head is not copied at all, and reserves nothing: it is in memory already, and
/// small.
pub(super) async fn read(
    pressure: &Admission,
    head: &RequestHead<'_>,
    body: Source,
    limit: usize,
) -> Result<Bytes, Problem> {
    if head.fields.has("content-encoding") {
        return Err(Problem::encoded_body().closing());
    }
    let body = match body {
        Source::Whole(body) if body.len() > limit => return Err(Problem::body_too_large(limit)),
        Source::Whole(body) => return Ok(body),
        Source::Stream(body) => body,
    };
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(Problem::body_too_large(limit));
    }
    let reserved = pressure.reserve(announced).ok_or_else(|| Problem::overloaded().closing())?;
    match tokio::time::timeout(BODY_TIME, collect(pressure, reserved, body, limit)).await {
        Err(_) => Err(Problem::body_too_slow()),
        Ok(read) => read,
    }
}

/// Reads all pieces. What was reserved for them is given back with the last of their bytes, wherever those are by then.
async fn collect(
    pressure: &Admission,
    mut reserved: Reserved,
    mut body: Incoming,
    limit: usize,
) -> Result<Bytes, Problem> {
    let announced = reserved.bytes;
    let (mut first, mut all) = (Bytes::new(), Vec::new());
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let bad = |_| Problem::bad_body("ended before its announced length, or is framed wrongly").closing();
        // Trailers mean nothing here.
        let Ok(piece) = frame.map_err(bad)?.into_data() else { continue };
        length += piece.len();
        if length > limit {
            return Err(Problem::body_too_large(limit));
        }
        let more = (length as u64).saturating_sub(reserved.bytes);
        if more > 0 && !pressure.reserve_more(&mut reserved, more) {
            return Err(Problem::overloaded().closing());
        }
        if first.is_empty() {
            first = piece;
            continue;
        }
        // Put together as they come: a list of pieces may take more memory than their bytes, if each is small.
        if all.is_empty() {
            all.reserve_exact(usize::try_from(announced).unwrap_or(0));
            all.extend_from_slice(&first);
        }
        all.extend_from_slice(&piece);
    }
    let bytes = if all.is_empty() { first } else { all.into() };
    Ok(Bytes::from_owner(Kept { bytes, _reserved: reserved }))
}

/// A body's bytes with the memory that is reserved for them.
struct Kept {
    bytes: Bytes,
    _reserved: Reserved,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_reserved_for_a_body_until_its_last_bytes_are_gone() {
        let pressure = Admission::default();
        pressure.set_memory_left(100);
        let reserved = pressure.reserve(60).unwrap();
        let body = Bytes::from_owner(Kept { bytes: Bytes::from_static(b"a run"), _reserved: reserved });
        let payload = body.slice(2..);
        drop(body);
        assert!(pressure.reserve(41).is_none());
        drop(payload);
        assert!(pressure.reserve(100).is_some());
    }
}

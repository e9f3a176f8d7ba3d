//! Owns reading a request's body: bounded in size, time and memory, copied at most once.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use super::field_names::Signs;
use super::head::RequestHead;
use super::streamed_body::StreamedBody;
use crate::http::admission::{Admission, MemoryReservation};
use crate::http::problem::Problem;
use crate::transport::{Connection, return_buffer};

/// The whole body must arrive within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// A body that the request does not need is read and discarded up to this size, so that the next request is found behind it.
const MAX_DISCARDED_BYTES: usize = 1024;

/// A request's body before it is read.
pub(in crate::http) enum RequestBody {
    /// It came with its head.
    Whole(Bytes),
    /// hyper reads it.
    Stream(Incoming),
}

/// Reads a POST's body. A body that came with its head is not copied, and no memory is reserved for it: it is small and in
/// memory already.
pub(in crate::http) async fn read_body(
    admission: &Admission,
    head: &RequestHead<'_>,
    body: RequestBody,
    limit: usize,
) -> Result<Bytes, Problem> {
    if head.fields.show(Signs::CONTENT_ENCODING) {
        return Err(Problem::encoded_body().closing());
    }
    let body = match body {
        RequestBody::Whole(body) if body.len() > limit => return Err(Problem::body_too_large(limit)),
        RequestBody::Whole(body) => return Ok(body),
        RequestBody::Stream(body) => body,
    };
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(Problem::body_too_large(limit));
    }
    let reservation = admission.reserve(announced).ok_or_else(|| Problem::overloaded().closing())?;
    match timeout(BODY_TIMEOUT, collect(admission, reservation, body, limit)).await {
        Err(_) => Err(Problem::body_too_slow()),
        Ok(read) => read,
    }
}

/// Reads all frames. The reservation is released when the last reference to the bytes is dropped.
async fn collect(
    admission: &Admission,
    mut reservation: MemoryReservation,
    mut body: Incoming,
    limit: usize,
) -> Result<Bytes, Problem> {
    let announced = reservation.bytes;
    let (mut first, mut joined) = (Bytes::new(), Vec::new());
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let bad = |_| Problem::bad_body("ended before its announced length, or is framed wrongly").closing();
        // Trailers are ignored.
        let Ok(data) = frame.map_err(bad)?.into_data() else { continue };
        length += data.len();
        if length > limit {
            return Err(Problem::body_too_large(limit));
        }
        let missing = (length as u64).saturating_sub(reservation.bytes);
        if missing > 0 && !admission.reserve_more(&mut reservation, missing) {
            return Err(Problem::overloaded().closing());
        }
        if first.is_empty() {
            first = data;
            continue;
        }
        // Frames are joined as they come: a list of small frames can take more memory than their bytes.
        if joined.is_empty() {
            joined.reserve_exact(usize::try_from(announced).unwrap_or(0));
            joined.extend_from_slice(&first);
        }
        joined.extend_from_slice(&data);
    }
    let bytes = if joined.is_empty() { first } else { joined.into() };
    Ok(Bytes::from_owner(ReservedBytes { bytes, _reservation: reservation }))
}

/// A body's bytes with the memory that is reserved for them.
struct ReservedBytes {
    bytes: Bytes,
    _reservation: MemoryReservation,
}

impl AsRef<[u8]> for ReservedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads and discards a body that the request does not need; false if it is too large or too slow for that.
pub(in crate::http) async fn discard(body: &mut StreamedBody, connection: &Connection) -> bool {
    if body.has_ended() {
        return true;
    }
    // Reading would answer `100 Continue`, and ask for a body that is not read.
    if body.announced().unwrap_or(0) > MAX_DISCARDED_BYTES as u64 {
        return false;
    }
    let read = async {
        let mut length = 0;
        while let Some(next) = body.next(connection).await {
            let Ok(data) = next else { return false };
            length += data.len();
            return_buffer(data);
            if length > MAX_DISCARDED_BYTES {
                return false;
            }
        }
        true
    };
    timeout(BODY_TIMEOUT, read).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_reserved_for_a_body_until_its_last_bytes_are_dropped() {
        let admission = Admission::default();
        admission.set_memory_left(100);
        let reservation = admission.reserve(60).unwrap();
        let body = Bytes::from_owner(ReservedBytes {
            bytes: Bytes::from_static(b"a run"),
            _reservation: reservation,
        });
        let payload = body.slice(2..);
        drop(body);
        assert!(admission.reserve(41).is_none());
        drop(payload);
        assert!(admission.reserve(100).is_some());
    }
}

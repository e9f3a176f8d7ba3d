//! Owns which requests are plain: those that are answered from the read buffer, without hyper.
//!
//! The fast path exists for its cost: a dispatch has two requests, and hyper's share of both was a fifth of the broker's time
//! (`docs/decisions/008-the-quick-way.md`). Any other request goes to hyper from its first byte on, and the routes behind
//! both are the same.

use std::ops::Range;

use hyper::Method;

use super::body_decoder::BodyFraming;
use super::field_names::{FieldName, Signs};
use super::fields::{HeaderFields, TransferCodings};
use super::validate::{MAX_LENGTH, alphanumeric_and, decimal, is_host};

/// The most bytes of a plain request, head and body.
const MAX_PLAIN_BYTES: u32 = 16 * 1024;

/// Whether a parsed head is that of a plain request, and whether the request is complete.
pub(super) enum FastPath<'a> {
    /// One plain request and nothing after it; its body is at this range of the buffer.
    Complete { method: &'static Method, path: &'a str, query: Option<&'a str>, body: Range<usize> },
    /// The body of a plain request has not come completely.
    PartialBody,
    /// A request whose body is read as it comes, from this place of the buffer on.
    Streamed { method: &'static Method, path: &'a str, query: Option<&'a str>, framing: BodyFraming },
    /// Any other request.
    Fallback,
}

/// Classifies a parsed head of `head_length` bytes in a buffer of `buffered` bytes. What is plain or streamed here is valid, too. The
/// bodies of POSTs to paths that `is_streamed` are read as they come.
pub(super) fn classify<'a>(
    request: &httparse::Request<'_, 'a>,
    fields: &HeaderFields<'_>,
    head_length: usize,
    buffered: usize,
    is_streamed: impl FnOnce(&str) -> bool,
) -> FastPath<'a> {
    let httparse::Request { method: Some(method), path: Some(target), version: Some(1), .. } = request else {
        return FastPath::Fallback;
    };
    let (path, query) = match target.bytes().position(|byte| byte == b'?') {
        Some(end) => (&target[..end], Some(&target[end + 1..])),
        None => (*target, None),
    };
    if *method == "POST" && is_streamed(path) {
        return match stream_framing(fields).filter(|_| is_plain_target(target)) {
            Some(framing) => FastPath::Streamed { method: &Method::POST, path, query, framing },
            None => FastPath::Fallback,
        };
    }
    let Ok(body_length) = body_length(fields) else { return FastPath::Fallback };
    let method = match (*method, body_length) {
        ("GET", None) => &Method::GET,
        ("POST", Some(_)) => &Method::POST,
        _ => return FastPath::Fallback,
    };
    if !is_plain_target(target) {
        return FastPath::Fallback;
    }
    let end = head_length + body_length.unwrap_or(0);
    if end > MAX_PLAIN_BYTES as usize || end < buffered {
        return FastPath::Fallback;
    }
    if end > buffered {
        return FastPath::PartialBody;
    }
    FastPath::Complete { method, path, query, body: head_length..end }
}

/// The announced length of the body, if one is announced. `Err` if the fields are not those of a plain request: it has one
/// valid Host, at most one Content-Length, and none of the fields that change the framing.
fn body_length(fields: &HeaderFields<'_>) -> Result<Option<usize>, ()> {
    let is_unframed = fields.transfer_codings().count == 0 && !fields.show(Signs::FRAMING | Signs::EXPECT);
    if !is_unframed || !fields.only(FieldName::Host)?.is_some_and(is_host) {
        return Err(());
    }
    let Some(length) = fields.only(FieldName::ContentLength)? else { return Ok(None) };
    decimal(length, MAX_PLAIN_BYTES.into()).and_then(|length| length.try_into().ok()).map(Some).ok_or(())
}

/// How a body that is read as it comes is framed. None if the fields are not clear: there is one valid Host, and one length, or one
/// coding, which is `chunked`.
fn stream_framing(fields: &HeaderFields<'_>) -> Option<BodyFraming> {
    fields.only(FieldName::Host).ok()?.filter(|host| is_host(host))?;
    let length = fields.only(FieldName::ContentLength).ok()?;
    match (fields.transfer_codings(), length) {
        (TransferCodings { count: 0, .. }, None) => Some(BodyFraming::Length(0)),
        (TransferCodings { count: 0, .. }, Some(length)) => {
            decimal(length, MAX_LENGTH).map(BodyFraming::Length)
        }
        (TransferCodings { count: 1, ends_chunked: true, .. }, None) => Some(BodyFraming::Chunked),
        _ => None,
    }
}

/// Whether a target is in origin form, of bytes that every parser reads alike.
fn is_plain_target(target: &str) -> bool {
    static PLAIN: [bool; 256] = alphanumeric_and(b"/-._~%?=&+:,@");
    target.starts_with('/') && target.bytes().all(|byte| PLAIN[usize::from(byte)])
}

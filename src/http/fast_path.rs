//! Owns the quick way in: a plain request that has come whole is read where it stands, without hyper.
//!
//! It exists for its cost: a dispatch has two requests, and hyper's share of both was a fifth of the broker's time
//! (`docs/decisions/008-the-quick-way.md`). Whatever is not entirely as expected here goes to hyper from its first byte on,
//! and the routes behind both are the same.

use std::ops::Range;

use httparse::{Header, Status};
use hyper::Method;

use super::head::{HeaderFields, RequestHead};
use super::validate::is_host;

/// A plain request is no longer than this, head and body.
pub(super) const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// A plain request has no more fields than this.
pub(super) const MAX_FIELDS: usize = 24;

/// What stands in the read buffer.
#[derive(Debug)]
pub(super) enum FastParse<'a> {
    /// One plain request and nothing else; its body stands in this range.
    Complete(RequestHead<'a>, Range<usize>),
    /// The beginning of what may become one.
    Partial,
    /// Anything else.
    Fallback,
}

/// A field by any of these names changes how the message is framed, or what it asks for.
const NOT_PLAIN: [&str; 6] = ["transfer-encoding", "expect", "upgrade", "trailer", "te", "http2-settings"];

/// Reads a request without taking anything for granted.
pub(super) fn parse<'a, 'b: 'a>(bytes: &'b [u8], fields: &'a mut [Header<'b>; MAX_FIELDS]) -> FastParse<'a> {
    let mut request = httparse::Request::new(fields);
    let head = match request.parse(bytes) {
        Ok(Status::Complete(head)) => head,
        Ok(Status::Partial) if bytes.len() < MAX_REQUEST_BYTES => return FastParse::Partial,
        Ok(Status::Partial) | Err(_) => return FastParse::Fallback,
    };
    let httparse::Request { method: Some(method), path: Some(target), version: Some(1), headers } = request
    else {
        return FastParse::Fallback;
    };
    let fields = HeaderFields::List(headers);
    let Ok(length) = body_length(fields) else { return FastParse::Fallback };
    let method = match (method, length) {
        ("GET", None) => &Method::GET,
        ("POST", Some(_)) => &Method::POST,
        _ => return FastParse::Fallback,
    };
    if !is_plain_target(target) || !has_one_host(fields) {
        return FastParse::Fallback;
    }
    let end = head + length.unwrap_or(0);
    if end > MAX_REQUEST_BYTES || end < bytes.len() {
        return FastParse::Fallback;
    }
    if end > bytes.len() {
        return FastParse::Partial;
    }
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    FastParse::Complete(RequestHead { method, path, query, is_http_11: true, fields }, head..end)
}

/// The announced length, if one is announced. `Err` if the framing is anything but plain.
fn body_length(fields: HeaderFields<'_>) -> Result<Option<usize>, ()> {
    if fields.any_name(|name| NOT_PLAIN.iter().any(|other| name.eq_ignore_ascii_case(other))) {
        return Err(());
    }
    let mut lengths = fields.values("content-length");
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(None),
        (Some(length), None) if length.len() <= 5 && length.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(length).map_err(drop)?.parse().map(Some).map_err(drop)
        }
        (Some(_), _) => Err(()),
    }
}

fn has_one_host(fields: HeaderFields<'_>) -> bool {
    let mut hosts = fields.values("host");
    hosts.next().is_some_and(is_host) && hosts.next().is_none()
}

/// A target of an ordinary form, whose bytes mean the same to every parser.
fn is_plain_target(target: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%?=&+:,@".contains(&b);
    target.starts_with('/') && target.bytes().all(is_plain)
}

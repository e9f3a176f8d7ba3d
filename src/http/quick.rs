//! Owns the quick way in: a plain request that has come whole is read where it stands, without hyper.
//!
//! It exists for its cost: a dispatch has two requests, and hyper's share of both was a fifth of the broker's time
//! (`docs/decisions/008-the-quick-way.md`). Whatever is not entirely as expected here goes to hyper from its first byte on,
//! and the routes behind both are the same.

use std::ops::Range;

use httparse::{Header, Status};
use hyper::Method;

use super::head::{Fields, Head};
use super::strict::is_host;

/// A plain request is no longer than this, head and body.
pub(super) const LARGEST: usize = 16 * 1024;
/// A plain request has no more fields than this.
pub(super) const MOST_FIELDS: usize = 24;

/// What stands in the read buffer.
#[derive(Debug)]
pub(super) enum Read<'a> {
    /// One plain request and nothing else; its body stands in this range.
    Plain(Head<'a>, Range<usize>),
    /// The beginning of what may become one.
    Partial,
    /// Anything else.
    Other,
}

/// A field by any of these names changes how the message is framed, or what it asks for.
const NOT_PLAIN: [&str; 6] = ["transfer-encoding", "expect", "upgrade", "trailer", "te", "http2-settings"];

/// Reads a request without taking anything for granted.
pub(super) fn read<'a, 'b: 'a>(bytes: &'b [u8], fields: &'a mut [Header<'b>; MOST_FIELDS]) -> Read<'a> {
    let mut request = httparse::Request::new(fields);
    let head = match request.parse(bytes) {
        Ok(Status::Complete(head)) => head,
        Ok(Status::Partial) if bytes.len() < LARGEST => return Read::Partial,
        Ok(Status::Partial) | Err(_) => return Read::Other,
    };
    let httparse::Request { method: Some(method), path: Some(target), version: Some(1), headers } = request
    else {
        return Read::Other;
    };
    let fields = Fields::List(headers);
    let Ok(length) = body_length(fields) else { return Read::Other };
    let method = match (method, length) {
        ("GET", None) => &Method::GET,
        ("POST", Some(_)) => &Method::POST,
        _ => return Read::Other,
    };
    if !is_plain_target(target) || !has_one_host(fields) {
        return Read::Other;
    }
    let end = head + length.unwrap_or(0);
    if end > LARGEST || end < bytes.len() {
        return Read::Other;
    }
    if end > bytes.len() {
        return Read::Partial;
    }
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    Read::Plain(Head { method, path, query, is_http_11: true, fields }, head..end)
}

/// The announced length, if one is announced. `Err` if the framing is anything but plain.
fn body_length(fields: Fields<'_>) -> Result<Option<usize>, ()> {
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

fn has_one_host(fields: Fields<'_>) -> bool {
    let mut hosts = fields.values("host");
    hosts.next().is_some_and(is_host) && hosts.next().is_none()
}

/// A target of an ordinary form, whose bytes mean the same to every parser.
fn is_plain_target(target: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%?=&+:,@".contains(&b);
    target.starts_with('/') && target.bytes().all(is_plain)
}

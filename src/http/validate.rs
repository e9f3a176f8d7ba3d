//! Owns what a request's head must be before anything is done with it, where parsers are known to differ or to be lenient.
//!
//! hyper repairs some of this, or hides it from its service; so heads are judged as they came (`docs/faults.md`).

use std::net::Ipv6Addr;

use httparse::{EMPTY_HEADER, Error, Request, Status};

use super::MAX_TARGET_BYTES;
use super::head::HeaderFields;
use super::problem::Problem;

/// The largest accepted head, in bytes.
pub(super) const HEAD_BYTES: usize = 16 * 1024;
/// The most fields of a head.
const MOST_FIELDS: usize = 100;

/// What can be said of the bytes at the beginning of a request.
pub(super) enum HeadCheck {
    /// The head is not whole yet.
    Partial,
    /// The head is whole, and means the same to everyone.
    Valid,
    /// It will not be served, whatever follows.
    Refused(Problem),
}

/// Judges a head. `body_limit` is named to whoever announces a body beyond all bounds.
pub(super) fn validate_head(bytes: &[u8], body_limit: usize) -> HeadCheck {
    let mut fields = [EMPTY_HEADER; MOST_FIELDS];
    let mut request = Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(Status::Complete(head)) if head <= HEAD_BYTES => {}
        Ok(Status::Partial) if bytes.len() <= HEAD_BYTES => return HeadCheck::Partial,
        Ok(_) | Err(Error::TooManyHeaders) => return HeadCheck::Refused(Problem::head_too_large()),
        Err(error) => return HeadCheck::Refused(Problem::malformed(error)),
    }
    let is_http_11 = request.version == Some(1);
    let fields = HeaderFields::List(request.headers);
    let wrong = if request.path.is_some_and(hides_its_length) {
        Some(Problem::target_too_long())
    } else if !has_one_valid_host(fields, is_http_11) {
        Some(Problem::malformed(
            "an HTTP/1.1 request has exactly one Host, a name or address with an optional port",
        ))
    } else {
        framing(fields, is_http_11, body_limit)
    };
    wrong.map_or(HeadCheck::Valid, |problem| HeadCheck::Refused(problem.closing()))
}

/// Whether a target is too long by what hyper's service does not see of it: an authority, a fragment.
fn hides_its_length(target: &str) -> bool {
    target.len() > MAX_TARGET_BYTES && (!target.starts_with('/') || target.contains('#'))
}

fn has_one_valid_host(fields: HeaderFields<'_>, is_http_11: bool) -> bool {
    let mut hosts = fields.values("host");
    match (hosts.next(), hosts.next()) {
        (None, _) => !is_http_11,
        (Some(host), None) => is_host(host),
        (Some(_), Some(_)) => false,
    }
}

/// Whether it is a name or an address, with an optional port.
pub(super) fn is_host(host: &[u8]) -> bool {
    let is_port = |port: &str| port.parse::<u16>().is_ok() && !port.starts_with('+');
    let Ok(host) = std::str::from_utf8(host) else { return false };
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let is_fine = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return is_fine && address.parse::<Ipv6Addr>().is_ok();
    }
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let is_name =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    is_name && port.is_none_or(is_port)
}

/// What is wrong with how the body is framed, as far as hyper would not say so.
fn framing(fields: HeaderFields<'_>, is_http_11: bool, body_limit: usize) -> Option<Problem> {
    let mut lengths = fields.values("content-length");
    let length = lengths.next();
    let mut codings =
        fields.values("transfer-encoding").flat_map(|value| value.split(|&byte| byte == b',')).peekable();
    if codings.peek().is_none() {
        // hyper has no room for so large a number, which is one all the same.
        let length =
            length.and_then(|text| std::str::from_utf8(text).ok()).and_then(|text| text.parse::<u64>().ok());
        return length.filter(|&length| length >= u64::MAX - 2).map(|_| Problem::body_too_large(body_limit));
    }
    let is = |coding: &[u8], name: &str| coding.trim_ascii().eq_ignore_ascii_case(name.as_bytes());
    let is_chunked = |coding: &&[u8]| is(coding, "chunked");
    let codings: Vec<&[u8]> = codings.collect();
    if length.is_some() || !is_http_11 {
        Some(Problem::malformed(
            "a body with a Transfer-Encoding has no Content-Length, and HTTP/1.0 has no such body",
        ))
    } else if !codings.last().is_some_and(is_chunked) {
        Some(Problem::malformed(
            "the last Transfer-Encoding is `chunked`, or nobody knows where the body ends",
        ))
    } else if codings.len() == 1 {
        None
    } else if codings.iter().all(|coding| is_chunked(coding) || is(coding, "identity")) {
        Some(Problem::malformed("the Transfer-Encoding is `chunked`, once"))
    } else {
        Some(Problem::unknown_coding())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_an_optional_port() {
        for fine in ["b", "b:80", "a-b.c_d:65535", "10.0.0.1", "[::1]", "[::1]:7070"] {
            assert!(is_host(fine.as_bytes()), "{fine}");
        }
        for wrong in [
            "", ":80", "a b", "a@b", "b:", "b:x", "b:65536", "b:+1", "::1", "[::1", "[x]", "[::1]x",
            "[::1]:", "a/b",
        ] {
            assert!(!is_host(wrong.as_bytes()), "{wrong}");
        }
    }
}

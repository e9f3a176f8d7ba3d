//! Owns what a request's head must be before it is acted on, where parsers are known to differ or to be lenient.
//!
//! hyper repairs some of this, or hides it from its service, so the head is checked as it was sent (`docs/faults.md`).

use std::net::Ipv6Addr;

use httparse::Request;

use super::field_names::FieldName;
use super::fields::{HeaderFields, TransferCodings};
use crate::http::problem::Problem;

/// The largest accepted head, in bytes.
pub(super) const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The longest accepted request target, in bytes.
pub(in crate::http) const MAX_TARGET_BYTES: usize = 2048;

/// The first rule that a parsed head violates. `body_limit` is named in the refusal of a body whose announced length overflows.
pub(in crate::http) fn violation(
    request: &Request<'_, '_>,
    fields: &HeaderFields<'_>,
    body_limit: impl FnOnce() -> usize,
) -> Option<Problem> {
    let is_http_11 = request.version == Some(1);
    let problem = if request.path.is_some_and(hides_its_length) {
        Some(Problem::target_too_long())
    } else if !has_one_valid_host(fields, is_http_11) {
        Some(Problem::malformed(
            "an HTTP/1.1 request must have exactly one Host, a name or address with an optional port",
        ))
    } else {
        framing_violation(fields, is_http_11, body_limit)
    };
    problem.map(Problem::closing)
}

/// Whether a target is too long because of a part that hyper's service does not see: an authority or a fragment.
fn hides_its_length(target: &str) -> bool {
    target.len() > MAX_TARGET_BYTES && (!target.starts_with('/') || target.contains('#'))
}

fn has_one_valid_host(fields: &HeaderFields<'_>, is_http_11: bool) -> bool {
    fields.only(FieldName::Host).is_ok_and(|host| host.map_or(!is_http_11, is_host))
}

/// Whether a Host is a name or an address, with an optional port.
pub(super) fn is_host(host: &[u8]) -> bool {
    let is_port = |port: &str| port.parse::<u16>().is_ok() && !port.starts_with('+');
    let Ok(host) = std::str::from_utf8(host) else { return false };
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let is_valid_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return is_valid_port && address.parse::<Ipv6Addr>().is_ok();
    }
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let is_name =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    is_name && port.is_none_or(is_port)
}

/// What is wrong with the framing of the body, where hyper would accept it.
fn framing_violation(
    fields: &HeaderFields<'_>,
    is_http_11: bool,
    body_limit: impl FnOnce() -> usize,
) -> Option<Problem> {
    let length = fields.value(FieldName::ContentLength);
    let TransferCodings { count, ends_chunked, has_other } = fields.transfer_codings();
    if count == 0 {
        // A valid number that is too large for hyper, which keeps the three largest values for other framings.
        let length =
            length.and_then(|text| std::str::from_utf8(text).ok()).and_then(|text| text.parse::<u64>().ok());
        return length
            .filter(|&length| length >= u64::MAX - 2)
            .map(|_| Problem::body_too_large(body_limit()));
    }
    if length.is_some() || !is_http_11 {
        Some(Problem::malformed(
            "a request with a Transfer-Encoding must have no Content-Length, and must not be of HTTP/1.0",
        ))
    } else if !ends_chunked {
        Some(Problem::malformed(
            "the last Transfer-Encoding is not `chunked`, so the end of the body is unknown",
        ))
    } else if count == 1 {
        None
    } else if has_other {
        Some(Problem::unknown_coding())
    } else {
        Some(Problem::malformed("the Transfer-Encoding must be `chunked`, once"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_an_optional_port() {
        for valid in ["b", "b:80", "a-b.c_d:65535", "10.0.0.1", "[::1]", "[::1]:7070"] {
            assert!(is_host(valid.as_bytes()), "{valid}");
        }
        for invalid in [
            "", ":80", "a b", "a@b", "b:", "b:x", "b:65536", "b:+1", "::1", "[::1", "[x]", "[::1]x",
            "[::1]:", "a/b",
        ] {
            assert!(!is_host(invalid.as_bytes()), "{invalid}");
        }
    }
}

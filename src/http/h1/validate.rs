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
/// The largest accepted length of a body, in bytes: hyper keeps the three larger values for other framings.
pub(super) const MAX_LENGTH: u64 = u64::MAX - 3;
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
    static IN_NAMES: [bool; 256] = alphanumeric_and(b"-._~");
    let is_port = |port: &[u8]| decimal(port, u16::MAX.into()).is_some();
    if let Some(rest) = host.strip_prefix(b"[") {
        let Some((address, port)) = std::str::from_utf8(rest).ok().and_then(|rest| rest.split_once(']'))
        else {
            return false;
        };
        let is_valid_port =
            port.is_empty() || port.strip_prefix(':').is_some_and(|port| is_port(port.as_bytes()));
        return is_valid_port && address.parse::<Ipv6Addr>().is_ok();
    }
    let end = host.iter().position(|&byte| !IN_NAMES[usize::from(byte)]).unwrap_or(host.len());
    let (name, rest) = host.split_at(end);
    !name.is_empty() && (rest.is_empty() || rest.strip_prefix(b":").is_some_and(is_port))
}

/// A number of decimal digits, if it is not above `most`.
pub(super) fn decimal(digits: &[u8], most: u64) -> Option<u64> {
    let add = |number: u64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit).filter(|&number| number <= most)
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

/// A table of bytes: ASCII letters, digits, and the others.
pub(super) const fn alphanumeric_and(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte: u8 = 0;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
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
        let length =
            length.and_then(|text| std::str::from_utf8(text).ok()).and_then(|text| text.parse::<u64>().ok());
        return length.filter(|&length| length > MAX_LENGTH).map(|_| Problem::body_too_large(body_limit()));
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

    #[test]
    fn a_number_has_digits_only_and_a_bound() {
        for (digits, number) in [("0", 0), ("65535", 65_535), ("0000000000080", 80)] {
            assert_eq!(decimal(digits.as_bytes(), 65_535), Some(number), "{digits}");
        }
        for digits in ["", "+1", "-1", " 1", "1 ", "1x", "/", ":", "65536", "99999999999999999999"] {
            assert_eq!(decimal(digits.as_bytes(), 65_535), None, "{digits}");
        }
    }
}

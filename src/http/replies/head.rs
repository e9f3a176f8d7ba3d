//! Owns the head of the response that relays a worker's reply, and how its body is framed.

use std::time::Instant;

use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};

use crate::http::response::{append_field, write_date, write_keep_alive};
use crate::model::ReplyOutcome;
use crate::reply::Caller;

/// The field in which a worker gives the caller's status.
pub(super) const STATUS: &str = "pilotlight-status";

/// What a worker's reply says of itself before its body.
pub(super) struct ReplyHead {
    pub(super) status: StatusCode,
    content_type: Option<Box<[u8]>>,
    content_encoding: Option<Box<[u8]>>,
    /// The length of the body, if it was announced.
    pub(super) length: Option<u64>,
    outcome: ReplyOutcome,
}

/// How the caller finds the end of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// By its length.
    Length,
    /// By chunks.
    Chunked,
    /// By the end of the connection, for clients of HTTP/1.0.
    Close,
}

impl ReplyHead {
    /// The head of a reply, or of an error, with these fields. None if its status is none that a caller can get.
    pub(super) fn parse(fields: &HeaderMap, length: Option<u64>, is_error: bool) -> Option<Self> {
        let (status, outcome) = if is_error {
            (StatusCode::BAD_GATEWAY, ReplyOutcome::WorkerError)
        } else {
            (parse_status(fields)?, ReplyOutcome::Replied)
        };
        let encodings: Vec<_> = fields.get_all(CONTENT_ENCODING).iter().map(HeaderValue::as_bytes).collect();
        let content_encoding = (!encodings.is_empty()).then(|| encodings.join(&b", "[..]).into());
        let content_type = fields.get(CONTENT_TYPE).map(|value| value.as_bytes().into());
        Some(Self { status, content_type, content_encoding, length, outcome })
    }

    /// How the body is framed for this caller.
    pub(super) fn framing(&self, caller: &Caller) -> Framing {
        match (self.length, caller.is_http_11) {
            (Some(_), _) => Framing::Length,
            (None, true) => Framing::Chunked,
            (None, false) => Framing::Close,
        }
    }

    /// Appends the whole head.
    pub(super) fn write(&self, caller: &Caller, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.status.canonical_reason().unwrap_or_default().as_bytes());
        if let Some(content_type) = &self.content_type {
            append_field(out, "content-type", content_type);
        }
        if let Some(content_encoding) = &self.content_encoding {
            append_field(out, "content-encoding", content_encoding);
        }
        out.extend_from_slice(&caller.fields);
        append_field(out, "pilotlight-outcome", self.outcome.text().as_bytes());
        if self.outcome == ReplyOutcome::Replied {
            append_field(out, "pilotlight-proof", b"replied");
        }
        // Without it, nginx would keep tokens back.
        append_field(out, "x-accel-buffering", b"no");
        match self.framing(caller) {
            Framing::Length => {
                let length = self.length.unwrap_or_default();
                append_field(out, "content-length", itoa::Buffer::new().format(length).as_bytes());
            }
            Framing::Chunked => append_field(out, "transfer-encoding", b"chunked"),
            Framing::Close => {}
        }
        write_keep_alive((!caller.closes).then(|| caller.connection.keep_alive_seconds()), out);
        write_date(Instant::now(), out);
        out.extend_from_slice(b"\r\n\r\n");
    }
}

/// 200 if the worker gives none.
fn parse_status(fields: &HeaderMap) -> Option<StatusCode> {
    let mut given = fields.get_all(STATUS).iter();
    let Some(first) = given.next() else { return Some(StatusCode::OK) };
    if given.next().is_some() {
        return None;
    }
    let status = StatusCode::from_bytes(first.as_bytes()).ok()?;
    let has_body =
        !matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    ((200..600).contains(&status.as_u16()) && has_body).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_with_a_body_and_given_once() {
        let parse = |given: &[&'static str]| {
            let mut fields = HeaderMap::new();
            for value in given {
                fields.append(STATUS, value.parse().unwrap());
            }
            parse_status(&fields).map(|status| status.as_u16())
        };
        assert_eq!(parse(&[]), Some(200));
        for (given, status) in [("200", 200), ("404", 404), ("599", 599)] {
            assert_eq!(parse(&[given]), Some(status));
        }
        for given in
            ["", "0", "100", "101", "199", "204", "205", "304", "600", "999", "20", "2000", "ok", "200 "]
        {
            assert_eq!(parse(&[given]), None, "{given}");
        }
        assert_eq!(parse(&["200", "200"]), None);
    }
}

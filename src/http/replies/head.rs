//! Owns the head of the response that relays a worker's reply, in each style.

use std::time::Instant;

use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use smallvec::SmallVec;

use super::caller_response::Framing;
use super::event_frame::EVENT_STREAM;
use crate::http::h1::AllFields;
use crate::http::response::{append_field, write_date, write_keep_alive};
use crate::lambda::LOG_TAIL;
use crate::model::ReplyOutcome;
use crate::reply::{Caller, ResponseStyle};

/// The field in which a worker gives the caller's status.
pub(super) const STATUS: &str = "pilotlight-status";
/// The field that tells a caller of Invoke that the function has failed.
pub(super) const FUNCTION_ERROR: &str = "x-amz-function-error";
/// The media type of documents.
const JSON: &[u8] = b"application/json";
/// The end of a log has at most this many bytes in base64.
const MAX_LOG_TAIL_BYTES: usize = 6 * 1024;

/// What a worker's reply says of itself before its body.
pub(super) struct ReplyHead {
    status: StatusCode,
    content_type: Option<Box<[u8]>>,
    content_encoding: Option<Box<[u8]>>,
    /// The length of the body, if it was announced.
    length: Option<u64>,
    outcome: ReplyOutcome,
    /// The end of the log, in base64.
    pub(super) log_tail: Option<Box<[u8]>>,
}

impl ReplyHead {
    /// The head of a reply, or of an error, with these fields. None if its status is none that a caller can get.
    pub(super) fn parse(fields: AllFields<'_>, length: Option<u64>, is_error: bool) -> Option<Self> {
        let (mut statuses, mut content_type, mut encodings, mut log_tail) =
            (SmallVec::<[&[u8]; 2]>::new(), None, Vec::new(), None);
        fields.visit(|name, value| {
            if name.eq_ignore_ascii_case(STATUS) {
                statuses.push(value);
            } else if name.eq_ignore_ascii_case(CONTENT_TYPE.as_str()) {
                content_type = content_type.or(Some(value));
            } else if name.eq_ignore_ascii_case(CONTENT_ENCODING.as_str()) {
                encodings.push(value);
            } else if name.eq_ignore_ascii_case(LOG_TAIL) {
                log_tail = log_tail.or(Some(value));
            }
        });
        let (status, outcome) = if is_error {
            (StatusCode::BAD_GATEWAY, ReplyOutcome::WorkerError)
        } else {
            (parse_status(&statuses)?, ReplyOutcome::Replied)
        };
        let content_encoding = (!encodings.is_empty()).then(|| encodings.join(&b", "[..]).into());
        let (content_type, log_tail) = (content_type.map(Into::into), log_tail.and_then(parse_log_tail));
        Some(Self { status, content_type, content_encoding, length, outcome, log_tail })
    }

    /// The head of an error with a document of this length, which replaces the rest of this reply.
    pub(super) fn into_error(self, length: usize) -> Self {
        Self {
            status: StatusCode::BAD_GATEWAY,
            content_type: Some(JSON.into()),
            content_encoding: None,
            length: Some(length as u64),
            outcome: ReplyOutcome::WorkerError,
            ..self
        }
    }

    /// Whether the body must be there before it can be written: an error becomes a part of the last event of a stream, and for a caller
    /// of Invoke it has to be a document.
    pub(super) fn needs_whole_body(&self, style: ResponseStyle) -> bool {
        let is_document = || self.content_type.as_ref().is_some_and(|kind| kind.starts_with(JSON));
        match style {
            ResponseStyle::Native => false,
            ResponseStyle::Invoke => self.outcome == ReplyOutcome::WorkerError && !is_document(),
            ResponseStyle::InvokeStream => self.outcome == ReplyOutcome::WorkerError,
        }
    }

    /// The status for a caller of this style.
    pub(super) fn status(&self, style: ResponseStyle) -> StatusCode {
        match style {
            ResponseStyle::Native => self.status,
            ResponseStyle::Invoke | ResponseStyle::InvokeStream => StatusCode::OK,
        }
    }

    /// How the body is framed for this caller.
    pub(super) fn framing(&self, style: ResponseStyle, caller: &Caller) -> Framing {
        if style == ResponseStyle::InvokeStream {
            return Framing::Events { is_chunked: caller.is_http_11 };
        }
        match (self.length, caller.is_http_11) {
            (Some(_), _) => Framing::Length,
            (None, true) => Framing::Chunked,
            (None, false) => Framing::Close,
        }
    }

    /// Appends the whole head.
    pub(super) fn write(&self, style: ResponseStyle, caller: &Caller, out: &mut Vec<u8>) {
        let status = self.status(style);
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        let content_type = match style {
            ResponseStyle::Native => self.content_type.as_deref(),
            ResponseStyle::Invoke => Some(self.content_type.as_deref().unwrap_or(JSON)),
            ResponseStyle::InvokeStream => Some(EVENT_STREAM.as_bytes()),
        };
        if let Some(content_type) = content_type {
            append_field(out, "content-type", content_type);
        }
        // What is encoded in a stream of events is what its events carry.
        if let Some(encoding) =
            self.content_encoding.as_ref().filter(|_| style != ResponseStyle::InvokeStream)
        {
            append_field(out, "content-encoding", encoding);
        }
        out.extend_from_slice(&caller.fields);
        append_field(out, "pilotlight-outcome", self.outcome.text().as_bytes());
        if style == ResponseStyle::Invoke {
            self.write_result(out);
        } else if self.outcome == ReplyOutcome::Replied {
            append_field(out, "pilotlight-proof", b"replied");
        }
        // Without it, nginx would keep tokens back.
        append_field(out, "x-accel-buffering", b"no");
        match self.framing(style, caller) {
            Framing::Length => {
                let length = self.length.unwrap_or_default();
                append_field(out, "content-length", itoa::Buffer::new().format(length).as_bytes());
            }
            Framing::Chunked | Framing::Events { is_chunked: true } => {
                append_field(out, "transfer-encoding", b"chunked");
            }
            Framing::Close | Framing::Events { is_chunked: false } => {}
        }
        write_keep_alive((!caller.closes).then(|| caller.connection.keep_alive_seconds()), out);
        write_date(Instant::now(), out);
        out.extend_from_slice(b"\r\n\r\n");
    }

    /// Appends how the function has ended.
    fn write_result(&self, out: &mut Vec<u8>) {
        if self.outcome == ReplyOutcome::WorkerError {
            append_field(out, FUNCTION_ERROR, b"Unhandled");
        }
        if let Some(log_tail) = &self.log_tail {
            append_field(out, "x-amz-log-result", log_tail);
        }
    }
}

/// The end of a log, if it is base64 and short enough.
pub(super) fn parse_log_tail(tail: &[u8]) -> Option<Box<[u8]>> {
    let is_base64 =
        tail.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
    (is_base64 && tail.len() <= MAX_LOG_TAIL_BYTES).then(|| tail.into())
}

/// 200 if the worker gives none.
fn parse_status(given: &[&[u8]]) -> Option<StatusCode> {
    let [given] = given else { return given.is_empty().then_some(StatusCode::OK) };
    let status = StatusCode::from_bytes(given).ok()?;
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
            let given: Vec<_> = given.iter().map(|value| value.as_bytes()).collect();
            parse_status(&given).map(|status| status.as_u16())
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

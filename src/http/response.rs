//! Owns a response with its whole body, and its bytes.

use std::cell::RefCell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use smallvec::SmallVec;

use crate::dispatch::DispatchRecorder;
use crate::model::ReplyOutcome;

/// The bytes of a body. Those of the response to a dispatch fit on the stack.
pub type ResponseBody = SmallVec<[u8; 64]>;

/// A response with its whole body.
#[derive(Debug)]
pub struct HttpResponse {
    /// The status.
    pub status: StatusCode,
    /// The body's media type.
    pub content_type: &'static str,
    /// The body; a short one is not allocated.
    pub body: ResponseBody,
    /// A header that the status requires, its name in lower case.
    pub extra: Option<(&'static str, &'static str)>,
    /// Further fields, each after a line break.
    pub fields: Vec<u8>,
    /// How the run's reply has ended, if the POST asks for one.
    pub(super) reply: Option<ReplyOutcome>,
    /// Whether the connection is closed after it.
    pub close: bool,
    /// Whether a large body that the request does not need is read all the same before the connection is closed, because the client
    /// reads the response only when it has sent all of it.
    pub(super) reads_body: bool,
    /// Whether only the length of the body is sent, as HEAD requires, or nothing of it, as 204 does.
    pub(super) omits_body: bool,
    /// The record of the POST that this answers. It is complete when the answer has been written.
    pub(super) recorder: Option<DispatchRecorder>,
}

impl HttpResponse {
    /// A response after which the connection stays open.
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<ResponseBody>) -> Self {
        Self {
            status,
            content_type,
            body: body.into(),
            extra: None,
            fields: Vec::new(),
            reply: None,
            close: false,
            reads_body: false,
            omits_body: false,
            recorder: None,
        }
    }

    /// 200 without a body.
    pub(super) fn empty() -> Self {
        Self::new(StatusCode::OK, "text/plain; charset=utf-8", ResponseBody::new())
    }

    /// 204, which has no length either.
    pub(super) fn no_content() -> Self {
        Self { omits_body: true, ..Self::new(StatusCode::NO_CONTENT, "", ResponseBody::new()) }
    }

    /// A response with a JSON document.
    pub(super) fn json(status: StatusCode, body: impl Into<ResponseBody>) -> Self {
        Self::new(status, "application/json", body)
    }

    /// The same to a POST that asks for a reply, which has ended so.
    pub(super) fn of_reply(self, outcome: ReplyOutcome) -> Self {
        Self { reply: Some(outcome), ..self }
    }

    /// The same, keeping the record of its POST open until it is written.
    pub(super) fn after(mut self, recorder: DispatchRecorder) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Appends head and body. `keep_alive` is how many seconds the connection may be idle afterwards, if it stays open.
    pub(super) fn write(&self, keep_alive: u64, out: &mut Vec<u8>) {
        let ended = self.recorder.as_ref().and_then(DispatchRecorder::ended);
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.status.as_str().as_bytes());
        out.extend_from_slice(b" ");
        out.extend_from_slice(self.status.canonical_reason().unwrap_or_default().as_bytes());
        if !self.body.is_empty() {
            append_field(out, "content-type", self.content_type.as_bytes());
        }
        if let Some((name, value)) = self.extra {
            append_field(out, name, value.as_bytes());
        }
        out.extend_from_slice(&self.fields);
        if let Some(outcome) = self.reply {
            append_field(out, "pilotlight-outcome", outcome.text().as_bytes());
        }
        write_keep_alive((!self.close).then_some(keep_alive), out);
        // The response to HEAD has the length of the response to GET, which is unknown where GET is held.
        if !(self.omits_body && self.body.is_empty()) {
            append_field(out, "content-length", itoa::Buffer::new().format(self.body.len()).as_bytes());
        }
        write_date(ended.unwrap_or_else(Instant::now), out);
        out.extend_from_slice(b"\r\n\r\n");
        if !self.omits_body {
            out.extend_from_slice(&self.body);
        }
    }
}

impl From<HttpResponse> for Response<Full<Bytes>> {
    fn from(response: HttpResponse) -> Self {
        let mut converted = Self::new(Full::new(response.body.into_vec().into()));
        *converted.status_mut() = response.status;
        let headers = converted.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(response.content_type));
        if let Some((name, value)) = response.extra {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        if response.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        converted
    }
}

/// Appends `Keep-Alive` with the idle timeout in seconds if the connection stays open, else `Connection: close`.
pub(super) fn write_keep_alive(keep_alive: Option<u64>, out: &mut Vec<u8>) {
    match keep_alive {
        Some(seconds) => {
            out.extend_from_slice(b"\r\nkeep-alive: timeout=");
            out.extend_from_slice(itoa::Buffer::new().format(seconds).as_bytes());
        }
        None => out.extend_from_slice(b"\r\nconnection: close"),
    }
}

pub(super) fn append_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
}

/// Appends the current date. The wall clock is read, and the date formatted, once a second.
pub(super) fn write_date(now: Instant, out: &mut Vec<u8>) {
    thread_local!(static DATE: RefCell<Option<FormattedDate>> = const { RefCell::new(None) });
    DATE.with_borrow_mut(|date| {
        let date = match date {
            Some(date) if now < date.ends => date,
            expired => expired.insert(FormattedDate::at(now)),
        };
        append_field(out, "date", date.text.as_bytes());
    });
}

struct FormattedDate {
    text: String,
    /// The end of its second.
    ends: Instant,
}

impl FormattedDate {
    fn at(now: Instant) -> Self {
        let wall = SystemTime::now();
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = Duration::from_nanos(u64::from(1_000_000_000 - since.subsec_nanos()));
        Self { text: httpdate::fmt_http_date(wall), ends: now + left }
    }
}

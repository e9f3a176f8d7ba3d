//! Owns an answer with its whole body, and how it is written where hyper does not write it.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::run_response;
use crate::dispatch::DispatchRecorder;

/// An answer with its whole body.
#[derive(Debug)]
pub struct HttpResponse {
    /// The status.
    pub status: StatusCode,
    /// The body's media type.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
    /// A header that the status calls for, its name in lower case.
    pub extra: Option<(&'static str, &'static str)>,
    /// The connection ends after it.
    pub close: bool,
    /// The body is announced and left out, as HEAD asks for.
    pub(super) omits_body: bool,
    /// The record of the POST that this answers. It is complete when the answer has been written.
    pub(super) recorder: Option<DispatchRecorder>,
}

impl HttpResponse {
    /// An answer after which the connection goes on.
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            content_type,
            body: body.into(),
            extra: None,
            close: false,
            omits_body: false,
            recorder: None,
        }
    }

    /// It is well, and there is nothing to say.
    pub(super) fn empty() -> Self {
        Self::new(StatusCode::OK, "text/plain; charset=utf-8", "")
    }

    pub(super) fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::new(status, "application/json", body)
    }

    /// The same, keeping the record of its POST open until it is written.
    pub(super) fn after(mut self, recorder: DispatchRecorder) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Appends head and body. If the connection goes on afterwards, it may rest for so many seconds.
    pub(super) fn write(&self, keep_alive: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.status.as_str().as_bytes());
        out.extend_from_slice(b" ");
        out.extend_from_slice(self.status.canonical_reason().unwrap_or_default().as_bytes());
        if !self.body.is_empty() {
            field(out, "content-type", self.content_type.as_bytes());
        }
        if let Some((name, value)) = self.extra {
            field(out, name, value.as_bytes());
        }
        run_response::connection((!self.close).then_some(keep_alive), out);
        // To HEAD the length is that of GET's answer; where GET is held, nobody knows it.
        if !(self.omits_body && self.body.is_empty()) {
            field(out, "content-length", itoa::Buffer::new().format(self.body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\ndate: ");
        date(out);
        out.extend_from_slice(b"\r\n\r\n");
        if !self.omits_body {
            out.extend_from_slice(&self.body);
        }
    }
}

impl From<HttpResponse> for Response<Full<Bytes>> {
    fn from(reply: HttpResponse) -> Self {
        let mut response = Self::new(Full::new(reply.body));
        *response.status_mut() = reply.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
        if let Some((name, value)) = reply.extra {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        if reply.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
}

/// Appends the date of now, which is written anew once a second.
fn date(out: &mut Vec<u8>) {
    thread_local!(static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) });
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(written, text)| {
        if *written != second || text.is_empty() {
            (*written, *text) = (second, httpdate::fmt_http_date(now));
        }
        out.extend_from_slice(text.as_bytes());
    });
}

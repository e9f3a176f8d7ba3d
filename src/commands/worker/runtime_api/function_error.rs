//! Owns the error of a run as callers of functions know it: a type, and a JSON document.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::lambda::{ERROR_BODY, ERROR_TYPE, error_document};

/// The trailers of a reply that fails after its beginning.
pub(super) const ERROR_TRAILERS: &str = "pilotlight-error-type, pilotlight-error-body, pilotlight-log-tail";
/// The longest document in a trailer, in bytes: 6 KiB as base64.
const MAX_IN_TRAILER: usize = 4608;
/// The longest message in a document that replaces one that is too long for a trailer, in characters: each takes at most
/// 6 bytes as JSON.
const MAX_MESSAGE: usize = 512;
/// The longest type, in bytes.
const MAX_TYPE: usize = 256;
/// The longest type in the log, in bytes.
const MAX_KIND_IN_LOG: usize = 128;
/// The type of an error that says none.
const UNKNOWN: &str = "Runtime.Unknown";

/// Why a run has no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FunctionError {
    /// Such as `ValueError` or `Sandbox.Timedout`.
    pub(super) kind: String,
    /// The document, as the runtime wrote it or with the two members.
    pub(super) document: Bytes,
}

/// The members of a runtime's document, which may be anything.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Members<'a> {
    #[serde(borrow, default)]
    error_type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error_message: Option<&'a RawValue>,
}

impl FunctionError {
    pub(super) fn new(kind: &str, message: &str) -> Self {
        Self { kind: kind.to_owned(), document: error_document(kind, message).into() }
    }

    /// What a runtime has reported, with the type that it gave in a header.
    pub(super) fn reported(kind: Option<&str>, body: Bytes) -> Self {
        let kind = kind.filter(|kind| !kind.is_empty());
        match serde_json::from_slice::<Members>(&body) {
            Ok(members) => {
                let error_type = members.error_type.and_then(|kind| serde_json::from_str(kind.get()).ok());
                let kind = kind.map(str::to_owned).or(error_type).unwrap_or_else(|| UNKNOWN.to_owned());
                Self { kind, document: body }
            }
            Err(_) => Self::new(kind.unwrap_or(UNKNOWN), "the runtime reported an error without a document"),
        }
    }

    /// The program ended. `how` is such as `exit status 1`.
    pub(super) fn exited(request: &str, how: &str) -> Self {
        Self::new("Runtime.ExitError", &format!("RequestId: {request} Error: Runtime exited {how}"))
    }

    pub(super) fn timed_out(request: &str, limit: Duration) -> Self {
        let seconds = limit.as_secs_f64();
        let message = format!("RequestId: {request} Error: Task timed out after {seconds:.2} seconds");
        Self::new("Sandbox.Timedout", &message)
    }

    /// The response has more bytes than this.
    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("Response payload size exceeded maximum allowed payload size ({limit} bytes).");
        Self::new("Function.ResponseSizeTooLarge", &message)
    }

    /// The run's bytes are not JSON, so that no runtime can take them.
    pub(super) fn invalid_event() -> Self {
        Self::new("Runtime.InvalidEventJson", "the run's payload is no JSON")
    }

    /// The program asks for its next event, and has not answered this one.
    pub(super) fn unanswered(request: &str) -> Self {
        let message = format!("RequestId: {request} Error: the runtime went on without a response");
        Self::new("Runtime.NoResponse", &message)
    }

    /// The response broke off, and the program lives.
    pub(super) fn truncated(request: &str) -> Self {
        let message = format!("RequestId: {request} Error: the response was broken off");
        Self::new("Runtime.TruncatedResponse", &message)
    }

    /// The type, as far as it is a name: anything else could quote the payload.
    pub(super) fn kind_for_log(&self) -> &str {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '$' | '-');
        let is_short = self.kind.len() <= MAX_KIND_IN_LOG;
        if is_short && self.kind.chars().all(is_name) { &self.kind } else { "an error without a plain type" }
    }

    /// The trailers that end a reply which has begun.
    pub(super) fn trailers(&self) -> HeaderMap {
        let kind: String = self.kind.chars().filter(char::is_ascii_graphic).take(MAX_TYPE).collect();
        let kind = HeaderValue::from_str(&kind).unwrap_or(HeaderValue::from_static(UNKNOWN));
        let document = if self.document.len() > MAX_IN_TRAILER {
            let members = serde_json::from_slice::<Members>(&self.document).ok();
            let message = members.and_then(|members| members.error_message);
            let message: Option<String> =
                message.and_then(|message| serde_json::from_str(message.get()).ok());
            let message: String = message.unwrap_or_default().chars().take(MAX_MESSAGE).collect();
            Self::new(kind.to_str().unwrap_or(UNKNOWN), &message).document
        } else {
            self.document.clone()
        };
        let mut trailers = HeaderMap::new();
        trailers.insert(ERROR_TYPE, kind);
        if let Ok(body) = HeaderValue::from_str(&BASE64_STANDARD.encode(document)) {
            trailers.insert(ERROR_BODY, body);
        }
        trailers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(error: &FunctionError) -> &str {
        std::str::from_utf8(&error.document).unwrap()
    }

    #[test]
    fn a_reported_document_is_passed_as_it_is_and_anything_else_is_replaced() {
        let body = Bytes::from_static(br#"{ "errorType":"ValueError", "errorMessage":"x","stackTrace":[] }"#);
        let error = FunctionError::reported(None, body.clone());
        assert_eq!((error.kind.as_str(), &error.document), ("ValueError", &body));
        assert_eq!(FunctionError::reported(Some("Other"), body).kind, "Other");
        let body = Bytes::from_static(br#"{"errorType":5,"errorMessage":"real"}"#);
        let error = FunctionError::reported(None, body.clone());
        assert_eq!((error.kind.as_str(), &error.document), (UNKNOWN, &body));
        let error = FunctionError::reported(Some("Other"), Bytes::from_static(b"s3cret"));
        assert!(text(&error).starts_with(r#"{"errorType":"Other","#) && !text(&error).contains("s3cret"));
        assert_eq!(FunctionError::reported(Some(""), Bytes::new()).kind, UNKNOWN);
        assert_eq!(FunctionError::reported(Some("app.No$Size"), Bytes::new()).kind_for_log(), "app.No$Size");
        assert!(!FunctionError::reported(Some("no s3cret"), Bytes::new()).kind_for_log().contains("s3cret"));
    }

    #[test]
    fn a_document_that_is_too_long_for_a_trailer_keeps_its_type_and_the_beginning_of_its_message() {
        let message = "\u{e9}".repeat(5000);
        let trailers = FunctionError::new("E\r\nrror", &message).trailers();
        assert_eq!(trailers[ERROR_TYPE], "Error");
        let body = BASE64_STANDARD.decode(&trailers[ERROR_BODY]).unwrap();
        let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(document["errorMessage"], "\u{e9}".repeat(512));
        let error = FunctionError::timed_out("r", Duration::from_millis(1500));
        assert_eq!(BASE64_STANDARD.decode(&error.trailers()[ERROR_BODY]).unwrap(), error.document);
        assert!(text(&error).contains("Task timed out after 1.50 seconds"));
    }
}

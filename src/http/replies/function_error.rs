//! Owns how a function has failed, as callers of AWS Lambda's Invoke are told: a JSON document, and the type of the error.

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::event_frame::{EventKind, write_frame};
use crate::lambda::error_document;
use crate::model::ReplyOutcome;

/// The type of an error that has none of its own.
const UNHANDLED: &str = "Unhandled";
/// The type of the error of a worker that has died.
const EXIT: &str = "Runtime.ExitError";
/// The type of the error of a reply that has not begun in time.
const TIMED_OUT: &str = "Sandbox.Timedout";

/// An error of a function.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FunctionError {
    kind: String,
    /// A JSON document.
    pub(super) document: Vec<u8>,
}

impl FunctionError {
    fn new(kind: &str, message: &str) -> Self {
        Self { kind: kind.into(), document: error_document(kind, message) }
    }

    /// What a worker has sent as the error. A text that is no JSON document becomes the message of one.
    pub(super) fn of_worker(sent: Vec<u8>, kind: Option<&str>) -> Self {
        match serde_json::from_slice::<Map<String, Value>>(&sent) {
            Ok(document) => {
                let own = document.get("errorType").and_then(Value::as_str).filter(|kind| !kind.is_empty());
                Self { kind: kind.or(own).unwrap_or(UNHANDLED).to_owned(), document: sent }
            }
            Err(_) => Self::new(kind.unwrap_or(UNHANDLED), String::from_utf8_lossy(&sent).trim_end()),
        }
    }

    /// The worker died.
    pub(super) fn worker_died() -> Self {
        Self::new(EXIT, "Error: the worker died, or its reply broke off, before the function had ended")
    }

    /// The reply has ended without a byte; so long it was waited for.
    pub(super) fn of_end(outcome: ReplyOutcome, wait: Duration) -> Self {
        if outcome != ReplyOutcome::ReplyTimeout {
            return Self::worker_died();
        }
        Self::new(TIMED_OUT, &format!("Task timed out after {:.2} seconds", wait.as_secs_f64()))
    }
}

/// What the last event of a stream says.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Completion<'a> {
    pub(super) error: Option<&'a FunctionError>,
    /// The end of the log, in base64.
    pub(super) log_tail: Option<&'a [u8]>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CompleteDocument<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_details: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_result: Option<Cow<'a, str>>,
}

impl Completion<'_> {
    /// Appends the event.
    pub(super) fn write_event(&self, out: &mut Vec<u8>) {
        let document = CompleteDocument {
            error_code: self.error.map(|error| &*error.kind),
            error_details: self.error.map(|error| String::from_utf8_lossy(&error.document)),
            log_result: self.log_tail.map(String::from_utf8_lossy),
        };
        // Writing into memory cannot fail.
        write_frame(EventKind::InvokeComplete, &serde_json::to_vec(&document).unwrap_or_default(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_of_a_runtime_stays_as_it_is_and_a_text_becomes_one() {
        for (sent, given, kind, document) in [
            (r#"{"errorType":"TypeError","errorMessage":"x","trace":[]}"#, None, "TypeError", None),
            (r#"{"errorType":"TypeError"}"#, Some("Runtime.X"), "Runtime.X", None),
            (r#"{"errorMessage":"a \"b\""}"#, None, "Unhandled", None),
            ("{}", None, "Unhandled", None),
            (r#"{"errorType":3,"errorMessage":null}"#, None, "Unhandled", None),
            ("exit 1\n", None, "Unhandled", Some(r#"{"errorType":"Unhandled","errorMessage":"exit 1"}"#)),
            ("", Some("A.B"), "A.B", Some(r#"{"errorType":"A.B","errorMessage":""}"#)),
            ("3", None, "Unhandled", Some(r#"{"errorType":"Unhandled","errorMessage":"3"}"#)),
        ] {
            let error = FunctionError::of_worker(sent.into(), given);
            assert_eq!(
                (&*error.kind, &*error.document),
                (kind, document.unwrap_or(sent).as_bytes()),
                "{sent}"
            );
        }
    }
}

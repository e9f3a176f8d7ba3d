//! Owns an event: a run as a call of `next` returns it.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use super::function::Function;
use super::function_error::FunctionError;
use super::trace::from_traceparent;
use crate::lambda::{self, CLIENT_CONTEXT, LOG_TYPE, TRACE_ID, TRACE_PARENT, decode_context};

const DEADLINE: &str = "lambda-runtime-deadline-ms";

/// What a program gets.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) fields: HeaderMap,
    pub(super) payload: Bytes,
}

impl Event {
    /// A run as an event. An error if its bytes are no JSON, which ends some runtimes.
    pub(super) fn new(function: &Function, run: &HeaderMap, payload: Bytes) -> Result<Self, FunctionError> {
        let payload = lambda::event(payload).map_err(|_| FunctionError::invalid_event())?;
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        fields.insert("lambda-runtime-invoked-function-arn", function.arn.clone());
        if let Some(trace) = trace(run) {
            fields.insert("lambda-runtime-trace-id", trace);
        }
        if let Some(context) = run.get(CLIENT_CONTEXT).and_then(client_context) {
            fields.insert("lambda-runtime-client-context", context);
        }
        Ok(Self { fields, payload })
    }

    /// Names the event for the program that gets it, which has this time from now on. The name is safe in a header.
    pub(super) fn address(&mut self, request: &str, timeout: Duration) {
        if let Ok(request) = HeaderValue::from_str(request) {
            self.fields.insert("lambda-runtime-aws-request-id", request.clone());
            self.fields.insert("lambda-runtime-invocation-id", request);
        }
        let deadline = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + timeout;
        self.fields
            .insert(DEADLINE, HeaderValue::from(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX)));
    }
}

/// Whether the caller wants the last lines of the log.
pub(super) fn wants_log_tail(run: &HeaderMap) -> bool {
    run.get(LOG_TYPE).is_some_and(|kind| kind.as_bytes().eq_ignore_ascii_case(b"tail"))
}

fn trace(run: &HeaderMap) -> Option<HeaderValue> {
    if let Some(trace) = run.get(TRACE_ID) {
        return Some(trace.clone());
    }
    let trace = from_traceparent(run.get(TRACE_PARENT)?.to_str().ok()?)?;
    HeaderValue::try_from(trace).ok()
}

/// A client context as the runtime reads it: the caller's JSON in one line of ASCII. None if it is no JSON, which ends some
/// runtimes.
fn client_context(encoded: &HeaderValue) -> Option<HeaderValue> {
    let context = decode_context(encoded.as_bytes()).ok()?;
    let mut ascii = String::new();
    for c in context.chars() {
        match c {
            // Only white space can be a control character.
            _ if c.is_ascii_control() => ascii.push(' '),
            _ if c.is_ascii() => ascii.push(c),
            // Only texts have other characters.
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a text cannot fail.
                    let _ = write!(ascii, "\\u{unit:04x}");
                }
            }
        }
    }
    HeaderValue::try_from(ascii.trim()).ok()
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    fn event(run: &[(&'static str, &str)], payload: &'static [u8]) -> Result<Event, FunctionError> {
        let mut fields = HeaderMap::new();
        for (name, value) in run {
            fields.insert(*name, value.parse().unwrap());
        }
        Event::new(&Function::new("f", "$LATEST", "0"), &fields, Bytes::from_static(payload))
    }

    #[test]
    fn only_json_reaches_a_program_and_an_empty_run_is_an_object() {
        assert_eq!(event(&[], b"").unwrap().payload, "{}");
        assert_eq!(event(&[], b" [1e999, \"\\ud800\"] ").unwrap().payload, " [1e999, \"\\ud800\"] ");
        for payload in [&b" "[..], b"hello", b"{", b"{} {}", b"\"\xff\"", b"\xef\xbb\xbf{}"] {
            assert_eq!(event(&[], payload).unwrap_err().kind, "Runtime.InvalidEventJson", "{payload:?}");
        }
    }

    #[test]
    fn what_the_caller_said_is_in_the_headers_and_malformed_parts_are_not() {
        let field = |run: &[(&'static str, &str)], name: &str| {
            let event = event(run, b"{}").unwrap();
            event.fields.get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        let traceparent = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
        let trace = "lambda-runtime-trace-id";
        assert_eq!(field(&[], trace), None);
        assert!(field(&[traceparent], trace).unwrap().starts_with("Root=1-4bf92f35-"));
        assert_eq!(field(&[traceparent, ("x-amzn-trace-id", "Root=1-2-3")], trace).unwrap(), "Root=1-2-3");
        let context = |json: &str| {
            field(&[("x-amz-client-context", &BASE64_STANDARD.encode(json))], "lambda-runtime-client-context")
        };
        assert_eq!(
            context("{\n\t\"z\": \"\u{e9}\u{1f600}\", \"a\": 1e400}\n").unwrap(),
            r#"{  "z": "\u00e9\ud83d\ude00", "a": 1e400}"#
        );
        assert_eq!(context("no JSON"), None);
        assert_eq!(field(&[("x-amz-client-context", "%")], "lambda-runtime-client-context"), None);
        let mut event = event(&[], b"").unwrap();
        event.address("r-1", Duration::from_secs(900));
        assert_eq!(event.fields["lambda-runtime-aws-request-id"], "r-1");
        let deadline: u64 = event.fields[DEADLINE].to_str().unwrap().parse().unwrap();
        assert!(deadline > 1_700_000_000_000, "{deadline}");
    }
}

//! Owns what the two ends of a function for AWS Lambda agree on: the broker, at which it is called, and the worker that runs it.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde::de::IgnoredAny;

/// The field of a call with the caller's context in base64. Its worker gets this field, and the next three, with the run.
pub const CLIENT_CONTEXT: &str = "x-amz-client-context";
/// The field that says whether the caller wants the end of the log.
pub const LOG_TYPE: &str = "x-amz-log-type";
/// The field with AWS's name of the trace.
pub const TRACE_ID: &str = "x-amzn-trace-id";
/// The field with W3C's name of the trace.
pub const TRACE_PARENT: &str = "traceparent";

/// The trailer that says that a run has failed while its reply was sent: the type of the error.
pub const ERROR_TYPE: &str = "pilotlight-error-type";
/// The trailer with the error's document, in base64.
pub const ERROR_BODY: &str = "pilotlight-error-body";
/// The field of a reply, or the trailer, with the end of the log in base64, for callers that ask for it.
pub const LOG_TAIL: &str = "pilotlight-log-tail";

/// The event of a run with these bytes: `{}` if there are none. Some runtimes end on an event that is no JSON document. The error
/// follows a noun, and does not quote the bytes.
pub fn event(payload: Bytes) -> Result<Bytes, String> {
    if payload.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    parse_json(&payload)?;
    Ok(payload)
}

/// The client context in this base64. Some runtimes end on one that is no JSON document. The error is as that of [`event`].
pub fn decode_context(encoded: &[u8]) -> Result<String, String> {
    let decoded = BASE64_STANDARD.decode(encoded).map_err(|_| "is not base64".to_owned())?;
    parse_json(&decoded).map(str::to_owned)
}

/// The bytes as a text that is one JSON value.
fn parse_json(bytes: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let parsed: Result<IgnoredAny, _> = serde_json::from_str(text);
    parsed.map(|_| text).map_err(|error| {
        format!("is not JSON: the fault is in line {}, column {}", error.line(), error.column())
    })
}

/// The document of an error, as runtimes write it.
pub fn error_document(kind: &str, message: &str) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Document<'a> {
        error_type: &'a str,
        error_message: &'a str,
    }
    // Two texts are always JSON, and writing into memory cannot fail.
    serde_json::to_vec(&Document { error_type: kind, error_message: message }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_json_value() {
        for event in
            ["{}", "null", " [1,2] ", r#""é\ud83d\ude00""#, "1e400", &("[".repeat(9000) + &"]".repeat(9000))]
        {
            parse_json(event.as_bytes()).unwrap();
        }
        for event in [
            &b""[..],
            b" ",
            b"{",
            b"{}{}",
            b"{a:1}",
            b"'a'",
            b"NaN",
            b"\xff",
            b"\"\xff\"",
            b"\xef\xbb\xbf{}",
            b"01",
        ] {
            parse_json(event).unwrap_err();
        }
    }
}

//! Owns the header fields of an Invoke: what is called how, and what the worker of the run is told of it.

use super::error::bad_content;
use crate::broker::check_part;
use crate::http::h1::AllFields;
use crate::http::problem::Problem;
use crate::lambda::{CLIENT_CONTEXT, LOG_TYPE, TRACE_ID, TRACE_PARENT, decode_context};
use crate::transport::RunFields;

const INVOCATION_ID: &str = "amz-sdk-invocation-id";
const INVOCATION_TYPE: &str = "x-amz-invocation-type";
/// What the broker could only ignore, although the caller relies on it.
const UNSUPPORTED: [&str; 2] = ["x-amz-tenant-id", "x-amz-durable-execution-name"];
/// The longest client context in base64, in bytes.
const MAX_CONTEXT_BYTES: usize = 3583;
/// The longest trace id that a worker gets, in bytes.
const MAX_TRACE_BYTES: usize = 1024;

/// How a function is called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum InvocationType {
    /// Its result is awaited.
    #[default]
    RequestResponse,
    /// It is only handed over.
    Event,
    /// It is only checked whether it could be called.
    DryRun,
}

/// The fields of a request, as they came.
#[derive(Debug, Default)]
pub(super) struct InvokeFields<'a> {
    invocation_id: Option<&'a [u8]>,
    invocation_type: Option<&'a [u8]>,
    log_type: Option<&'a [u8]>,
    client_context: Option<&'a [u8]>,
    trace_id: Option<&'a [u8]>,
    trace_parent: Option<&'a [u8]>,
    /// A field that occurs more than once, or is not supported, and why it is refused.
    refused: Option<(&'static str, &'static str)>,
}

impl<'a> InvokeFields<'a> {
    /// Finds the fields of a request.
    pub(super) fn read(all: AllFields<'a>) -> Self {
        let mut found = Self::default();
        all.visit(|name, value| found.add(name, value));
        found
    }

    fn add(&mut self, name: &str, value: &'a [u8]) {
        let slots = [
            (INVOCATION_ID, &mut self.invocation_id),
            (INVOCATION_TYPE, &mut self.invocation_type),
            (LOG_TYPE, &mut self.log_type),
            (CLIENT_CONTEXT, &mut self.client_context),
            (TRACE_ID, &mut self.trace_id),
            (TRACE_PARENT, &mut self.trace_parent),
        ];
        if let Some((known, slot)) = slots.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known)) {
            if slot.replace(value).is_some() && ![TRACE_ID, TRACE_PARENT].contains(&known) {
                self.refused = Some((known, "occurs more than once"));
            }
        } else if let Some(known) = UNSUPPORTED.into_iter().find(|known| name.eq_ignore_ascii_case(known)) {
            self.refused = Some((known, "is not supported here"));
        }
    }

    /// The name of the run: the same for all tries of one call. Empty if there is none, or none that a run can have.
    pub(super) fn run(&self) -> &'a str {
        let text = self.invocation_id.and_then(|id| std::str::from_utf8(id).ok());
        text.filter(|id| check_part(id).is_ok()).unwrap_or_default()
    }

    /// How the function is called. A stream has no events of its own.
    pub(super) fn invocation_type(&self) -> Result<InvocationType, Problem> {
        match self.invocation_type {
            None | Some(b"RequestResponse") => Ok(InvocationType::RequestResponse),
            Some(b"Event") => Ok(InvocationType::Event),
            Some(b"DryRun") => Ok(InvocationType::DryRun),
            Some(_) => {
                Err(Problem::bad_parameter(INVOCATION_TYPE, "is none of RequestResponse, Event, DryRun"))
            }
        }
    }

    /// Refuses what cannot be done as it is asked for.
    pub(super) fn check(&self) -> Result<(), Problem> {
        if let Some((name, why)) = self.refused {
            return Err(Problem::bad_parameter(name, why));
        }
        if !matches!(self.log_type, None | Some(b"None" | b"Tail")) {
            return Err(Problem::bad_parameter(LOG_TYPE, "is neither None nor Tail"));
        }
        self.client_context.map_or(Ok(()), check_context)
    }

    /// Whether the caller wants the end of the log.
    pub(super) fn wants_log(&self) -> bool {
        self.log_type == Some(b"Tail")
    }

    /// What the worker is told.
    pub(super) fn for_worker(&self, is_event: bool, is_stream: bool) -> Option<RunFields> {
        let is_short = |trace: &&[u8]| trace.len() <= MAX_TRACE_BYTES;
        let fields = [
            (INVOCATION_TYPE, is_event.then_some(&b"Event"[..])),
            ("x-amz-response-mode", is_stream.then_some(&b"streaming"[..])),
            (LOG_TYPE, self.log_type.filter(|_| self.wants_log() && !is_event)),
            (CLIENT_CONTEXT, self.client_context),
            (TRACE_ID, self.trace_id.filter(is_short)),
            (TRACE_PARENT, self.trace_parent.filter(is_short)),
        ];
        RunFields::new(fields.into_iter().filter_map(|(name, value)| Some((name, value?))))
    }
}

fn check_context(context: &[u8]) -> Result<(), Problem> {
    if context.len() > MAX_CONTEXT_BYTES {
        return Err(bad_content("The client context is longer than 3583 bytes"));
    }
    decode_context(context).map(drop).map_err(|why| bad_content(format!("The client context {why}")))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD as STANDARD;
    use hyper::HeaderMap;
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    fn map(sent: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in sent {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        map
    }

    #[test]
    fn a_worker_is_told_what_the_caller_says() {
        let context = STANDARD.encode(r#"{"client":{}}"#);
        let sent = map(&[
            ("amz-sdk-invocation-id", "1c5"),
            ("x-amz-log-type", "Tail"),
            ("x-amz-client-context", &context),
            ("x-amzn-trace-id", "Root=1-2-3"),
            ("traceparent", "00-1-2-01"),
            ("x-other", "1"),
        ]);
        let fields = InvokeFields::read(AllFields::Map(&sent));
        fields.check().unwrap();
        assert_eq!(
            (fields.run(), fields.invocation_type().unwrap()),
            ("1c5", InvocationType::RequestResponse)
        );
        let shown =
            |fields: Option<RunFields>| String::from_utf8(fields.unwrap().rendered().to_vec()).unwrap();
        let traces = "\r\nx-amzn-trace-id: Root=1-2-3\r\ntraceparent: 00-1-2-01";
        assert_eq!(
            shown(fields.for_worker(false, true)),
            format!(
                "\r\nx-amz-response-mode: streaming\r\nx-amz-log-type: Tail\r\nx-amz-client-context: {context}{traces}"
            )
        );
        assert_eq!(
            shown(fields.for_worker(true, false)),
            format!("\r\nx-amz-invocation-type: Event\r\nx-amz-client-context: {context}{traces}"),
            "nobody gets the log of an event"
        );
        let none = HeaderMap::new();
        assert_eq!(InvokeFields::read(AllFields::Map(&none)).for_worker(false, false), None);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let long = STANDARD.encode(vec![b' '; 3000]);
        for sent in [
            [("x-amz-log-type", "tail")].as_slice(),
            &[("x-amz-log-type", "Tail"), ("x-amz-log-type", "Tail")],
            &[("x-amz-client-context", "{}")],
            &[("x-amz-client-context", "e30")],
            &[("x-amz-client-context", "e30=="), ("a", "b")],
            &[("x-amz-client-context", "ew==")],
            &[("x-amz-client-context", &long)],
            &[("x-amz-tenant-id", "t")],
            &[("X-Amz-Durable-Execution-Name", "t")],
        ] {
            let map = map(sent);
            assert!(InvokeFields::read(AllFields::Map(&map)).check().is_err(), "{sent:?}");
        }
        let map = map(&[("x-amz-invocation-type", "event")]);
        assert!(InvokeFields::read(AllFields::Map(&map)).invocation_type().is_err());
    }
}

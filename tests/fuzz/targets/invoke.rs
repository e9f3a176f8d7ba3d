//! Owns the fuzzing of AWS Lambda's Invoke: a choice, the function behind `/functions/` with a query, fields, an empty line, an event.

#![no_main]

use std::sync::LazyLock;

use hyper::{Method, Uri};
use libfuzzer_sys::fuzz_target;
use pilotlight::http::HttpResponse;
use pilotlight::http::fuzz::Handled;
use pilotlight_fuzz::state::{BrokerSet, TestRequest};

static BROKERS: LazyLock<BrokerSet> = LazyLock::new(BrokerSet::default);

fuzz_target!(|input: &[u8]| {
    let Some((&choice, rest)) = input.split_first() else { return };
    let end = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
    let (target, rest) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
    let (function, query) =
        target.split_at(target.iter().position(|&byte| byte == b'?').unwrap_or(target.len()));
    let [before, after]: [&[u8]; 2] = if choice & 0x40 == 0 {
        [b"/2015-03-31/functions/", b"/invocations"]
    } else {
        [b"/2021-11-15/functions/", b"/response-streaming-invocations"]
    };
    let target = [before, function, after, query].concat();
    let Some(uri) = target[..].try_into().ok().filter(|uri: &Uri| uri.authority().is_none()) else { return };
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let Ok(httparse::Status::Complete((head, fields))) = httparse::parse_headers(rest, &mut fields) else {
        return;
    };
    let method = if choice & 0x80 == 0 { Method::POST } else { Method::GET };
    let request = TestRequest { broker: choice & 0x3f, method, uri, fields, body: &rest[head..] };
    match BROKERS.handle(&request) {
        Handled::Responded(response) => check(&request, &response),
        Handled::Closed => {}
        other => unreachable!("nobody waits for a call: {other:?}"),
    }
});

/// An SDK can read the response, and calls the function again only if nobody has the call.
fn check(request: &TestRequest<'_>, response: &HttpResponse) {
    let status = response.status.as_u16();
    let fields = std::str::from_utf8(&response.fields).expect("text");
    let named = |name: &str| {
        let lines = fields.split("\r\n").filter_map(|line| line.split_once(": "));
        lines.filter(|(field, _)| *field == name).map(|(_, value)| value.to_owned()).collect::<Vec<_>>()
    };
    // What is no call, is too long, or comes from a page, is refused in the broker's own form.
    if response.content_type == "application/problem+json" {
        let is_other = request.method != Method::POST || matches!(status, 403 | 404 | 405 | 414);
        assert!(is_other && fields.is_empty(), "{response:?}");
        return;
    }
    assert!(matches!(status, 204 | 400 | 401 | 403 | 404 | 409 | 413 | 415 | 429), "{response:?}");
    assert_eq!((named("x-amzn-requestid").len(), request.method == Method::POST), (1, true), "{response:?}");
    let is_printable = |value: &String| value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    assert!(named("x-amzn-requestid").iter().all(is_printable), "{response:?}");
    if status == 204 {
        assert!(response.body.is_empty(), "{response:?}");
        return;
    }
    let document: serde_json::Value = serde_json::from_slice(&response.body).expect("a document");
    assert!(document["message"].is_string() || document["Message"].is_string(), "{document}");
    let [kind] = &named("x-amzn-errortype")[..] else { panic!("no type: {response:?}") };
    assert_eq!(kind == "TooManyRequestsException", status == 429, "{kind}");
    let body = request.body;
    let is_json = body.is_empty() || serde_json::from_slice::<serde_json::Value>(body).is_ok();
    assert!(is_json || !matches!(status, 204 | 429), "a call without a valid event is made: {response:?}");
}

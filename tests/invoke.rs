//! Owns the end-to-end tests of AWS Lambda's Invoke: what its callers send, and what they are told.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::client::{Answer, Client};
use support::invoke::{Call, error, pool_of};
use support::replies::{Caller, END, chunk, error_target, open, target, waiting, whole};
use support::{Broker, Pool};

fn broker(arguments: &[&str]) -> Broker {
    Broker::proving("received", arguments)
}

/// A call that a worker has.
struct Called {
    caller: Caller,
    run: Answer,
    target: String,
}

async fn called(broker: &Broker, call: &Call) -> Called {
    let mut worker = waiting(broker, &pool_of("hello")).await;
    let caller = call.send(broker.dispatch).await;
    let run = worker.answer().await;
    let target = target(&run);
    Called { caller, run, target }
}

async fn answer(broker: &Broker, request: &str) -> Answer {
    broker.client().await.ask(request).await
}

#[tokio::test]
async fn a_call_gets_what_the_function_returns() {
    let broker = broker(&[]);
    let context = STANDARD.encode(r#"{"custom":{"a":1}}"#);
    let call = Call::of("hello")
        .with_id("4c9d2d3e-0000-4000-8000-000000000001")
        .with("authorization", "AWS4-HMAC-SHA256 Credential=A/20261126/us-east-1/lambda/aws4_request")
        .with("x-amz-log-type", "Tail")
        .with("x-amz-client-context", &context)
        .with("x-amzn-trace-id", "Root=1-5759e988-bd862e3fe1be46a994272793")
        .with("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .event(r#"{"name":"é"}"#);
    let Called { mut caller, run, target } = called(&broker, &call).await;
    assert_eq!(String::from_utf8_lossy(&run.body), r#"{"name":"é"}"#);
    for (name, value) in [
        ("content-type", Some("application/json")),
        ("pilotlight-run", Some("4c9d2d3e-0000-4000-8000-000000000001")),
        ("x-amz-log-type", Some("Tail")),
        ("x-amz-client-context", Some(&*context)),
        ("x-amzn-trace-id", Some("Root=1-5759e988-bd862e3fe1be46a994272793")),
        ("traceparent", Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
        ("x-amz-invocation-type", None),
        ("x-amz-response-mode", None),
        ("authorization", None),
    ] {
        assert_eq!(run.header(name), value, "{name}");
    }
    let log = STANDARD.encode("START\nEND\n");
    let fields = format!("pilotlight-log-tail: {log}\r\npilotlight-status: 404\r\n");
    assert_eq!(answer(&broker, &whole(&target, &fields, r#""hello é""#)).await.status, 200);
    let reply = caller.reply().await;
    assert_eq!(reply.result(), (200, None, r#""hello é""#), "the status says that the function was called");
    for (name, value) in [
        ("content-type", Some("application/json")),
        ("x-amzn-requestid", Some("4c9d2d3e-0000-4000-8000-000000000001")),
        ("x-amz-executed-version", Some("$LATEST")),
        ("x-amz-log-result", Some(&*log)),
        ("pilotlight-outcome", Some("replied")),
        ("pilotlight-controller", Some("w1")),
        ("pilotlight-metadata", None),
    ] {
        assert_eq!(reply.head.header(name), value, "{name}");
    }
    // The connection is kept, a call without an id gets one, and an empty body is an empty event.
    let mut worker = waiting(&broker, &pool_of("hello")).await;
    caller.client.send(Call::of("hello").event("").request()).await;
    let run = worker.answer().await;
    let id = run.header("pilotlight-run").unwrap().to_owned();
    assert_eq!((&*run.body, id.len(), run.header("x-amz-log-type")), (&b"{}"[..], 36, None));
    answer(&broker, &whole(&support::replies::target(&run), "content-type: text/plain\r\n", "")).await;
    let reply = caller.reply().await;
    assert_eq!((reply.result(), reply.head.header("x-amzn-requestid")), ((200, None, ""), Some(&*id)));
    assert_eq!(reply.head.header("content-type"), Some("text/plain"));
}

#[tokio::test]
async fn a_function_that_fails_is_an_answer_and_no_error_of_the_broker() {
    let broker = broker(&["--max-reply-wait", "1s"]);
    // The document of a runtime, and a text of any other worker. Each replaces the open reply.
    let document = r#"{"errorMessage":"x","errorType":"TypeError","stackTrace":[]}"#;
    let text = r#"{"errorType":"Unhandled","errorMessage":"exit status 1"}"#;
    for (fields, sent, returned) in [
        ("content-type: application/json\r\npilotlight-log-tail: bG9n\r\n", document, document),
        ("", document, document),
        ("content-type: text/plain\r\n", "exit status 1\n", text),
    ] {
        let call = Call::of("hello").with("x-amz-log-type", "Tail");
        let Called { mut caller, target, .. } = called(&broker, &call).await;
        let mut early = open(broker.public, &target, "").await;
        assert!(early.is_held().await, "it is open");
        assert_eq!(answer(&broker, &whole(&error_target(&target), fields, sent)).await.status, 200);
        let reply = caller.reply().await;
        assert_eq!(reply.result(), (200, Some("Unhandled"), returned));
        assert_eq!(reply.head.header("content-type"), Some("application/json"));
        assert_eq!(reply.head.header("x-amz-executed-version"), Some("$LATEST"));
        assert_eq!(reply.head.header("pilotlight-outcome"), Some("worker_error"));
        assert_eq!(reply.head.header("x-amz-log-result").is_some(), fields.contains("log-tail"));
    }
    let kind = |document: &str| serde_json::from_str::<Value>(document).unwrap()["errorType"].clone();
    // The worker dies.
    let Called { mut caller, target, .. } = called(&broker, &Call::of("hello")).await;
    drop(open(broker.public, &target, "").await);
    let reply = caller.reply().await;
    let (status, failed, returned) = reply.result();
    assert_eq!((status, failed, kind(returned)), (200, Some("Unhandled"), "Runtime.ExitError".into()));
    assert_eq!(reply.head.header("pilotlight-outcome"), Some("reply_broken"));
    assert_eq!(reply.head.header("x-amz-executed-version"), Some("$LATEST"));
    // The time is over, and the connection is kept.
    let Called { mut caller, target, .. } = called(&broker, &Call::of("hello")).await;
    let mut worker = open(broker.public, &target, "").await;
    let reply = caller.reply().await;
    let (status, failed, returned) = reply.result();
    assert_eq!((status, failed, kind(returned)), (200, Some("Unhandled"), "Sandbox.Timedout".into()));
    assert_eq!(worker.answer().await.problem(), "reply-gone");
    caller.client.send(Call::of("hello").with("x-amz-invocation-type", "DryRun").request()).await;
    assert_eq!(caller.client.answer().await.status, 204);
}

#[tokio::test]
async fn a_call_without_a_worker_may_be_tried_again_until_there_is_one() {
    let broker = broker(&[]);
    let call = Call::of("hello").with_id("again");
    let begun = Instant::now();
    let missed = call.answer(broker.dispatch).await;
    assert!(begun.elapsed() >= Duration::from_millis(150), "a worker may come a moment later");
    let (status, kind, text) = error(&missed);
    assert_eq!((status, &*kind), (429, "TooManyRequestsException"));
    assert!(text.contains("no_pool"), "{text}");
    assert_eq!(missed.json()["Reason"], "ConcurrentInvocationLimitExceeded");
    assert_eq!(missed.json()["Type"], "User");
    for (name, value) in [
        ("retry-after", "1"),
        ("x-amzn-requestid", "again"),
        ("pilotlight-outcome", "miss"),
        ("pilotlight-reason", "no_pool"),
    ] {
        assert_eq!(missed.header(name), Some(value), "{name}");
    }
    let mut worker = waiting(&broker, &pool_of("hello")).await;
    let mut caller = call.send(broker.dispatch).await;
    let target = target(&worker.answer().await);
    answer(&broker, &whole(&target, "", "1")).await;
    assert_eq!(caller.reply().await.result(), (200, None, "1"));
}

#[tokio::test]
async fn a_worker_that_comes_a_moment_later_gets_the_call() {
    let broker = broker(&[]);
    let poll = format!("GET {} HTTP/1.1\r\nhost: b\r\n\r\n", pool_of("hello").path());
    // A busy machine may need longer than the wait.
    for _ in 0..20 {
        let mut worker = broker.client().await;
        let mut caller = Call::of("hello").send(broker.dispatch).await;
        worker.send(&poll).await;
        tokio::select! {
            run = worker.answer() => {
                answer(&broker, &whole(&target(&run), "", "1")).await;
                assert_eq!(caller.reply().await.result(), (200, None, "1"));
                return;
            }
            missed = caller.head() => assert_eq!(missed.status, 429),
        }
    }
    panic!("no call waits for a worker");
}

#[tokio::test]
async fn a_call_is_never_made_twice() {
    let broker = broker(&[]);
    let call = Call::of("hello").with_id("one").event("1");
    let Called { mut caller, target, .. } = called(&broker, &call).await;
    let _other = waiting(&broker, &pool_of("hello")).await;
    let conflict = async |call: &Call| {
        let answer = call.answer(broker.dispatch).await;
        let (status, kind, text) = error(&answer);
        assert_eq!(
            (status, &*kind, answer.header("x-amzn-requestid")),
            (409, "ResourceConflictException", Some("one"))
        );
        assert_eq!(answer.header("pilotlight-outcome"), Some("duplicate"));
        text
    };
    let text = conflict(&call).await;
    assert!(text.contains("(state: open)"), "{text}");
    answer(&broker, &whole(&target, "", "2")).await;
    assert_eq!(caller.reply().await.result(), (200, None, "2"));
    broker.wait_for_metric("pilotlight_replies_open", 0).await;
    let text = conflict(&call).await;
    assert!(text.contains("(outcome: replied)"), "{text}");
    // A caller that has left.
    let call = Call::of("hello").with_id("one").event("2");
    conflict(&call).await;
    assert_eq!(broker.waiters("").await, 1, "nothing else was handed over");
}

#[tokio::test]
async fn a_call_that_a_worker_may_have_is_not_tried_again() {
    let broker = broker(&["--proof-timeout", "100ms"]);
    // It reads nothing, so that its offer is not proved.
    let _frozen = waiting(&broker, &pool_of("hello")).await;
    let _other = waiting(&broker, &Pool::new("hello", "other", "0", "0")).await;
    let call = Call::of("hello").with_id("perhaps");
    for _ in 0..2 {
        let answer = call.answer(broker.dispatch).await;
        let (status, kind, text) = error(&answer);
        assert_eq!((status, &*kind), (409, "ResourceConflictException"), "{text}");
        assert_eq!(answer.header("pilotlight-reason"), Some("unknown"));
        assert_eq!(
            (answer.header("pilotlight-outcome"), answer.header("retry-after")),
            (Some("unknown"), None)
        );
    }
}

#[tokio::test]
async fn an_event_is_handed_over_once_and_nobody_waits_for_its_result() {
    let broker = broker(&[]);
    let event =
        Call::of("hello").with("x-amz-invocation-type", "Event").with("x-amz-log-type", "Tail").with_id("e");
    let missed = event.answer(broker.dispatch).await;
    assert_eq!((missed.status, missed.header("retry-after")), (429, Some("1")), "there is no queue");
    assert_eq!(missed.header("pilotlight-outcome"), None);
    let mut worker = waiting(&broker, &pool_of("hello")).await;
    let mut caller = event.send(broker.dispatch).await;
    let run = worker.answer().await;
    assert_eq!((run.header("x-amz-invocation-type"), run.header("pilotlight-reply")), (Some("Event"), None));
    assert_eq!(run.header("x-amz-log-type"), None);
    let accepted = caller.client.answer().await;
    assert_eq!((accepted.status, &*accepted.body), (202, &b""[..]));
    assert_eq!(accepted.header("x-amzn-requestid"), Some("e"));
    let _other = waiting(&broker, &pool_of("hello")).await;
    assert_eq!(event.answer(broker.dispatch).await.status, 202, "it is accepted already");
    assert_eq!(broker.waiters("").await, 1);
    let large = event.event(&format!("\"{}\"", "a".repeat(1024 * 1024)));
    assert_eq!(error(&large.answer(broker.dispatch).await).1, "RequestTooLargeException");
}

#[tokio::test]
async fn a_dry_run_checks_everything_and_calls_nothing() {
    let broker = broker(&["--function", "hello=hello/*/0/0"]);
    let _worker = waiting(&broker, &pool_of("hello")).await;
    let dry = |function: &str| Call::of(function).with("x-amz-invocation-type", "DryRun").with_id("dry");
    let answer = dry("hello").answer(broker.dispatch).await;
    assert_eq!((answer.status, answer.header("x-amzn-requestid")), (204, Some("dry")));
    assert_eq!(answer.header("content-length"), None);
    let streamed = Call::streaming("hello").with("x-amz-invocation-type", "DryRun");
    assert_eq!(streamed.answer(broker.dispatch).await.status, 204);
    assert_eq!(dry("hello").event("{").answer(broker.dispatch).await.status, 400);
    assert_eq!(dry("other").answer(broker.dispatch).await.status, 404);
    assert_eq!(broker.waiters("").await, 1);
    let counted =
        |outcome: &str| format!("pilotlight_dispatches_total{{outcome=\"{outcome}\",reason=\"none\"}}");
    assert_eq!(broker.metric(&counted("aborted")).await, 0);
    assert_eq!(broker.metric(&counted("refused")).await, 2);
    assert_eq!(broker.metric("pilotlight_http_requests_total{code_class=\"2xx\",route=\"invoke\"}").await, 2);
    assert_eq!(broker.operate("GET", "/runs/dry").await.0, 404);
}

#[tokio::test]
async fn a_name_leads_to_its_pool() {
    let broker = broker(&[]);
    for (function, pool) in [
        ("hello?Qualifier=prod", Pool::new("hello", "prod", "0", "0")),
        ("hello:7", Pool::new("hello", "7", "0", "0")),
        ("123456789012:function:hello:q", Pool::new("hello", "q", "0", "0")),
        ("arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Afunction%3Ahello", pool_of("hello")),
        ("hello?Qualifier=%24LATEST", pool_of("hello")),
    ] {
        let mut worker = waiting(&broker, &pool).await;
        let mut caller = Call::of(function).send(broker.dispatch).await;
        let target = target(&worker.answer().await);
        answer(&broker, &whole(&target, "", "1")).await;
        let reply = caller.reply().await;
        assert_eq!(reply.head.header("x-amz-executed-version"), Some(&*pool.version), "{function}");
    }
}

#[tokio::test]
async fn a_table_says_which_functions_there_are() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "function = [\"hello=my%2Fapp/v1/0.5/1\", \"hello:prod=other/*/0/0\"]").unwrap();
    let broker = broker(&["--config", file.path().to_str().unwrap()]);
    for (function, pool) in [
        ("hello", Pool::new("my%2Fapp", "v1", "0.5", "1")),
        ("hello:$LATEST", Pool::new("my%2Fapp", "v1", "0.5", "1")),
        ("hello?Qualifier=prod", Pool::new("other", "prod", "0", "0")),
    ] {
        let mut worker = waiting(&broker, &pool).await;
        let mut caller = Call::of(function).send(broker.dispatch).await;
        let target = target(&worker.answer().await);
        answer(&broker, &whole(&target, "", "1")).await;
        let reply = caller.reply().await;
        assert_eq!(
            (reply.result(), reply.head.header("x-amz-executed-version")),
            ((200, None, "1"), Some(&*pool.version))
        );
    }
    for function in ["hello:8", "other", "my%2Fapp", "other:prod"] {
        let unknown = Call::of(function).answer(broker.dispatch).await;
        let expected = if function.contains('%') {
            (400, "InvalidParameterValueException")
        } else {
            (404, "ResourceNotFoundException")
        };
        let (status, kind, _) = error(&unknown);
        assert_eq!((status, &*kind), expected, "{function}");
        assert_eq!(unknown.header("pilotlight-outcome"), Some("refused"));
    }
    // The table is read again on a reload.
    std::fs::write(file.path(), "function = \"other=other/prod/0/0\"\n").unwrap();
    broker.signal(rustix::process::Signal::HUP);
    let status = async |function| Call::of(function).answer(broker.dispatch).await.status;
    broker.wait_until("the table is read again", async || status("hello").await == 404).await;
    assert_eq!(status("other").await, 429);
}

#[tokio::test]
async fn what_is_wrong_with_a_call_is_said_in_the_form_of_the_sdks() {
    let broker = broker(&["--max-replies", "1"]);
    let call = || Call::of("hello");
    let (parameter, content) = ("InvalidParameterValueException", "InvalidRequestContentException");
    for (call, status, kind, text) in [
        (call().event("{"), 400, content, "is not JSON: the fault is in line 1"),
        (call().event("{}{}"), 400, content, "is not JSON"),
        (call().with("x-amz-client-context", "e30"), 400, content, "is not base64"),
        (call().with("x-amz-client-context", "ew=="), 400, content, "client context is not JSON"),
        (call().with("x-amz-invocation-type", "Later"), 400, parameter, "x-amz-invocation-type"),
        (call().with("x-amz-log-type", "All"), 400, parameter, "x-amz-log-type"),
        (call().with("x-amz-tenant-id", "t"), 400, parameter, "is not supported"),
        (Call::of("hello:1?Qualifier=2"), 400, parameter, "is not the one in the query"),
        (Call::of("he%20llo"), 400, parameter, "The function name"),
        (Call::streaming("hello").with("x-amz-invocation-type", "Event"), 400, parameter, "response stream"),
        (call().with("content-encoding", "gzip"), 415, "UnsupportedMediaTypeException", "Content-Encoding"),
        (call().event(&"1".repeat(20 * 1024 * 1024)), 413, "RequestTooLargeException", "6291456"),
    ] {
        let answer = call.with_id("refused").answer(broker.dispatch).await;
        let (found_status, found, said) = error(&answer);
        assert_eq!((found_status, &*found), (status, kind), "{said}");
        assert!(said.contains(text), "{said}");
        assert_eq!(
            (answer.json()["Type"].as_str(), answer.header("x-amzn-requestid")),
            (Some("User"), Some("refused"))
        );
    }
    let large = call().event(&format!("\"{}\"", "a".repeat(6 * 1024 * 1024 - 2)));
    assert_eq!(large.answer(broker.dispatch).await.status, 429, "it is as large as it may be");
    // A limit.
    let Called { caller: _caller, .. } = called(&broker, &call()).await;
    let limited = call().answer(broker.dispatch).await;
    assert_eq!(
        (error(&limited).1, limited.header("retry-after")),
        ("TooManyRequestsException".to_owned(), Some("1"))
    );
    assert_eq!(limited.header("pilotlight-outcome"), Some("limited"));
    // Other methods, and a page.
    let get = "GET /2015-03-31/functions/hello/invocations HTTP/1.1\r\nhost: b\r\n\r\n";
    let other = answer(&broker, get).await;
    assert_eq!((other.status, other.header("allow")), (405, Some("POST")));
    let page = call().with("origin", "https://example.org").answer(broker.dispatch).await;
    assert_eq!((page.status, page.problem()), (403, "foreign-page".to_owned()));
}

#[tokio::test]
async fn only_the_tokens_of_the_broker_are_credentials() {
    let mut tokens = tempfile::NamedTempFile::new().unwrap();
    writeln!(tokens, "a-token-of-a-supervisor").unwrap();
    let broker = broker(&["--dispatch-token-file", tokens.path().to_str().unwrap()]);
    for authorization in ["AWS4-HMAC-SHA256 Credential=A", "Bearer another-token-of-somebody"] {
        let refused = Call::of("hello").with("authorization", authorization).answer(broker.dispatch).await;
        let (status, kind, text) = error(&refused);
        assert_eq!((status, &*kind), (403, "AccessDeniedException"), "{text}");
        assert_eq!(refused.header("pilotlight-outcome"), Some("refused"));
    }
    let let_in = Call::of("hello").with("authorization", "Bearer a-token-of-a-supervisor");
    assert_eq!(let_in.answer(broker.dispatch).await.status, 429);
}

#[tokio::test]
async fn a_call_is_a_dispatch_where_it_is_served_and_recorded() {
    let broker = broker(&["--dispatch-listen", "127.0.0.1:0"]);
    let refused = Call::of("hello").answer(broker.public).await;
    assert_eq!(error(&refused).1, "ResourceNotFoundException");
    let call = Call::of("hello").with_id("recorded");
    let Called { mut caller, target, .. } = called(&broker, &call).await;
    answer(&broker, &whole(&error_target(&target), "content-type: application/json\r\n", "{}")).await;
    assert_eq!(caller.reply().await.result(), (200, Some("Unhandled"), "{}"));
    broker.wait_for_metric("pilotlight_http_requests_total{code_class=\"2xx\",route=\"invoke\"}", 1).await;
    broker.wait_for_metric("pilotlight_replies_total{outcome=\"worker_error\"}", 1).await;
    let found = async || broker.operate("GET", "/runs/recorded").await.1.contains("worker_error");
    broker.wait_until("the reply is recorded", found).await;
    let text = broker.operate("GET", "/runs/recorded").await.1;
    let run: Value = serde_json::from_str(&text).unwrap();
    assert!(text.contains("\"hello\"") && text.contains("$LATEST"), "{run}");
}

/// A stream of which a worker has sent this much.
async fn streamed(broker: &Broker, fields: &str, sent: &[&str]) -> (Caller, Client, String) {
    let Called { caller, run, target } =
        called(broker, &Call::streaming("hello").with("x-amz-log-type", "Tail")).await;
    assert_eq!(run.header("x-amz-response-mode"), Some("streaming"));
    let mut worker = open(broker.public, &target, fields).await;
    for piece in sent {
        worker.send(chunk(piece)).await;
    }
    (caller, worker, target)
}

fn payload(text: &str) -> (String, String) {
    ("PayloadChunk".to_owned(), text.to_owned())
}

/// The last event, whose document has these members.
fn complete(document: &Value) -> (String, String) {
    ("InvokeComplete".to_owned(), document.to_string())
}

#[tokio::test]
async fn a_stream_comes_piece_by_piece_and_ends_with_an_event() {
    let broker = broker(&[]);
    let (mut caller, mut worker, _) =
        streamed(&broker, "content-encoding: br\r\ntrailer: a, b\r\n", &["one"]).await;
    let head = caller.head().await;
    assert_eq!((head.status, head.header("transfer-encoding")), (200, Some("chunked")));
    for (name, value) in [
        ("content-type", Some("application/vnd.amazon.eventstream")),
        ("x-amz-executed-version", Some("$LATEST")),
        ("content-encoding", None),
        ("x-amz-function-error", None),
        ("x-accel-buffering", Some("no")),
    ] {
        assert_eq!(head.header(name), value, "{name}");
    }
    while !String::from_utf8_lossy(caller.client.answered_so_far()).contains("one") {
        assert!(caller.client.next_bytes().await, "the first piece comes before the second is sent");
    }
    worker.send(chunk("two") + "0\r\npilotlight-log-tail: bG9n\r\n\r\n").await;
    let reply = caller.rest_after(head).await;
    assert!(reply.is_whole);
    assert_eq!(reply.events(), [payload("one"), payload("two"), complete(&json!({"LogResult": "bG9n"}))]);
    assert_eq!(worker.answer().await.status, 200);
    // The connection is kept, and a body whose length is known has no other form.
    let mut poll = waiting(&broker, &pool_of("hello")).await;
    caller.client.send(Call::streaming("hello").with("x-amz-log-type", "Tail").request()).await;
    let target = target(&poll.answer().await);
    answer(&broker, &whole(&target, "pilotlight-log-tail: bG9n\r\n", "three")).await;
    let reply = caller.reply().await;
    assert_eq!(reply.events(), [payload("three"), complete(&json!({"LogResult": "bG9n"}))]);
    let mut poll = waiting(&broker, &pool_of("hello")).await;
    caller.client.send(Call::streaming("hello").request()).await;
    let target = support::replies::target(&poll.answer().await);
    answer(&broker, &whole(&target, "", "")).await;
    assert_eq!(caller.reply().await.events(), [complete(&json!({}))]);
}

#[tokio::test]
async fn a_stream_that_fails_ends_with_the_code_of_the_error() {
    let broker = broker(&["--max-reply-wait", "1s"]);
    let failed = |kind: &str, details: &str| complete(&json!({"ErrorCode": kind, "ErrorDetails": details}));
    // Before the first byte.
    let (mut caller, _worker, target) = streamed(&broker, "", &[]).await;
    let document = r#"{"errorType":"TypeError","errorMessage":"x"}"#;
    answer(&broker, &whole(&error_target(&target), "", document)).await;
    let reply = caller.reply().await;
    assert_eq!((reply.head.status, reply.events()), (200, vec![failed("TypeError", document)]));
    // The function fails later: the worker says so in its trailers.
    let (mut caller, mut worker, _) = streamed(&broker, "", &["one"]).await;
    let body = STANDARD.encode(document);
    let end = format!("0\r\npilotlight-error-type: Runtime.X\r\npilotlight-error-body: {body}\r\n\r\n");
    worker.send(&end).await;
    assert_eq!(caller.reply().await.events(), [payload("one"), failed("Runtime.X", document)]);
    assert_eq!(worker.answer().await.status, 200);
    // The same before the first byte.
    let (mut caller, mut worker, _) = streamed(&broker, "", &[]).await;
    worker.send(&end).await;
    assert_eq!(caller.reply().await.events(), [failed("Runtime.X", document)]);
    // The worker dies, later and before.
    for sent in [&["one"][..], &[]] {
        let (mut caller, worker, _) = streamed(&broker, "", sent).await;
        let head = if sent.is_empty() { None } else { Some(caller.head().await) };
        drop(worker);
        let reply = match head {
            Some(head) => caller.rest_after(head).await,
            None => caller.reply().await,
        };
        let events = reply.events();
        assert!(reply.is_whole && events.len() == sent.len() + 1, "{events:?}");
        assert!(events.last().unwrap().1.contains(r#""ErrorCode":"Runtime.ExitError""#), "{events:?}");
    }
    // The time is over.
    let (mut caller, _worker, _) = streamed(&broker, "", &[]).await;
    let events = caller.reply().await.events();
    assert!(events.len() == 1 && events[0].1.contains("Sandbox.Timedout"), "{events:?}");
    broker.wait_for_metric("pilotlight_replies_total{outcome=\"worker_error\"}", 3).await;
    broker.wait_for_metric("pilotlight_replies_total{outcome=\"reply_broken\"}", 2).await;
}

#[tokio::test]
async fn what_a_worker_sends_unasked_or_wrongly_does_no_harm() {
    let broker = broker(&[]);
    // The log of a call that has not asked for it.
    let Called { mut caller, target, .. } = called(&broker, &Call::of("hello")).await;
    answer(&broker, &whole(&target, "pilotlight-log-tail: bG9n\r\n", "1")).await;
    let reply = caller.reply().await;
    assert_eq!((reply.result(), reply.head.header("x-amz-log-result")), ((200, None, "1"), None));
    let Called { mut caller, target, .. } = called(&broker, &Call::streaming("hello")).await;
    let mut worker = open(broker.public, &target, "pilotlight-log-tail: bG9n\r\n").await;
    worker.send("0\r\npilotlight-log-tail: bG9n\r\n\r\n").await;
    assert_eq!(caller.reply().await.events(), [complete(&json!({}))]);
    // A type that is none is a failure all the same, and one that comes twice, too.
    let long = "x".repeat(300);
    for (fields, found) in [
        (format!("pilotlight-error-type: {long}\r\n"), "Unhandled"),
        ("pilotlight-error-type: A.B\r\npilotlight-error-type: C.D\r\n".to_owned(), "A.B"),
    ] {
        let Called { mut caller, target, .. } = called(&broker, &Call::of("hello")).await;
        let mut worker = open(broker.public, &target, "").await;
        worker.send(format!("0\r\n{fields}\r\n")).await;
        let document = format!(r#"{{"errorType":"{found}","errorMessage":""}}"#);
        assert_eq!(caller.reply().await.result(), (200, Some("Unhandled"), &*document));
    }
    // An error without an end: the caller has its answer, and the worker is cut off.
    let Called { mut caller, target, .. } = called(&broker, &Call::of("hello")).await;
    let mut worker = open(broker.public, &error_target(&target), "").await;
    for _ in 0..5 {
        worker.send(chunk(&"x".repeat(64 * 1024))).await;
    }
    let reply = caller.reply().await;
    assert_eq!((reply.result().1, reply.body.len() / 1024), (Some("Unhandled"), 256));
    assert_eq!(worker.answer().await.header("connection"), Some("close"));
}

#[tokio::test]
async fn a_failure_in_trailers_breaks_the_response_of_any_other_caller() {
    let broker = broker(&[]);
    let end =
        format!("0\r\npilotlight-error-type: X\r\npilotlight-error-body: {}\r\n\r\n", STANDARD.encode("oh"));
    for begun in [true, false] {
        let mut native = support::replies::handed_over(&broker).await;
        let Called { mut caller, target, .. } = called(&broker, &Call::of("hello")).await;
        for target in [&native.target, &target] {
            let mut worker = open(broker.public, target, "").await;
            let sent = if begun { chunk("a") } else { String::new() };
            worker.send(sent + &end).await;
            assert_eq!(worker.answer().await.status, 200, "it has told what it had to");
        }
        let (native, function) = (native.caller.reply().await, caller.reply().await);
        if begun {
            assert_eq!((native.outcome(), native.is_whole), ((200, "replied", "a"), false));
            assert_eq!((function.head.status, &*function.body, function.is_whole), (200, &b"a"[..], false));
        } else {
            let document = r#"{"errorType":"X","errorMessage":"oh"}"#;
            assert_eq!(native.outcome(), (502, "worker_error", document));
            assert_eq!(function.result(), (200, Some("Unhandled"), document));
        }
    }
    broker.wait_for_metric("pilotlight_replies_total{outcome=\"worker_error\"}", 4).await;
}

#[tokio::test]
async fn a_caller_of_http_1_0_finds_the_end_of_a_stream_in_its_last_event() {
    let broker = broker(&[]);
    let mut poll = waiting(&broker, &pool_of("hello")).await;
    let mut caller = Client::connect(broker.dispatch).await;
    caller.send(Call::streaming("hello").request().replace("HTTP/1.1", "HTTP/1.0")).await;
    let target = target(&poll.answer().await);
    let mut worker = open(broker.public, &target, "").await;
    worker.send(chunk("one") + END).await;
    let all = caller.rest().await;
    let end = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(!String::from_utf8_lossy(&all[..end]).contains("chunked"));
    assert_eq!(support::invoke::events(&all[end..]), [payload("one"), complete(&json!({}))]);
}

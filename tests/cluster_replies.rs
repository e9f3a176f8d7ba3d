//! Owns the tests of replies in a cluster: the worker waits at another broker than its run's caller.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]

mod support;

use std::time::Duration;

use support::client::Client;
use support::cluster::{Cluster, verdicts, wait_until_known_at};
use support::event_stream::EventStream;
use support::invoke::{Call, pool_of};
use support::nats::NatsServer;
use support::replies::{Caller, END, chunk, error_target, open, target, waiting, whole};
use support::{Broker, Pool, free_addresses};

/// A cluster whose first broker has the callers, and whose second one the workers. The first one has these arguments.
async fn two_brokers(arguments: &[&str]) -> Option<Cluster> {
    let mut cluster = Cluster::empty(NatsServer::start("")?, "received", &[]);
    cluster.join(arguments);
    cluster.join(&[]);
    cluster.settle().await;
    Some(cluster)
}

/// The same with a first broker that is reached where it says.
async fn two_brokers_in_reach() -> Option<Cluster> {
    let [listen] = free_addresses();
    let (listen, url) = (listen.to_string(), format!("http://{listen}"));
    two_brokers(&["--listen", &listen, "--advertise", &url]).await
}

fn pool() -> Pool {
    Pool::small("d1")
}

/// A run of the first broker that a worker at the second one has.
async fn handed_over(cluster: &Cluster) -> (Caller, Client, String) {
    let [callers, workers] = &cluster.brokers[..] else { panic!("two brokers") };
    let mut worker = waiting(workers, &pool()).await;
    wait_until_known_at(callers, &pool()).await;
    let caller = Caller::post(callers.public, &pool(), "?reply=30s", "").await;
    let target = target(&worker.answer().await);
    (caller, worker, target)
}

fn workers(cluster: &Cluster) -> &Broker {
    &cluster.brokers[1]
}

#[tokio::test]
async fn a_reply_at_another_broker_reaches_its_caller_piece_by_piece() {
    let Some(cluster) = two_brokers_in_reach().await else { return };
    let (mut caller, _poll, target) = handed_over(&cluster).await;
    let fields = "content-type: text/event-stream\r\npilotlight-status: 201\r\n";
    let mut worker = open(workers(&cluster).public, &target, fields).await;
    for data in ["data: 1\n\n", "data: 2\n\n"] {
        worker.send(chunk(data)).await;
        if data.contains('1') {
            let head = caller.head().await;
            assert_eq!((head.status, head.header("content-type")), (201, Some("text/event-stream")));
            assert_eq!(head.header("pilotlight-controller"), Some("w1"));
        }
        let expected = chunk(data);
        while caller.client.answered_so_far().len() < expected.len() {
            assert!(caller.client.next_bytes().await, "the next piece");
        }
        assert_eq!(caller.client.take_bytes(), expected.as_bytes());
    }
    // What else is behind the body is nobody's. A failure in it would break the caller's response.
    worker.send("0\r\nother: x\r\n\r\n").await;
    let answer = worker.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (200, None), "{answer:?}");
    assert!(caller.client.next_bytes().await);
    assert_eq!(caller.client.take_bytes(), END.as_bytes());
    // Its next request may come at once.
    let (mut caller, _poll, target) = handed_over(&cluster).await;
    let next = "GET /connect HTTP/1.1\r\nhost: b\r\n\r\n";
    worker.send(whole(&target, "", "again") + next).await;
    assert_eq!((worker.answer().await.status, worker.answer().await.status), (200, 200));
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "again"));
}

#[tokio::test]
async fn a_call_of_a_function_reaches_a_worker_of_another_broker_with_all_that_belongs_to_it() {
    let Some(cluster) = two_brokers_in_reach().await else { return };
    let [callers, workers] = &cluster.brokers[..] else { panic!("two brokers") };
    let pool = pool_of("hello");
    let called = async |call: Call, log_type: Option<&str>| {
        let mut worker = waiting(workers, &pool).await;
        wait_until_known_at(callers, &pool).await;
        let caller = call.with("x-amz-log-type", "Tail").event("[1]").send(callers.public).await;
        let run = worker.answer().await;
        assert_eq!((&*run.body, run.header("x-amz-log-type")), (&b"[1]"[..], log_type));
        (caller, run)
    };
    let (mut caller, run) = called(Call::of("hello"), Some("Tail")).await;
    assert_eq!(run.header("x-amz-response-mode"), None);
    let sent = whole(&error_target(&target(&run)), "pilotlight-log-tail: bG9n\r\n", "oh");
    assert_eq!(Client::connect(workers.public).await.ask(sent).await.status, 200);
    let reply = caller.reply().await;
    let document = r#"{"errorType":"Unhandled","errorMessage":"oh"}"#;
    assert_eq!(reply.result(), (200, Some("Unhandled"), document));
    assert_eq!(reply.head.header("x-amz-log-result"), Some("bG9n"));

    let (mut caller, run) = called(Call::streaming("hello"), Some("Tail")).await;
    assert_eq!(run.header("x-amz-response-mode"), Some("streaming"));
    let mut worker = open(workers.public, &target(&run), "").await;
    let end =
        "0\r\npilotlight-error-type: X\r\npilotlight-error-body: b2g=\r\npilotlight-log-tail: bG9n\r\n\r\n";
    worker.send(chunk("one") + end).await;
    let answer = worker.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (200, None), "{answer:?}");
    let details = r#"{"errorType":"X","errorMessage":"oh"}"#;
    let complete = serde_json::json!({"ErrorCode": "X", "ErrorDetails": details, "LogResult": "bG9n"});
    let expected = [("PayloadChunk", "one".to_owned()), ("InvokeComplete", complete.to_string())];
    assert_eq!(caller.reply().await.events(), expected.map(|(kind, payload)| (kind.to_owned(), payload)));

    let event = Call::of("hello").with("x-amz-invocation-type", "Event");
    let (mut caller, run) = called(event, None).await;
    assert_eq!((run.header("x-amz-invocation-type"), run.header("pilotlight-reply")), (Some("Event"), None));
    assert_eq!(caller.client.answer().await.status, 202);
}

#[tokio::test]
async fn a_call_that_takes_longer_than_runs_are_remembered_is_not_made_again_at_another_broker() {
    let Some(nats) = NatsServer::start("") else { return };
    let [listen] = free_addresses();
    let (listen, url) = (listen.to_string(), format!("http://{listen}"));
    let mut cluster = Cluster::empty(nats, "received", &["--remember-runs", "1s"]);
    cluster.join(&["--listen", &listen, "--advertise", &url]);
    cluster.join(&[]);
    cluster.settle().await;
    let [callers, workers] = &cluster.brokers[..] else { panic!("two brokers") };
    let pool = pool_of("hello");
    let mut worker = waiting(callers, &pool).await;
    let call = Call::of("hello").with_id("long");
    let mut caller = call.send(callers.public).await;
    let target = target(&worker.answer().await);
    let mut open = open(callers.public, &target, "").await;
    let _other = waiting(workers, &pool).await;
    // Until long after the dispatch is forgotten.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let again = call.answer(workers.public).await;
    assert_eq!((again.status, again.header("x-amzn-errortype")), (409, Some("ResourceConflictException")));
    open.send(chunk("1") + END).await;
    assert_eq!(caller.reply().await.result(), (200, None, "1"));
    assert_eq!(workers.waiters("").await, 1);
}

#[tokio::test]
async fn ends_pass_both_ways() {
    let Some(cluster) = two_brokers_in_reach().await else { return };
    let at = workers(&cluster).public;
    // The worker dies.
    let (mut caller, _poll, target) = handed_over(&cluster).await;
    let mut worker = open(at, &target, "").await;
    worker.send(chunk("abc")).await;
    let head = caller.head().await;
    drop(worker);
    let reply = caller.rest_after(head).await;
    assert_eq!((reply.outcome(), reply.is_whole), ((200, "replied", "abc"), false));
    // The caller leaves.
    let (caller, _poll, target) = handed_over(&cluster).await;
    let mut worker = open(at, &target, "").await;
    assert!(worker.is_held().await);
    drop(caller);
    assert_eq!(worker.answer().await.problem(), "reply-gone");
    assert_eq!(Client::connect(at).await.ask(whole(&target, "", "late")).await.problem(), "reply-gone");
    // The run fails.
    let (mut caller, _poll, target) = handed_over(&cluster).await;
    let failed = Client::connect(at).await.ask(whole(&error_target(&target), "", "failed")).await;
    assert_eq!(failed.status, 200);
    assert_eq!(caller.reply().await.outcome(), (502, "worker_error", "failed"));
    // A wrong status.
    let (mut caller, _poll, target) = handed_over(&cluster).await;
    let answer = Client::connect(at).await.ask(whole(&target, "pilotlight-status: 204\r\n", "")).await;
    assert_eq!(answer.problem(), "bad-reply-status");
    assert_eq!(caller.reply().await.problem().1, "reply_broken");
}

#[tokio::test]
async fn a_broker_that_nobody_can_reach_forwards_no_run_that_awaits_a_reply() {
    let Some(cluster) = two_brokers(&[]).await else { return };
    let [callers, workers] = &cluster.brokers[..] else { panic!("two brokers") };
    let mut worker = waiting(workers, &pool()).await;
    wait_until_known_at(callers, &pool()).await;
    let reply = Caller::post(callers.public, &pool(), "?reply=30s", "").await.reply().await;
    let said: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!((reply.head.status, &said["reason"]), (503, &"no_reply_route".into()), "{said}");
    // Without a reply it is forwarded, and at its own broker a worker replies.
    let mut plain = Caller::post(callers.public, &pool(), "", "").await;
    assert_eq!(worker.answer().await.header("pilotlight-reply"), None);
    assert_eq!(plain.reply().await.head.status, 200);
    let mut worker = waiting(callers, &pool()).await;
    let mut caller = Caller::post(callers.public, &pool(), "?reply=30s", "").await;
    let target = target(&worker.answer().await);
    assert_eq!(callers.client().await.ask(whole(&target, "", "here")).await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "here"));
}

#[tokio::test]
async fn a_reply_is_a_receipt_at_the_workers_broker_too() {
    let Some(cluster) = two_brokers_in_reach().await else { return };
    let [callers, workers] = &cluster.brokers[..] else { panic!("two brokers") };
    let mut stream = EventStream::held(workers, &pool(), "w1", 1).await;
    wait_until_known_at(callers, &pool()).await;
    let mut caller = Caller::post(callers.public, &pool(), "?reply=30s", "").await;
    let run = stream.run().await;
    assert_eq!(workers.client().await.ask(whole(&run.reply.unwrap(), "", "done")).await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "done"));
    // The stream goes on, although nothing else has acknowledged the run.
    assert_eq!(workers.client().await.ask(support::offers::post(&run.ready)).await.status, 204);
    workers.wait_for_waiters(1).await;
    assert_eq!(verdicts(workers, "received").await, 1);
}

#[tokio::test]
async fn what_is_left_of_a_body_that_was_passed_on_is_no_request() {
    let Some(cluster) = two_brokers_in_reach().await else { return };
    let at = workers(&cluster).public;
    let (mut caller, _poll, target) = handed_over(&cluster).await;
    let mut worker = open(at, &target, "").await;
    worker.send(chunk("abc")).await;
    caller.head().await;
    // The error comes late, and its body later.
    let mut failing = Client::connect(at).await;
    let error = error_target(&target);
    failing.send(format!("POST {error} HTTP/1.1\r\nhost: b\r\ncontent-length: 100000\r\n\r\n")).await;
    let answer = failing.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{answer:?}");
    assert!(failing.is_closed_silently().await);
}

#[tokio::test]
async fn a_run_that_may_be_redelivered_goes_to_another_brokers_worker() {
    let [listen] = free_addresses();
    let (listen, url) = (listen.to_string(), format!("http://{listen}"));
    let arguments = ["--listen", &listen, "--advertise", &url, "--proof-timeout", "100ms"];
    let Some(cluster) = two_brokers(&arguments).await else { return };
    let [callers, workers] = &cluster.brokers[..] else { panic!("two brokers") };
    // It reads nothing, so its offer is not proved.
    let _frozen = waiting(callers, &pool()).await;
    let mut worker = waiting(workers, &pool()).await;
    wait_until_known_at(callers, &pool()).await;
    let mut caller = Caller::post(callers.public, &pool(), "?reply=30s&redeliver=true", "").await;
    let target = target(&worker.answer().await);
    assert_eq!(workers.client().await.ask(whole(&target, "", "done")).await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "done"));
}

#[tokio::test]
async fn a_run_that_another_broker_has_delivered_without_a_reply_has_none() {
    let Some(cluster) = two_brokers_in_reach().await else { return };
    let [callers, workers] = &cluster.brokers[..] else { panic!("two brokers") };
    let mut worker = waiting(workers, &pool()).await;
    let name = "pilotlight-run: job/1\r\n";
    let mut plain = Caller::post(workers.public, &pool(), "", name).await;
    assert_eq!(worker.answer().await.header("pilotlight-reply"), None);
    assert_eq!(plain.reply().await.head.status, 200);
    let _other = waiting(workers, &pool()).await;
    wait_until_known_at(callers, &pool()).await;
    let reply = Caller::post(callers.public, &pool(), "?reply=30s", name).await.reply().await;
    assert_eq!(reply.problem(), (409, "duplicate".to_owned(), "run-posted-before".to_owned()));
}

#[tokio::test]
async fn a_token_of_no_broker_is_gone() {
    let Some(cluster) = two_brokers_in_reach().await else { return };
    let (_caller, _poll, target) = handed_over(&cluster).await;
    let at = workers(&cluster).public;
    let ask = async |target: String| Client::connect(at).await.ask(whole(&target, "", "x")).await.problem();
    let (path, token) = target.split_once("?token=").unwrap();
    assert_eq!(ask(format!("{path}?token={}", &token[..32])).await, "bad-reply-token");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let unknown = format!("{path}?token={}{}", &token[..32], "f".repeat(32));
    assert!(["offer-ended", "unknown-broker", "reply-gone"].contains(&&*ask(unknown).await));
}

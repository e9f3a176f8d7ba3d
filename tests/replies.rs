//! Owns the end-to-end tests of replies: what a worker posts becomes its caller's response, whole or not at all.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use support::client::Client;
use support::event_stream::EventStream;
use support::replies::{
    Caller, END, HandedOver, chunk, dispatch, error_target, handed_over, handed_over_with, is_silent, open,
    target, waiting, whole,
};
use support::websocket::WebSocket;
use support::{Broker, PATIENCE, Pool};

fn broker(arguments: &[&str]) -> Broker {
    Broker::proving("received", arguments)
}

fn pool() -> Pool {
    Pool::small("d1")
}

/// Counted by the caller's task, which may be later than what the worker sees.
async fn wait_for_replies(broker: &Broker, outcome: &str, count: u64) {
    broker.wait_for_metric(&format!("pilotlight_replies_total{{outcome=\"{outcome}\"}}"), count).await;
}

#[tokio::test]
async fn a_reply_comes_piece_by_piece_as_the_worker_writes_it() {
    let broker = broker(&[]);
    let HandedOver { mut caller, target } = handed_over(&broker).await;
    let mut worker = open(broker.public, &target, "content-type: text/event-stream\r\n").await;
    assert!(is_silent(&mut caller).await, "nothing is sent before the first byte of the reply");
    worker.send(chunk("data: 1\n\n")).await;
    let head = caller.head().await;
    let header = |name| head.header(name);
    assert_eq!((head.status, header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(
        (header("pilotlight-outcome"), header("pilotlight-proof")),
        (Some("replied"), Some("replied"))
    );
    assert_eq!((header("pilotlight-controller"), header("x-accel-buffering")), (Some("w1"), Some("no")));
    assert_eq!(header("transfer-encoding"), Some("chunked"));
    for data in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        let expected = chunk(data);
        while caller.client.answered_so_far().len() < expected.len() {
            assert!(caller.client.next_bytes().await, "the next piece");
        }
        assert_eq!(caller.client.take_bytes(), expected.as_bytes());
        worker.send(chunk("data: 2\n\n").replace('2', if data.contains('1') { "2" } else { "3" })).await;
    }
    worker.send(END).await;
    let answer = worker.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (200, None));
    wait_for_replies(&broker, "replied", 1).await;
    broker.wait_for_metric("pilotlight_replies_open", 0).await;
}

#[tokio::test]
async fn both_connections_serve_on_after_a_reply() {
    let broker = broker(&[]);
    let mut worker = waiting(&broker, &pool()).await;
    let mut caller = Caller::post(broker.dispatch, &pool(), "?reply=30s", "").await;
    for (number, body) in ["one", "", "three"].into_iter().enumerate() {
        let target = target(&worker.answer().await);
        let fields = format!("pilotlight-status: {}\r\ncontent-encoding: br\r\n", 200 + number);
        worker = broker.client().await;
        let answer = worker.ask(whole(&target, &fields, body)).await;
        assert_eq!((answer.status, answer.header("connection")), (200, None));
        let reply = caller.reply().await;
        let status = 200 + u16::try_from(number).unwrap();
        assert_eq!(reply.outcome(), (status, "replied", body));
        assert_eq!(reply.head.header("content-encoding"), Some("br"));
        assert_eq!(reply.head.header("content-length"), Some(&*body.len().to_string()));
        worker.send(format!("GET {} HTTP/1.1\r\nhost: b\r\n\r\n", pool().path())).await;
        broker.wait_for_waiters(1).await;
        caller.client.send(dispatch(&pool(), "?reply=30s", "")).await;
    }
}

#[tokio::test]
async fn a_worker_that_dies_is_seen_at_once_and_never_ends_a_stream_well() {
    let broker = broker(&[]);
    // Before the first byte.
    let HandedOver { mut caller, target } = handed_over(&broker).await;
    let worker = open(broker.public, &target, "").await;
    assert!(is_silent(&mut caller).await);
    let begun = Instant::now();
    drop(worker);
    let reply = caller.reply().await;
    assert_eq!(reply.problem(), (502, "reply_broken".to_owned(), "reply-broken".to_owned()));
    let document: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert!(target.starts_with(&format!("/v1/runs/{}/", document["run"].as_str().unwrap())), "{document}");
    assert!(begun.elapsed() < Duration::from_secs(2), "long before its time is over");
    // After it, in chunks and with a length.
    let HandedOver { mut caller, target } = handed_over(&broker).await;
    let mut worker = open(broker.public, &target, "").await;
    worker.send(chunk("abc")).await;
    let head = caller.head().await;
    drop(worker);
    let reply = caller.rest_after(head).await;
    assert_eq!((reply.outcome(), reply.is_whole), ((200, "replied", "abc"), false));
    let HandedOver { mut caller, target } = handed_over(&broker).await;
    let mut worker = broker.client().await;
    worker.send(format!("POST {target} HTTP/1.1\r\nhost: b\r\ncontent-length: 5\r\n\r\nabc")).await;
    let head = caller.head().await;
    drop(worker);
    let reply = caller.rest_after(head).await;
    assert_eq!((reply.outcome(), reply.is_whole), ((200, "replied", "abc"), false));
    wait_for_replies(&broker, "reply_broken", 3).await;
}

#[tokio::test]
async fn a_broken_chunk_breaks_the_reply() {
    let broker = broker(&[]);
    for (sent, before) in [("zz\r\nabc\r\n", ""), ("3\r\nabcd\r\n", "abc"), ("3\r\nabc\r\n-1\r\n", "abc")] {
        let HandedOver { mut caller, target } = handed_over(&broker).await;
        let mut worker = open(broker.public, &target, "").await;
        worker.send(sent).await;
        let reply = caller.reply().await;
        if before.is_empty() {
            assert_eq!(reply.problem().1, "reply_broken", "{sent}");
        } else {
            assert_eq!((reply.outcome(), reply.is_whole), ((200, "replied", before), false), "{sent}");
        }
    }
}

#[tokio::test]
async fn an_error_replaces_an_open_reply() {
    let broker = broker(&[]);
    let HandedOver { mut caller, target } = handed_over(&broker).await;
    let mut worker = open(broker.public, &target, "").await;
    assert!(worker.is_held().await, "it is open");
    let failed = whole(&error_target(&target), "content-type: text/plain\r\n", "out of memory");
    assert_eq!(broker.client().await.ask(&failed).await.status, 200);
    let reply = caller.reply().await;
    assert_eq!(reply.outcome(), (502, "worker_error", "out of memory"));
    assert_eq!(reply.head.header("content-type"), Some("text/plain"));
    assert_eq!(worker.answer().await.problem(), "reply-gone");
    assert_eq!(broker.client().await.ask(&failed).await.problem(), "reply-gone", "once");
    // After the first byte the caller's stream breaks.
    let HandedOver { mut caller, target } = handed_over(&broker).await;
    let mut worker = open(broker.public, &target, "").await;
    worker.send(chunk("abc")).await;
    let head = caller.head().await;
    let failed = whole(&error_target(&target), "", "out of memory");
    assert_eq!(broker.client().await.ask(&failed).await.status, 200);
    let reply = caller.rest_after(head).await;
    assert_eq!((reply.outcome(), reply.is_whole), ((200, "replied", "abc"), false));
    assert_eq!(worker.answer().await.problem(), "reply-gone");
    wait_for_replies(&broker, "worker_error", 2).await;
}

#[tokio::test]
async fn a_reply_may_be_opened_anew_until_its_first_byte() {
    let broker = broker(&[]);
    let HandedOver { mut caller, target } = handed_over(&broker).await;
    let mut early = open(broker.public, &target, "content-type: text/plain\r\n").await;
    assert!(early.is_held().await, "it is open");
    let fields = "pilotlight-status: 404\r\ncontent-type: application/json\r\n";
    let mut other = open(broker.public, &target, fields).await;
    assert_eq!(early.answer().await.problem(), "reply-gone");
    other.send(chunk("{}")).await;
    assert_eq!(caller.head().await.status, 404);
    let late = broker.client().await.ask(whole(&target, "", "late")).await;
    assert_eq!((late.status, late.problem()), (410, "reply-gone".to_owned()), "it has begun");
    other.send(END).await;
    assert_eq!(other.answer().await.status, 200);
    assert_eq!(broker.client().await.ask(whole(&target, "", "twice")).await.problem(), "reply-gone");
}

#[tokio::test]
async fn only_the_token_of_this_run_opens_its_reply() {
    let broker = broker(&[]);
    let HandedOver { mut caller, target } = handed_over(&broker).await;
    let (path, token) = target.split_once("?token=").unwrap();
    let unknown = "0".repeat(32);
    for (target, status, problem) in [
        (path.to_owned(), 403, "bad-reply-token"),
        (format!("{path}?token="), 403, "bad-reply-token"),
        (format!("{path}?token=g{}", &token[1..]), 403, "bad-reply-token"),
        (format!("{path}?token={token}0"), 403, "bad-reply-token"),
        (format!("/v1/runs/other/reply?token={token}"), 403, "bad-reply-token"),
        (format!("/v1/runs/%ff/reply?token={token}"), 403, "bad-reply-token"),
        (format!("{path}?token={unknown}"), 410, "reply-gone"),
        (format!("{path}?token={token}&token={token}"), 400, "bad-parameter"),
        (format!("{path}?token={token}&ready=true"), 400, "bad-parameter"),
    ] {
        for target in [target.clone(), error_target(&target)] {
            let answer = broker.client().await.ask(whole(&target, "", "forged")).await;
            assert_eq!((answer.status, &*answer.problem()), (status, problem), "{target}");
        }
    }
    assert!(is_silent(&mut caller).await, "the reply is still awaited");
    assert_eq!(broker.client().await.ask(whole(&target, "", "mine")).await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "mine"));
}

#[tokio::test]
async fn a_status_without_a_body_is_refused() {
    let broker = broker(&[]);
    for status in ["204", "205", "304", "101", "600", "ok", ""] {
        let HandedOver { mut caller, target } = handed_over(&broker).await;
        let fields = format!("pilotlight-status: {status}\r\n");
        let answer = broker.client().await.ask(whole(&target, &fields, "abc")).await;
        assert_eq!((answer.status, &*answer.problem()), (400, "bad-reply-status"), "{status}");
        assert_eq!(caller.reply().await.problem().1, "reply_broken", "{status}");
    }
}

#[tokio::test]
async fn a_client_that_asks_first_is_asked_for_the_body_once_its_token_is_good() {
    let broker = broker(&[]);
    let HandedOver { mut caller, target } = handed_over(&broker).await;
    let head = |target: &str| {
        format!("POST {target} HTTP/1.1\r\nhost: b\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
    };
    let mut refused = broker.client().await;
    refused.send(head(&target.replace("token=", "token=0"))).await;
    assert_eq!(refused.answer().await.status, 403);
    let mut worker = broker.client().await;
    worker.send(head(&target)).await;
    assert_eq!(worker.bare_answer().await.status, 100);
    worker.send("abc").await;
    assert_eq!(worker.answer().await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "abc"));
}

#[tokio::test]
async fn a_worker_hears_of_a_caller_that_has_left() {
    let broker = broker(&[]);
    for has_begun in [false, true] {
        let HandedOver { mut caller, target } = handed_over(&broker).await;
        let mut worker = open(broker.public, &target, "").await;
        if has_begun {
            worker.send(chunk("abc")).await;
            caller.head().await;
        }
        drop(caller);
        let left = Instant::now();
        let answer = worker.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (410, Some("close")));
        assert!(left.elapsed() < Duration::from_secs(2), "{:?}", left.elapsed());
        assert_eq!(broker.client().await.ask(whole(&target, "", "late")).await.problem(), "reply-gone");
    }
    // A worker that only writes hears it at one of its next writes.
    let HandedOver { caller, target } = handed_over(&broker).await;
    let mut worker = open(broker.public, &target, "").await;
    drop(caller);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(worker.fails_to_write(chunk("abc")).await, "the connection is reset");
    wait_for_replies(&broker, "cancelled", 3).await;
}

#[tokio::test]
async fn a_reply_that_does_not_come_in_time_is_a_timeout() {
    let broker = broker(&[]);
    for opens in [false, true] {
        let HandedOver { mut caller, target } = handed_over_with(&broker, "?reply=1s", "").await;
        let worker = if opens { Some(open(broker.public, &target, "").await) } else { None };
        let timeout = (504, "reply_timeout".to_owned(), "reply-timeout".to_owned());
        assert_eq!(caller.reply().await.problem(), timeout);
        if let Some(mut worker) = worker {
            assert_eq!(worker.answer().await.problem(), "reply-gone");
        }
        assert_eq!(broker.client().await.ask(whole(&target, "", "late")).await.problem(), "reply-gone");
        // The connection serves on.
        caller.client.send(dispatch(&pool(), "?reply=1s", "")).await;
        assert_eq!(caller.reply().await.outcome().1, "miss");
    }
}

#[tokio::test]
async fn a_reply_that_stops_is_broken_after_a_while() {
    let broker = broker(&["--reply-idle", "1s"]);
    let HandedOver { mut caller, target } = handed_over_with(&broker, "?reply=1s", "").await;
    let mut worker = open(broker.public, &target, "").await;
    worker.send(chunk("abc")).await;
    let reply = caller.reply().await;
    assert_eq!((reply.outcome(), reply.is_whole), ((200, "replied", "abc"), false));
    assert_eq!(worker.answer().await.problem(), "reply-gone");
}

#[tokio::test]
async fn the_time_without_progress_counts_from_the_first_byte() {
    let broker = broker(&["--reply-idle", "1s"]);
    let HandedOver { mut caller, target } = handed_over_with(&broker, "?reply=60s", "").await;
    let mut worker = open(broker.public, &target, "").await;
    worker.send(chunk("abc")).await;
    assert!(!caller.reply().await.is_whole, "long before the 60 s are over");
}

#[tokio::test]
async fn a_worker_may_end_its_side_when_all_of_its_reply_is_sent() {
    let broker = broker(&[]);
    for closes in [false, true] {
        let HandedOver { mut caller, target } = handed_over(&broker).await;
        let mut worker = broker.client().await;
        // More than the kernel takes while the caller does not read.
        let body = "z".repeat(600_000);
        let request = whole(&target, "", &body);
        let working = async {
            worker.send(request).await;
            tokio::io::AsyncWriteExt::shutdown(&mut worker.stream).await.unwrap();
            if !closes {
                assert_eq!(worker.answer().await.status, 200);
            }
        };
        let reading = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            caller.reply().await
        };
        let reply = tokio::join!(working, reading).1;
        assert!(reply.is_whole);
        assert_eq!(reply.body.len(), body.len());
    }
}

#[tokio::test]
async fn an_older_client_reads_until_the_end_which_is_a_reset_if_the_reply_is_broken() {
    let broker = broker(&[]);
    for breaks in [false, true] {
        let mut poll = waiting(&broker, &pool()).await;
        let mut caller = Caller { client: broker.client().await };
        let request = dispatch(&pool(), "?reply=30s", "").replace("HTTP/1.1", "HTTP/1.0");
        caller.client.send(request).await;
        let target = target(&poll.answer().await);
        let mut worker = open(broker.public, &target, "").await;
        worker.send(chunk("abc")).await;
        let head = caller.head().await;
        assert_eq!((head.header("transfer-encoding"), head.header("content-length")), (None, None));
        assert_eq!(head.header("connection"), Some("close"));
        if breaks {
            drop(worker);
        } else {
            worker.send(END).await;
            assert_eq!(worker.answer().await.status, 200);
        }
        assert_eq!(caller.client.ends_with_a_reset().await, breaks);
        assert_eq!(caller.client.answered_so_far(), b"abc");
    }
}

#[tokio::test]
async fn a_run_is_posted_once_for_its_reply() {
    let broker = broker(&[]);
    let name = "pilotlight-run: job/1\r\n";
    let HandedOver { mut caller, target } = handed_over_with(&broker, "?reply=30s", name).await;
    assert!(target.starts_with("/v1/runs/job%2F1/reply?token="), "{target}");
    let again = async || {
        let reply = Caller::post(broker.dispatch, &pool(), "?reply=30s", name).await.reply().await;
        assert_eq!(reply.problem().0, 409);
        let document: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        (document["state"].clone(), document["outcome"].clone())
    };
    assert_eq!(again().await, ("open".into(), ().into()));
    assert_eq!(broker.client().await.ask(whole(&target, "", "done")).await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "done"));
    wait_for_replies(&broker, "replied", 1).await;
    assert_eq!(again().await, (().into(), "replied".into()));
    // Without a reply it is answered as ever.
    let plain = Caller::post(broker.dispatch, &pool(), "", name).await.reply().await;
    assert_eq!((plain.head.status, plain.head.header("pilotlight-outcome")), (200, None));
    // A run that was delivered without a reply has none.
    let mut worker = waiting(&broker, &pool()).await;
    let name = "pilotlight-run: job/2\r\n";
    let mut plain = Caller::post(broker.dispatch, &pool(), "", name).await;
    assert_eq!(worker.answer().await.header("pilotlight-reply"), None);
    assert_eq!(plain.reply().await.head.status, 200);
    let reply = Caller::post(broker.dispatch, &pool(), "?reply=30s", name).await.reply().await;
    assert_eq!(reply.problem(), (409, "duplicate".to_owned(), "run-posted-before".to_owned()));
}

#[tokio::test]
async fn a_miss_can_be_posted_again() {
    let broker = broker(&[]);
    let name = "pilotlight-run: job/1\r\n";
    for _ in 0..2 {
        let reply = Caller::post(broker.dispatch, &pool(), "?reply=30s", name).await.reply().await;
        assert_eq!((reply.head.status, reply.head.header("retry-after")), (503, Some("1")));
        assert_eq!(reply.head.header("pilotlight-outcome"), Some("miss"));
        let said: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!((&said["delivered"], &said["reason"]), (&false.into(), &"no_pool".into()));
    }
    // A stock controller cannot reply.
    let _stock = broker.held_poll(&pool(), "c1").await;
    let reply = Caller::post(broker.dispatch, &pool(), "?reply=30s", name).await.reply().await;
    let said: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!((reply.head.status, &said["reason"]), (503, &"no_proof".into()));
    wait_for_replies(&broker, "miss", 3).await;
}

#[tokio::test]
async fn what_is_wrong_with_the_request_has_an_outcome_too() {
    let broker = broker(&["--max-reply-wait", "1m", "--body-limit", "2B", "--dispatch-budget", "1s"]);
    for (query, status) in [
        ("?reply=61s", 413),
        ("?reply=", 400),
        ("?reply=0s", 400),
        ("?reply=1s&reply=1s", 400),
        ("?reply=x", 400),
    ] {
        let reply = Caller::post(broker.dispatch, &pool(), query, "").await.reply().await;
        assert_eq!((reply.head.status, reply.outcome().1), (status, "refused"), "{query}");
    }
}

#[tokio::test]
async fn as_many_replies_are_awaited_as_the_limit_allows() {
    let broker = broker(&["--max-replies", "1"]);
    let HandedOver { mut caller, target } = handed_over(&broker).await;
    let reply = Caller::post(broker.dispatch, &pool(), "?reply=30s", "").await.reply().await;
    assert_eq!(reply.problem(), (429, "limited".to_owned(), "too-many-replies".to_owned()));
    assert_eq!(reply.head.header("retry-after"), Some("1"));
    broker.wait_for_metric("pilotlight_replies_open", 1).await;
    assert_eq!(broker.client().await.ask(whole(&target, "", "done")).await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "done"));
    wait_for_replies(&broker, "limited", 1).await;
}

#[tokio::test]
async fn limits_of_dispatches_refuse_no_reply_and_a_run_that_was_handed_over_does_not_count() {
    let broker = broker(&["--max-posts", "1", "--dispatch-listen", "127.0.0.1:0"]);
    let mut first = handed_over(&broker).await;
    let mut second = handed_over(&broker).await;
    // A POST that waits for a worker counts. Either of the two may come first.
    let until = Instant::now() + PATIENCE;
    let _posted = loop {
        let posted = Caller::post(broker.dispatch, &pool(), "?wait=2s", "").await;
        let reply = Caller::post(broker.dispatch, &pool(), "?reply=1s", "").await.reply().await;
        if reply.outcome().1 == "limited" {
            break posted;
        }
        assert!(Instant::now() < until, "no POST is refused: {reply:?}");
    };
    let there = Client::connect(broker.dispatch).await.ask(whole(&first.target, "", "there")).await;
    assert_eq!(there.status, 404, "replies are served where polls are");
    for HandedOver { caller, target } in [&mut first, &mut second] {
        assert_eq!(broker.client().await.ask(whole(target, "", "done")).await.status, 200);
        assert_eq!(caller.reply().await.outcome(), (200, "replied", "done"));
    }
}

#[tokio::test]
async fn a_reply_proves_that_its_worker_has_the_run() {
    let broker = broker(&["--proof-timeout", "3s", "--dispatch-budget", "8s"]);
    let mut poll = waiting(&broker, &pool()).await;
    let mut caller = Caller::post(broker.dispatch, &pool(), "?reply=30s", "").await;
    // It does not close its poll, so that nothing else shows that it has read the run.
    while !String::from_utf8_lossy(poll.answered_so_far()).ends_with("\r\n\r\nrun") {
        assert!(poll.next_bytes().await);
    }
    let run = String::from_utf8(poll.answered_so_far().to_vec()).unwrap();
    let target = run.lines().find_map(|line| line.strip_prefix("pilotlight-reply: ")).unwrap();
    let begun = Instant::now();
    assert_eq!(broker.client().await.ask(whole(target, "", "done")).await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "done"));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(broker.metric("pilotlight_offers_total{verdict=\"received\"}").await, 1);
}

#[tokio::test]
async fn an_offer_that_was_given_up_has_a_token_no_more() {
    let broker = broker(&["--proof-timeout", "100ms"]);
    let mut frozen = waiting(&broker, &pool()).await;
    let mut caller = Caller::post(broker.dispatch, &pool(), "?reply=30s", "").await;
    while !String::from_utf8_lossy(frozen.answered_so_far()).ends_with("\r\n\r\nrun") {
        assert!(frozen.next_bytes().await);
    }
    let run = String::from_utf8(frozen.answered_so_far().to_vec()).unwrap();
    let target = run.lines().find_map(|line| line.strip_prefix("pilotlight-reply: ")).unwrap();
    let reply = caller.reply().await;
    assert_eq!((reply.head.status, reply.outcome().1), (504, "unknown"));
    assert_eq!(broker.client().await.ask(whole(target, "", "late")).await.problem(), "reply-gone");
    // With redelivery, another worker replies.
    let mut frozen = waiting(&broker, &pool()).await;
    let mut caller = Caller::post(broker.dispatch, &pool(), "?reply=30s&redeliver=true&wait=1s", "").await;
    while !String::from_utf8_lossy(frozen.answered_so_far()).ends_with("\r\n\r\nrun") {
        assert!(frozen.next_bytes().await);
    }
    let run = String::from_utf8(frozen.answered_so_far().to_vec()).unwrap();
    let old = run.lines().find_map(|line| line.strip_prefix("pilotlight-reply: ")).unwrap();
    let mut second = waiting(&broker, &pool()).await;
    let target = target_of(&mut second).await;
    assert_eq!(broker.client().await.ask(whole(old, "", "late")).await.problem(), "reply-gone");
    assert_eq!(broker.client().await.ask(whole(&target, "", "done")).await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "done"));
}

async fn target_of(worker: &mut Client) -> String {
    target(&worker.answer().await)
}

#[tokio::test]
async fn workers_on_websockets_and_event_streams_reply_as_all_others() {
    let broker = broker(&["--proof-timeout", "10s", "--dispatch-budget", "15s"]);
    let mut socket = WebSocket::held(&broker, &pool(), "w1", 1).await;
    let mut caller = Caller::post(broker.dispatch, &pool(), "?reply=30s", "").await;
    let target = socket.run().await.reply.unwrap();
    // The reply is the receipt, so that nothing else is sent.
    assert_eq!(broker.client().await.ask(whole(&target, "", "socket")).await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "socket"));
    drop(socket);
    broker.wait_for_waiters(0).await;
    let mut stream = EventStream::held(&broker, &pool(), "w1", 1).await;
    caller.client.send(dispatch(&pool(), "?reply=30s", "")).await;
    let run = stream.run().await;
    assert_eq!(broker.client().await.ask(whole(&run.reply.unwrap(), "", "stream")).await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "stream"));
    let freed = broker.client().await.ask(support::offers::post(&run.ready)).await;
    assert_eq!(freed.status, 204);
    broker.wait_for_waiters(1).await;
}

#[tokio::test]
async fn a_drain_lets_replies_end_and_breaks_off_the_rest() {
    let mut broker = broker(&["--drain-window", "2s"]);
    let HandedOver { mut caller, target } = handed_over(&broker).await;
    let HandedOver { caller: mut broken, target: open_target } = handed_over(&broker).await;
    let mut hanging = open(broker.public, &open_target, "").await;
    hanging.send(chunk("abc")).await;
    let head = broken.head().await;
    broker.signal(rustix::process::Signal::TERM);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(broker.client().await.ask(whole(&target, "", "done")).await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "done"));
    let reply = broken.rest_after(head).await;
    assert_eq!((reply.outcome(), reply.is_whole), ((200, "replied", "abc"), false));
    assert!(broker.ended().await.success());
}

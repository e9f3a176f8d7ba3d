//! Owns the end-to-end tests of workers that promise to open their replies at once: they keep their connection from run to run.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use support::client::Client;
use support::replies::{Caller, END, chunk, dispatch, opening, target, whole};
use support::{Broker, Pool};

const EARLY: &str = "pilotlight-controller: w1\r\npilotlight-reply: early\r\n";

fn broker(arguments: &[&str]) -> Broker {
    Broker::proving("received", arguments)
}

fn pool() -> Pool {
    Pool::small("d1")
}

fn poll(fields: &str) -> String {
    format!("GET {} HTTP/1.1\r\nhost: b\r\n{fields}\r\n", pool().path())
}

/// A worker that waits, and promises to open its replies at once.
async fn waiting_early(broker: &Broker) -> Client {
    let before = broker.waiters("").await;
    let mut worker = broker.client().await;
    worker.send(poll(EARLY)).await;
    broker.wait_for_waiters(before + 1).await;
    worker
}

async fn offers(broker: &Broker, verdict: &str) -> u64 {
    broker.metric(&format!("pilotlight_offers_total{{verdict=\"{verdict}\"}}")).await
}

#[tokio::test]
async fn one_connection_carries_run_after_run() {
    let broker = broker(&[]);
    let mut worker = waiting_early(&broker).await;
    let mut caller = Caller::post(broker.dispatch, &pool(), "?reply=30s", "").await;
    for body in ["one", "two", "three"] {
        let run = worker.answer().await;
        assert_eq!((run.status, run.header("connection")), (200, None), "it is kept");
        assert!(run.header("keep-alive").is_some());
        // By then the broker would have ended its side of a connection whose end is awaited.
        tokio::time::sleep(Duration::from_millis(100)).await;
        worker.send(opening(&target(&run), "")).await;
        worker.send(chunk(body)).await;
        worker.send(END).await;
        let answer = worker.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (200, None));
        assert_eq!(caller.reply().await.outcome(), (200, "replied", body));
        worker.send(poll(EARLY)).await;
        broker.wait_for_waiters(1).await;
        caller.client.send(dispatch(&pool(), "?reply=30s", "")).await;
    }
    assert_eq!(offers(&broker, "received").await, 3);
}

#[tokio::test]
async fn a_reply_on_another_connection_proves_as_much_and_frees_the_first_one() {
    let broker = broker(&[]);
    let mut worker = waiting_early(&broker).await;
    let mut caller = Caller::post(broker.dispatch, &pool(), "?reply=30s", "").await;
    let target = target(&worker.answer().await);
    assert_eq!(broker.client().await.ask(whole(&target, "", "done")).await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "done"));
    worker.send(poll(EARLY)).await;
    broker.wait_for_waiters(1).await;
}

#[tokio::test]
async fn a_promise_that_is_not_kept_costs_the_offer_and_the_connection() {
    let broker = broker(&["--proof-timeout", "1s", "--dispatch-budget", "8s"]);
    for polls_again in [false, true] {
        let mut silent = waiting_early(&broker).await;
        let mut caller =
            Caller::post(broker.dispatch, &pool(), "?reply=30s&redeliver=true&wait=4s", "").await;
        let old = target(&silent.answer().await);
        if polls_again {
            silent.send(poll("pilotlight-controller: w2\r\n")).await;
            broker.wait_for_waiters(1).await;
        }
        assert!(silent.ends_with_a_reset().await);
        // The run waits for the next worker, which is claimed at once.
        let target = target(&broker.client().await.ask(poll("")).await);
        assert_eq!(broker.client().await.ask(whole(&old, "", "late")).await.problem(), "reply-gone");
        assert_eq!(broker.client().await.ask(whole(&target, "", "done")).await.status, 200);
        assert_eq!(caller.reply().await.outcome(), (200, "replied", "done"));
        broker.wait_for_waiters(0).await;
    }
    assert_eq!(offers(&broker, "frozen").await, 2);
}

/// The worker keeps its promise although nobody listens any more, and is not taken for frozen or killed.
#[tokio::test]
async fn a_caller_that_leaves_costs_its_worker_nothing() {
    let broker = broker(&["--proof-timeout", "300ms"]);
    for (left, body) in
        ["content-length: 4\r\n\r\ndone", "transfer-encoding: chunked\r\n\r\n"].into_iter().enumerate()
    {
        let mut worker = waiting_early(&broker).await;
        let caller = Caller::post(broker.dispatch, &pool(), "?reply=30s", "").await;
        let first = target(&worker.answer().await);
        drop(caller);
        broker.wait_for_metric("pilotlight_replies_total{outcome=\"cancelled\"}", left as u64 + 1).await;
        let answer = worker.ask(format!("POST {first} HTTP/1.1\r\nhost: b\r\n{body}")).await;
        assert_eq!(answer.problem(), "reply-gone");
        if answer.header("connection").is_none() {
            worker.send(poll(EARLY)).await;
            broker.wait_for_waiters(1).await;
            let mut caller = Caller::post(broker.dispatch, &pool(), "?reply=30s", "").await;
            let second = target(&worker.answer().await);
            worker.send(opening(&second, "")).await;
            // The time of the first offer is over by then.
            tokio::time::sleep(Duration::from_millis(600)).await;
            worker.send([&chunk("done"), END].concat()).await;
            assert_eq!(worker.answer().await.status, 200);
            assert_eq!(caller.reply().await.outcome(), (200, "replied", "done"));
        }
    }
    broker.wait_for_metric("pilotlight_offers_total{verdict=\"received\"}", 3).await;
    assert_eq!(offers(&broker, "lost").await + offers(&broker, "frozen").await, 0);
}

#[tokio::test]
async fn an_end_of_the_connection_proves_what_it_always_proves() {
    let broker = broker(&[]);
    // Without a reply to open, nothing but the end can be the proof.
    let mut worker = waiting_early(&broker).await;
    let mut supervisor = broker.client().await;
    supervisor.send(dispatch(&pool(), "", "")).await;
    let run = worker.answer().await;
    assert_eq!(run.header("connection"), Some("close"));
    drop(worker);
    assert_eq!(supervisor.answer().await.json()["proof"], "received");
    // A proxy may hold the reply back.
    let mut worker = broker.client().await;
    worker.send(poll(&format!("{EARLY}x-forwarded-for: 192.0.2.1\r\n"))).await;
    broker.wait_for_waiters(1).await;
    let mut caller = Caller::post(broker.dispatch, &pool(), "?reply=30s", "").await;
    let run = worker.answer().await;
    assert_eq!(run.header("connection"), Some("close"));
    assert_eq!(broker.client().await.ask(whole(&target(&run), "", "done")).await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "done"));
    // One that closes its connection after all may reply on another one.
    let mut worker = waiting_early(&broker).await;
    let mut caller = Caller::post(broker.dispatch, &pool(), "?reply=30s", "").await;
    let target = target(&worker.answer().await);
    drop(worker);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(offers(&broker, "received").await, 2);
    assert_eq!(broker.client().await.ask(whole(&target, "", "done")).await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "done"));
}

#[tokio::test]
async fn a_worker_that_is_killed_before_it_opens_its_reply_may_have_the_run() {
    let broker = broker(&["--proof-timeout", "5s"]);
    let worker = waiting_early(&broker).await;
    let mut caller = Caller::post(broker.dispatch, &pool(), "?reply=30s", "").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let begun = Instant::now();
    // What it has not read makes its end a reset, and its kernel has acknowledged the run.
    drop(worker);
    let reply = caller.reply().await;
    assert_eq!((reply.head.status, reply.outcome().1), (504, "unknown"));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(offers(&broker, "lost").await, 1);
}

#[tokio::test]
async fn a_worker_that_dies_with_its_reply_open_breaks_it_at_once() {
    let broker = broker(&[]);
    for begins in [false, true] {
        let mut worker = waiting_early(&broker).await;
        let mut caller = Caller::post(broker.dispatch, &pool(), "?reply=30s", "").await;
        let run = worker.answer().await;
        worker.send(opening(&target(&run), "")).await;
        if begins {
            worker.send(chunk("abc")).await;
            let head = caller.head().await;
            drop(worker);
            let reply = caller.rest_after(head).await;
            assert_eq!((reply.outcome(), reply.is_whole), ((200, "replied", "abc"), false));
        } else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let begun = Instant::now();
            drop(worker);
            let reply = caller.reply().await;
            assert_eq!((reply.head.status, reply.outcome().1), (502, "reply_broken"));
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        }
    }
}

#[tokio::test]
async fn a_large_run_is_written_before_the_reply_counts() {
    let broker = broker(&["--body-limit", "8MB", "--proof-timeout", "10s", "--dispatch-budget", "20s"]);
    let mut worker = waiting_early(&broker).await;
    let payload = "x".repeat(6 << 20);
    let request = format!(
        "POST {}?reply=30s HTTP/1.1\r\nhost: b\r\ncontent-length: {}\r\n\r\n{payload}",
        pool().path(),
        payload.len()
    );
    let mut caller = broker.client().await;
    caller.send(request).await;
    // The kernel's queues are full by then.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let run = worker.answer().await;
    assert_eq!((run.body.len(), run.header("connection")), (payload.len(), None));
    assert_eq!(worker.ask(whole(&target(&run), "", "done")).await.status, 200);
    assert_eq!(caller.answer().await.body, b"done");
    worker.send(poll(EARLY)).await;
    broker.wait_for_waiters(1).await;
}

/// The reply may come in the moment in which its time is over: the run has one end, which both sides see.
#[tokio::test]
async fn a_reply_at_the_last_moment_counts_or_is_told_that_it_came_late() {
    let broker = broker(&["--proof-timeout", "50ms"]);
    let (mut replied, mut late) = (0, 0);
    for round in 0..60 {
        let mut worker = waiting_early(&broker).await;
        let mut caller = Caller::post(broker.dispatch, &pool(), "?reply=30s", "").await;
        let target = target(&worker.answer().await);
        tokio::time::sleep(Duration::from_millis(20) + Duration::from_millis(1) * round).await;
        let is_sent = worker.try_send(whole(&target, "", "done")).await;
        let answer = if is_sent { worker.try_answer().await } else { None };
        let reply = caller.reply().await;
        match reply.outcome() {
            (200, "replied", "done") => {
                replied += 1;
                assert_eq!(answer.unwrap().status, 200);
            }
            (504, "unknown", _) => {
                late += 1;
                assert!(answer.is_none_or(|answer| answer.status == 410));
            }
            (502, "reply_broken", _) => assert!(answer.is_none()),
            other => panic!("{other:?}"),
        }
        broker.wait_for_waiters(0).await;
    }
    assert!(replied > 0 && late > 0, "{replied} replied, {late} late");
}

#[tokio::test]
async fn another_promise_is_refused() {
    let broker = broker(&[]);
    for fields in ["pilotlight-reply: late\r\n", "pilotlight-reply:\r\n", &EARLY.repeat(2)] {
        let answer = broker.client().await.ask(poll(fields)).await;
        assert_eq!((answer.status, &*answer.problem()), (400, "bad-parameter"), "{fields}");
    }
}

//! Owns the tests of what is told of replies: in the metrics, in `/events`, and in `/runs`, from memory and from a file.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use serde_json::Value;
use support::Broker;
use support::client::{Answer, Client};
use support::events::Events;

const POOL: &str = "/v1/pools/d1/1/0.5/1";

/// A worker that waits for a run.
async fn worker(broker: &Broker) -> Client {
    let mut worker = broker.client().await;
    worker.send(format!("GET {POOL} HTTP/1.1\r\nhost: b\r\n\r\n")).await;
    broker.wait_for_waiters(1).await;
    worker
}

/// A caller that has posted a run with this name.
async fn caller(broker: &Broker, query: &str, run: &str) -> Client {
    let mut caller = broker.client().await;
    let head = format!("POST {POOL}{query} HTTP/1.1\r\nhost: b\r\npilotlight-run: {run}\r\n");
    caller.send(format!("{head}content-length: 1\r\n\r\nx")).await;
    caller
}

/// Where the worker that has this run replies to it.
fn target(run: &Answer) -> &str {
    run.header("pilotlight-reply").expect("somebody waits for the reply")
}

fn answer_with(target: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nhost: b\r\npilotlight-status: 201\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// One run of each end, and one that has none.
async fn act(broker: &Broker) {
    // Each connection is kept to the end, so that nobody seems to leave.
    let mut waiting = worker(broker).await;
    let mut replied = caller(broker, "?reply=20s", "replied").await;
    let run = waiting.answer().await;
    assert_eq!(broker.client().await.ask(answer_with(target(&run), "hello")).await.status, 200);
    let answer = replied.answer().await;
    assert_eq!((answer.status, answer.header("pilotlight-outcome")), (201, Some("replied")));
    // It is answered like the first POST, and is not the one that has the reply.
    let again = caller(broker, "", "replied").await.answer().await;
    assert_eq!(again.json()["delivered"], true);

    let mut waiting = worker(broker).await;
    let mut failed = caller(broker, "?reply=20s", "failed").await;
    let run = waiting.answer().await;
    let error = target(&run).replace("/reply?", "/error?");
    let head = format!("POST {error} HTTP/1.1\r\nhost: b\r\ncontent-length: 3\r\n\r\nbad");
    assert_eq!(broker.client().await.ask(head).await.status, 200);
    assert_eq!(failed.answer().await.status, 502);

    let mut waiting = worker(broker).await;
    let mut late = caller(broker, "?reply=100ms", "late").await;
    waiting.answer().await;
    assert_eq!(late.answer().await.status, 504);

    let mut waiting = worker(broker).await;
    let mut broken = caller(broker, "?reply=20s", "broken").await;
    let run = waiting.answer().await;
    let mut breaking = broker.client().await;
    let head = format!("POST {} HTTP/1.1\r\nhost: b\r\ncontent-length: 9\r\n\r\n", target(&run));
    breaking.send(head).await;
    drop(breaking);
    assert_eq!(broken.answer().await.status, 502);

    let mut waiting = worker(broker).await;
    let leaving = caller(broker, "?reply=20s", "left").await;
    waiting.answer().await;
    broker.wait_for_metric("pilotlight_replies_open", 1).await;
    drop(leaving);
    broker.wait_for_metric("pilotlight_replies_open", 0).await;

    assert_eq!(caller(broker, "?reply=20s", "missed").await.answer().await.status, 503);
}

/// The outcome, the status and the bytes of a reply.
fn end(reply: &Value) -> (&str, Option<u64>, u64) {
    let first_byte = reply["first_byte_seconds"].as_f64();
    let took = reply["seconds"].as_f64().unwrap();
    assert!(took > 0.0 && took < 20.0 && first_byte.is_none_or(|first| first <= took), "{reply}");
    assert_eq!(first_byte.is_some(), reply["bytes"] != 0, "{reply}");
    (reply["outcome"].as_str().unwrap(), reply["status"].as_u64(), reply["bytes"].as_u64().unwrap())
}

/// An outcome, a status and a number of bytes.
type ReplyEnd = (&'static str, Option<u64>, u64);

/// Each run with the end of its reply.
const ENDS: [(&str, ReplyEnd); 5] = [
    ("replied", ("replied", Some(201), 5)),
    ("failed", ("worker_error", Some(502), 3)),
    ("late", ("reply_timeout", Some(504), 0)),
    ("broken", ("reply_broken", Some(502), 0)),
    ("left", ("cancelled", None, 0)),
];

#[tokio::test]
async fn each_end_of_a_reply_is_in_the_history_the_events_and_the_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.db");
    for arguments in [&[][..], &["--history", file.to_str().unwrap()]] {
        let broker = Broker::start(arguments);
        let mut events = Events::follow(&broker, "/events?kind=reply&deployment=d1", None).await;
        let mut of_one = Events::follow(&broker, "/events?kind=reply&run=late", None).await;
        act(&broker).await;
        for (run, expected) in ENDS {
            let event = events.next_of_any_kind().await;
            assert_eq!((event.kind.as_str(), event.data["run"].as_str()), ("reply", Some(run)));
            assert_eq!(end(&event.data), expected, "{run}");
            assert_eq!((&event.data["version"], &event.data["cpu"]), (&"1".into(), &0.5.into()));
            if run == "late" {
                assert_eq!(of_one.next_of_any_kind().await.data, event.data);
            }

            let rows = async || {
                let (_, body) = broker.operate("GET", &format!("/runs/{run}")).await;
                serde_json::from_str::<Value>(&body).unwrap()["runs"].as_array().cloned().unwrap_or_default()
            };
            // The latest row is first.
            let is_there = async || rows().await.last().is_some_and(|row| !row["reply"].is_null());
            broker.wait_until(&format!("the reply to {run} is in the history"), is_there).await;
            let rows = rows().await;
            assert_eq!(rows.len(), if run == "replied" { 2 } else { 1 }, "{run}");
            assert_eq!(rows.last().unwrap()["outcome"], "hit");
            assert_eq!(end(&rows.last().unwrap()["reply"]), expected, "{run}");
            assert!(rows.len() == 1 || rows[0].get("reply").is_none(), "{rows:?}");

            let outcome = format!("pilotlight_replies_total{{outcome=\"{}\"}}", expected.0);
            assert_eq!(broker.metric(&outcome).await, 1, "{run}");
        }
        let (_, missed) = broker.operate("GET", "/runs/missed").await;
        assert!(missed.contains("\"miss\"") && !missed.contains("\"reply\""), "{missed}");
        assert_eq!(broker.metric("pilotlight_replies_total{outcome=\"miss\"}").await, 1);
        assert_eq!(broker.metric("pilotlight_replies_open").await, 0);
        assert_eq!(broker.metric("pilotlight_reply_seconds_count{byte=\"first\"}").await, 2);
        assert_eq!(broker.metric("pilotlight_reply_bytes_sum").await, 8);
        assert_eq!(
            broker.metric("pilotlight_http_requests_total{code_class=\"2xx\",route=\"reply\"}").await,
            2
        );
    }
}

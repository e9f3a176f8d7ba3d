//! Owns the tests of the journal: events, the history, and traces.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use support::client::Client;
use support::events::Events;
use support::{Broker, PATIENCE, Pool, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

async fn get(broker: &Broker, target: &str) -> (u16, Value) {
    let (status, body) = broker.operate("GET", target).await;
    (status, serde_json::from_str(&body).unwrap())
}

/// The rows of a query, once there are `count` of them.
async fn runs(broker: &Broker, query: &str, count: usize) -> Vec<Value> {
    let rows = async || get(broker, query).await.1["runs"].as_array().cloned().unwrap_or_default();
    broker.wait_until(&format!("{count} rows of {query}"), async || rows().await.len() == count).await;
    rows().await
}

#[tokio::test]
async fn a_subscriber_sees_a_run_from_poll_to_proof() {
    let broker = Broker::start(&[]);
    let mut events = Events::follow(&broker, "/events", None).await;
    let pool = Pool::small("d1");
    // Polls are recorded once the journal has noticed the subscriber, which it has when this event arrives.
    broker.post(&pool.body("run_0")).await;
    assert_eq!(events.next("dispatch").await.data["reason"], "no_pool");
    let _one = broker.held_poll(&pool, "one").await;
    let poll = events.next("poll").await;
    assert_eq!(
        (&poll.data["deployment"], &poll.data["end"]),
        (&pool.deployment.clone().into(), &Value::Null)
    );
    assert_eq!(broker.post(&pool.body("run_7")).await.1["didWarmStart"], true);
    let ended = events.next("poll").await;
    assert_eq!(
        (ended.data["controller"].as_str(), ended.data["end"].as_str()),
        (Some("one"), Some("matched"))
    );
    let verdict = events.next("verdict").await;
    assert_eq!(
        (verdict.data["run"].as_str(), verdict.data["verdict"].as_str()),
        (Some("run_7"), Some("written"))
    );
    let dispatch = events.next("dispatch").await;
    for (name, expected) in [
        ("run", "run_7"),
        ("outcome", "hit"),
        ("proof", "written"),
        ("controller", "one"),
        ("version", "20260821.3"),
    ] {
        assert_eq!(dispatch.data[name], expected, "{dispatch:?}");
    }
    assert_eq!(broker.operate("POST", "/retire?deployment=nobody").await.0, 200);
    assert_eq!(events.next("retire").await.data["retired"], 0);
    assert_eq!(broker.operate("POST", "/drain").await.0, 200);
    assert!(events.next("drain").await.data["waiters"].is_number());
}

#[tokio::test]
async fn a_subscriber_that_resumes_misses_nothing() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut events = Events::follow(&broker, "/events?kinds=dispatch", None).await;
    broker.post(&pool.body("run_1")).await;
    let first = events.next("dispatch").await;
    drop(events);
    for run in ["run_2", "run_3"] {
        broker.post(&pool.body(run)).await;
    }
    let mut again = Events::follow(&broker, "/events?kinds=dispatch", Some(&first.id)).await;
    assert_eq!(again.next("dispatch").await.data["run"], "run_2");
    assert_eq!(again.next("dispatch").await.data["run"], "run_3");
    // An id of an earlier process is recognized as such.
    let mut stranger = Events::follow(&broker, "/events", Some("0-1")).await;
    assert_eq!(stranger.next("dispatch").await.data["run"], "run_1");
    assert_eq!(get(&broker, "/events?kinds=gossip").await.0, 400);
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_disconnected_and_counted() {
    let broker = Broker::start(&[]);
    let mut events = Events::follow(&broker, "/events", None).await;
    let mut supervisor = broker.client().await;
    let body = Pool::small("d1").body("run_1");
    let request = post("/warm-start", &body);
    let until = std::time::Instant::now() + PATIENCE * 3;
    while broker.metric("pilotlight_events_cut_off_total").await == 0 {
        assert!(std::time::Instant::now() < until, "never disconnected");
        for _ in 0..500 {
            assert_eq!(supervisor.ask(&request).await.status, 200);
        }
    }
    // What was sent before can be read, and then the stream ends.
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, events.stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(broker.metric("pilotlight_events_dropped_total").await, 0);
}

#[tokio::test]
async fn the_latest_runs_are_kept_without_a_file() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let _one = broker.held_poll(&pool, "one").await;
    broker.post(&pool.body("run_1")).await;
    broker.post(&pool.body("run_2")).await;
    let rows = runs(&broker, "/runs", 2).await;
    assert_eq!((rows[0]["run"].as_str(), rows[0]["outcome"].as_str()), (Some("run_2"), Some("miss")));
    assert_eq!((rows[1]["run"].as_str(), rows[1]["controller"].as_str()), (Some("run_1"), Some("one")));
    check_queries(&broker).await;
}

async fn check_queries(broker: &Broker) {
    for (query, count) in [
        ("/runs/run_1", 1),
        ("/runs?outcome=miss", 1),
        ("/runs?outcome=hit&deployment=d1", 1),
        ("/runs?deployment=d2", 0),
        ("/runs?since=1h", 2),
        ("/runs?since=2020-01-01T00:00:00Z&limit=1", 1),
        ("/runs?since=9999999999999", 0),
    ] {
        assert_eq!(runs(broker, query, count).await.len(), count, "{query}");
    }
    assert_eq!(get(broker, "/runs/run_9").await.0, 404);
    for query in [
        "/runs?outcome=maybe",
        "/runs?since=soon",
        "/runs?since=18446744073709551615",
        "/runs?color=red",
        "/runs?limit=x",
    ] {
        assert_eq!(get(broker, query).await.0, 400, "{query}");
    }
}

#[tokio::test]
async fn a_history_survives_a_kill_and_opens_in_plain_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.db");
    let history = ["--history", file.to_str().unwrap()];
    let mut broker = Broker::start(&history);
    let pool = Pool::small("d1");
    let _one = broker.held_poll(&pool, "one").await;
    broker.post(&pool.body("run_1")).await;
    broker.post(&pool.body("run_2")).await;
    check_queries(&broker).await;
    runs(&broker, "/runs", 2).await;
    broker.child.kill().unwrap();
    broker.child.wait().unwrap();
    assert_eq!(
        sqlite(&file, "SELECT run || ' ' || outcome FROM dispatches ORDER BY id"),
        "run_1 hit\nrun_2 miss\n"
    );
    assert_eq!(sqlite(&file, "PRAGMA user_version"), "1\n");
    let broker = Broker::start(&history);
    check_queries(&broker).await;
    broker.post(&pool.body("run_3")).await;
    // A graceful shutdown writes what is still queued.
    shut_down(broker).await;
    assert_eq!(sqlite(&file, "SELECT count(*) FROM dispatches"), "3\n");
}

async fn shut_down(mut broker: Broker) {
    broker.signal(Signal::TERM);
    let until = std::time::Instant::now() + PATIENCE;
    while broker.child.try_wait().unwrap().is_none() {
        assert!(std::time::Instant::now() < until, "the broker did not exit");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn sqlite(file: &Path, statement: &str) -> String {
    let output =
        Command::new("sqlite3").arg(file).arg(statement).output().expect("sqlite3, which tests/run installs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_file_that_is_not_a_history_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.db");
    sqlite(&other, "CREATE TABLE things (id INTEGER); PRAGMA user_version = 7");
    for (file, why) in [(other, "not a history of this version"), (folder.path().into(), "cannot be used")] {
        let output = Command::new(env!("CARGO_BIN_EXE_pilotlight"))
            .args(["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--history"])
            .arg(&file)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_history_deletes_its_oldest_rows() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.db");
    let history = ["--history", file.to_str().unwrap(), "--history-age", "1m"];
    drop(Broker::start(&history));
    sqlite(
        &file,
        "INSERT INTO dispatches (at, run, deployment, version, cpu, memory, outcome, offers, seconds) \
         VALUES (1000, 'run_old', 'd', 'v', 1, 1, 'miss', 0, 0)",
    );
    let broker = Broker::start(&history);
    broker.post(&Pool::small("d1").body("run_new")).await;
    let only_new = async || {
        let rows = get(&broker, "/runs").await.1["runs"].as_array().cloned().unwrap();
        rows.len() == 1 && rows[0]["run"] == "run_new"
    };
    broker.wait_until("the old run is deleted", only_new).await;
}

#[tokio::test]
async fn a_page_of_another_origin_may_not_change_anything() {
    let broker = Broker::start(&[]);
    let ask = async |fields: &str| {
        let mut client = Client::connect(broker.ops).await;
        client.ask(format!("POST /drain HTTP/1.1\r\nhost: localhost:7071\r\n{fields}\r\n")).await
    };
    for foreign in [
        "origin: http://evil.example\r\n",
        "origin: null\r\n",
        "sec-fetch-site: cross-site\r\n",
        "sec-fetch-site: same-site\r\norigin: http://localhost:7071\r\n",
    ] {
        let answer = ask(foreign).await;
        assert_eq!((answer.status, answer.problem().as_str()), (403, "foreign-page"));
    }
    assert_eq!(broker.operate("GET", "/readyz").await.0, 200);
    assert_eq!(ask("origin: http://localhost:7071\r\n").await.status, 200);
    let behind_a_proxy = "origin: https://ops.example\r\nsec-fetch-site: same-origin\r\n";
    assert_eq!(ask(behind_a_proxy).await.status, 200);
    assert_eq!(broker.operate("GET", "/readyz").await.0, 503);
}

#[tokio::test]
async fn a_dispatch_continues_its_supervisors_trace() {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use prost::Message as _;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    #[expect(clippy::disallowed_methods, reason = "awaited below")]
    let collector = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        let mut stream = tokio::io::BufReader::new(stream);
        loop {
            let read = stream.read_buf(&mut request).await.unwrap();
            assert!(read > 0, "ended early");
            let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = String::from_utf8(request[..end].to_vec()).unwrap().to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if request.len() == end + 4 + length.parse::<usize>().unwrap() {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                assert!(head.starts_with("post /v1/traces "), "{head}");
                return ExportTraceServiceRequest::decode(&request[end + 4..]).unwrap();
            }
        }
    });
    let broker = Broker::start(&["--otlp", &url]);
    let pool = Pool::small("d1");
    let _one = broker.held_poll(&pool, "one").await;
    let body = pool.body("run_1");
    let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    let request = post("/warm-start", &body).replacen("content-type", &format!("{trace}content-type"), 1);
    assert_eq!(broker.client().await.ask(request).await.json()["didWarmStart"], true);
    let export = tokio::time::timeout(PATIENCE, collector).await.unwrap().unwrap();
    let span = &export.resource_spans[0].scope_spans[0].spans[0];
    assert_eq!(span.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(span.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!(span.name, "dispatch");
    let events: Vec<&str> = span.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(events, ["match", "offer", "proof"]);
    assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
}

#[tokio::test]
async fn an_offer_that_outlives_its_post_is_in_the_history() {
    let broker = Arc::new(Broker::proving("received", &["--proof-timeout", "400ms"]));
    let pool = Pool::small("d1");
    // The controller's kernel acknowledges, but the controller never reads, so the proof takes until its timeout.
    let _one = broker.held_poll(&pool, "one").await;
    let mut supervisor = broker.client().await;
    supervisor.send(post("/warm-start", &pool.body("run_1"))).await;
    broker.wait_for_waiters(0).await;
    drop(supervisor);
    let rows = runs(&broker, "/runs/run_1", 1).await;
    assert_eq!((rows[0]["outcome"].as_str(), rows[0]["offers"].as_u64()), (Some("aborted"), Some(1)));
}

#[tokio::test]
async fn the_end_waits_for_an_offer_that_outlives_its_post() {
    for is_at_once in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("history.db");
        let history = ["--history", file.to_str().unwrap(), "--drain-window", "0s"];
        let times = ["--proof-timeout", "2s", "--dispatch-budget", "5s"];
        let mut broker = Broker::proving("received", &[history, times].concat());
        let pool = Pool::small("d1");
        let _one = broker.held_poll(&pool, "one").await;
        let mut supervisor = broker.client().await;
        supervisor.send(post("/warm-start", &pool.body("run_1"))).await;
        broker.wait_for_waiters(0).await;
        drop(supervisor);
        broker.wait_for_metric("pilotlight_dispatches_total{outcome=\"aborted\",reason=\"none\"}", 1).await;
        broker.signal(Signal::TERM);
        if is_at_once {
            let draining = async || broker.operate("GET", "/readyz").await.0 == 503;
            broker.wait_until("the signal has its effect", draining).await;
            broker.signal(Signal::TERM);
        }
        assert!(broker.ended().await.success());
        let file = rusqlite::Connection::open(&file).unwrap();
        let rows = file.query_row("SELECT run, outcome, offers FROM dispatches", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        });
        // After a second signal, the row does not count the offer, which has no verdict.
        let offers = u32::from(!is_at_once);
        assert_eq!(rows.unwrap(), ("run_1".to_owned(), "aborted".to_owned(), offers));
    }
}

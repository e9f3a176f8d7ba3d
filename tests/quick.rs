//! Owns the test that the fast path and hyper answer every request alike.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use support::client::Client;
use support::{Broker, Pool, post};

/// A request that takes longer than this to arrive is read by hyper.
const BEYOND_GRACE: Duration = Duration::from_millis(200);
/// A response comes within this time; a held poll is silent for longer.
const ANSWERED: Duration = Duration::from_millis(600);

/// Sends a request in two parts with a pause between them, and returns everything that comes back.
async fn send(broker: &Broker, request: &[u8], first: usize, pause: Duration) -> String {
    let mut client = Client::connect(broker.public).await;
    let (first, second) = request.split_at(first.min(request.len()));
    client.send(first).await;
    tokio::time::sleep(pause).await;
    client.send(second).await;
    let answer = tokio::time::timeout(ANSWERED, client.rest()).await.map(<[u8]>::to_vec);
    let (held, answer) = match answer {
        Ok(answer) => ("closed", answer),
        Err(_) => ("open", client.answered_so_far().to_vec()),
    };
    let text = String::from_utf8(answer).unwrap();
    let lines = text.split_inclusive('\n').filter(|line| !line.starts_with("date: "));
    // A run without a name is given a random one.
    let named = |line: &str| line.find("run_").map_or(line.to_owned(), |at| line[..at].to_owned());
    format!("{held}: {}", lines.map(named).collect::<String>())
}

/// Checks that a request is answered alike whether it comes at once or slowly, and returns the response.
async fn check(broker: &Broker, request: &[u8]) -> String {
    // One after the other: a controller that polls twice at once would replace itself.
    let whole = send(broker, request, request.len(), Duration::ZERO).await;
    let halves = send(broker, request, request.len() / 2, Duration::from_millis(20)).await;
    let slow = send(broker, request, 1, BEYOND_GRACE).await;
    let shown = String::from_utf8_lossy(&request[..request.len().min(300)]);
    assert_eq!(whole, slow, "{shown}");
    assert_eq!(halves, slow, "in halves: {shown}");
    slow
}

fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let pool = Pool::small("d1");
    let body = pool.body("run_1");
    let run = |fields: &str| format!("POST /warm-start HTTP/1.1\r\n{fields}\r\n{body}").into_bytes();
    let length = body.len();
    let get = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\n{fields}\r\n").into_bytes();
    let poll = Pool::small("d2").poll("one");
    let with = |field: &str| poll.replacen("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"), 1).into_bytes();
    let many = "x-many: 1\r\n".repeat(40);
    let long = "x".repeat(5000);
    vec![
        ("200", get("/connect", "host: b\r\n")),
        ("200", get("/connect?x=1", "Host: b\r\nAccept: */*\r\n")),
        ("404", get("/nothing", "host: b\r\n")),
        ("404", get("/nothing%20here?q=%41", "host: b\r\n")),
        ("404", get("/../connect", "host: b\r\n")),
        ("414", get(&format!("/{long}"), "host: b\r\n")),
        ("200", get("/connect", "host: b\r\nconnection: close\r\n")),
        ("200", get("/connect", "host: b\r\nconnection: Keep-Alive, CLOSE\r\n")),
        ("200", get("/connect", &format!("host: b\r\n{many}"))),
        ("200", get("/connect", "host: b\r\ncontent-length: 0\r\n")),
        ("400", get("/connect", "host b\r\n")),
        ("400", get("/connect", "host: b\r\n bad: fold\r\n")),
        ("400", get("/connect", "host: b\r\nbad name: 1\r\n")),
        ("400", b"GET /connect HTTP/2.7\r\nhost: b\r\n\r\n".to_vec()),
        ("200", b"GET /connect HTTP/1.0\r\nhost: b\r\n\r\n".to_vec()),
        ("405", b"PUT /connect HTTP/1.1\r\nhost: b\r\n\r\n".to_vec()),
        ("405", b"POST /connect HTTP/1.1\r\nhost: b\r\ncontent-length: 2\r\n\r\n{}".to_vec()),
        ("405", b"get /warm-start HTTP/1.1\r\nhost: b\r\n\r\n".to_vec()),
        ("200", run(&format!("host: b\r\ncontent-length: {length}\r\n"))),
        ("200", run(&format!("HOST: b\r\nContent-Length: {length}\r\nX-Forwarded-For: 1.2.3.4\r\n"))),
        ("200", run(&format!("host: b\r\ncontent-length: {length}\r\nconnection: close\r\n"))),
        ("200", run(&format!("host: b\r\ncontent-length: {length}\r\ncontent-length: {length}\r\n"))),
        ("400", run(&format!("host: b\r\ncontent-length: {length}\r\ncontent-length: 7\r\n"))),
        ("400", run(&format!("host: b\r\ncontent-length: +{length}\r\n"))),
        ("400", run(&format!("host: b\r\ncontent-length: {length}, {length}\r\n"))),
        ("415", run(&format!("host: b\r\ncontent-length: {length}\r\ncontent-encoding: gzip\r\n"))),
        ("400", post("/warm-start", "").into()),
        ("400", post("/warm-start", "{\"dequeuedMessage\":7}").into()),
        ("400", post("/warm-start", "\u{feff}{}").into()),
        (
            "400",
            b"POST /warm-start HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
                .to_vec(),
        ),
        ("200", post("/v1/pools/d/v/1/1", "x").into()),
        ("200", post("/v1/pools/d%2fe/v/1/1?wait=1ms", "x").into()),
        ("400", post("/v1/pools/d/v/1/x", "x").into()),
        ("400", post("/v1/pools/d/v/1/1?wait=soon", "x").into()),
        ("400", get("/warm-start", "host: b\r\n")),
        ("400", with("x-trigger-machine-cpu: 1")),
        ("400", with("x-trigger-worker-instance-name: \u{e9}")),
        ("open: ", poll.clone().into_bytes()),
        ("closed: ", with("connection: keep-alive\r\n\r\nGET /connect HTTP/1.1")),
    ]
}

#[tokio::test]
async fn the_fast_path_and_hyper_answer_alike() {
    let broker = Arc::new(Broker::start(&["--max-waiters", "10000"]));
    let mut cases = JoinSet::new();
    for (expected, request) in corpus() {
        let broker = broker.clone();
        cases.spawn(async move {
            let answer = check(&broker, &request).await;
            let shown = String::from_utf8_lossy(&request[..request.len().min(200)]);
            assert!(answer.contains(expected), "{expected} expected: {answer}\nof {shown}");
        });
    }
    while let Some(case) = cases.join_next().await {
        case.unwrap();
    }
}

#[tokio::test]
async fn a_run_is_written_alike_after_the_fast_path_and_hyper() {
    let broker = Broker::start(&["--remember-runs", "0s"]);
    let pool = Pool::small("d1");
    let body = pool.body("run_1");
    let mut runs = Vec::new();
    for (pause, controller) in [(Duration::ZERO, "quick"), (BEYOND_GRACE, "slow")] {
        let mut client = broker.client().await;
        let poll = pool.poll(controller);
        client.send(&poll[..1]).await;
        tokio::time::sleep(pause).await;
        client.send(&poll[1..]).await;
        broker.wait_for_waiters(1).await;
        assert_eq!(broker.post(&body).await.1["didWarmStart"], true);
        let answer = client.answer().await;
        runs.push((answer.head, answer.body));
    }
    assert_eq!(runs[0], runs[1]);
}

#[tokio::test]
async fn a_supervisor_that_leaves_is_noticed_on_the_fast_path_even_after_stray_bytes() {
    let broker = Broker::start(&[]);
    for stray in ["", "\r\n"] {
        let before = broker.metric("pilotlight_dispatches_total{outcome=\"aborted\",reason=\"none\"}").await;
        let mut client = broker.client().await;
        client.send(post("/v1/pools/d/v/1/1?wait=1500ms", "x")).await;
        tokio::time::sleep(BEYOND_GRACE).await;
        client.send(stray).await;
        drop(client);
        broker
            .wait_for_metric("pilotlight_dispatches_total{outcome=\"aborted\",reason=\"none\"}", before + 1)
            .await;
    }
}

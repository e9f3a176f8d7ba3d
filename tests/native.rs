//! Owns the end-to-end tests of the broker's own dialect: opaque runs, names, waits and repeated POSTs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use support::client::{Answer, Client};
use support::{Broker, Pool};

const POOL: &str = "/v1/pools/my%2Fapp/1/0.5/1";

fn get(target: &str, headers: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: b\r\n{headers}\r\n")
}

fn post(target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("POST {target} HTTP/1.1\r\nhost: b\r\n{headers}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

async fn wait(broker: &Broker, request: &str) -> Client {
    let before = broker.waiters("").await;
    let mut client = broker.client().await;
    client.send(request).await;
    broker.wait_for_waiters(before + 1).await;
    client
}

async fn ask(broker: &Broker, request: impl AsRef<[u8]>) -> Answer {
    broker.client().await.ask(request).await
}

#[tokio::test]
async fn opaque_bytes_reach_the_controller_with_their_type_and_name() {
    let broker = Broker::start(&[]);
    let bytes: Vec<u8> = (0..=255).collect();
    let mut controller = wait(&broker, &get(POOL, "pilotlight-controller: worker-1\r\n")).await;
    let headers = "content-type: application/x-run; v=1\r\npilotlight-run: job-7\r\n";
    let answer = ask(&broker, post(POOL, headers, &bytes)).await;
    assert_eq!(answer.status, 200);
    let expected = serde_json::json!(
        {"delivered": true, "proof": "written", "offers": 1, "controller": "worker-1", "run": "job-7"}
    );
    assert_eq!(answer.json(), expected);
    let run = controller.answer().await;
    assert_eq!((run.status, run.header("content-type")), (200, Some("application/x-run; v=1")));
    assert_eq!(run.header("pilotlight-run"), Some("job-7"));
    assert_eq!(run.body, bytes);
}

#[tokio::test]
async fn a_run_without_name_or_type_gets_both() {
    let broker = Broker::start(&[]);
    let mut controller = wait(&broker, &get(POOL, "")).await;
    let answer = ask(&broker, post(POOL, "", b"")).await.json();
    let run = controller.answer().await;
    assert_eq!(run.header("content-type"), Some("application/octet-stream"));
    assert_eq!(run.header("pilotlight-run"), answer["run"].as_str());
    assert!(run.body.is_empty());
}

#[tokio::test]
async fn a_miss_says_why() {
    let broker = Broker::start(&[]);
    let answer = ask(&broker, post(POOL, "pilotlight-run: r\r\n", b"x")).await;
    let expected = serde_json::json!({"delivered": false, "reason": "no_pool", "offers": 0, "run": "r"});
    assert_eq!((answer.status, answer.json()), (200, expected));
}

#[tokio::test]
async fn a_wait_that_passes_is_answered_204_and_the_connection_waits_again() {
    let broker = Broker::start(&[]);
    let mut controller = broker.client().await;
    for _ in 0..3 {
        let begun = Instant::now();
        let answer = controller.ask(get(&format!("{POOL}?timeout=200ms"), "")).await;
        assert_eq!((answer.status, answer.body.len()), (204, 0));
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(1), "{took:?}");
    }
    controller.send(get(POOL, "")).await;
    broker.wait_for_waiters(1).await;
    ask(&broker, post(POOL, "", b"run")).await;
    assert_eq!(controller.answer().await.body, b"run");
}

#[tokio::test]
async fn a_run_can_wait_for_its_controller() {
    let broker = Broker::start(&[]);
    let target = format!("{POOL}?wait=1500ms");
    let mut supervisors = Vec::new();
    for number in 0..5 {
        let mut supervisor = broker.client().await;
        supervisor.send(post(&target, "", format!("run {number}").as_bytes())).await;
        supervisors.push(supervisor);
    }
    let mut received = Vec::new();
    for _ in &supervisors {
        let mut controller = broker.client().await;
        controller.send(get(POOL, "")).await;
        received.push(controller.answer().await.body);
    }
    for supervisor in &mut supervisors {
        assert_eq!(supervisor.answer().await.json()["delivered"], true);
    }
    received.sort();
    received.dedup();
    assert_eq!(received.len(), 5, "each run once");
}

#[tokio::test]
async fn a_wait_ends_within_the_budget() {
    let broker = Broker::start(&["--dispatch-budget", "300ms"]);
    let begun = Instant::now();
    let answer = ask(&broker, post(&format!("{POOL}?wait=30s"), "", b"x")).await;
    assert_eq!(answer.json()["reason"], "no_pool");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn a_supervisor_that_leaves_while_it_waits_claims_no_waiter() {
    let broker = Broker::start(&[]);
    let mut supervisor = broker.client().await;
    supervisor.send(post(&format!("{POOL}?wait=2s"), "", b"x")).await;
    assert!(supervisor.is_held().await);
    drop(supervisor);
    let aborted = "pilotlight_dispatches_total{outcome=\"aborted\",reason=\"none\"}";
    broker.wait_for_metric(aborted, 1).await;
    let mut controller = wait(&broker, &get(POOL, "")).await;
    assert!(controller.is_held().await);
    assert_eq!(broker.waiters("").await, 1);
}

#[tokio::test]
async fn a_run_posted_twice_is_delivered_once() {
    let broker = Broker::start(&[]);
    let run = post(POOL, "pilotlight-run: job-1\r\n", b"x");
    assert_eq!(ask(&broker, &run).await.json()["reason"], "no_pool", "a miss is not remembered");
    let mut first = wait(&broker, &get(POOL, "pilotlight-controller: a\r\n")).await;
    let mut second = wait(&broker, &get(POOL, "pilotlight-controller: b\r\n")).await;
    let answer = ask(&broker, &run).await.json();
    assert_eq!(answer["controller"], "b");
    assert_eq!(ask(&broker, &run).await.json(), answer);
    assert_eq!(second.answer().await.status, 200);
    assert!(first.is_held().await);
}

#[tokio::test]
async fn both_dialects_meet_in_one_pool() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut native = wait(&broker, &get(&pool.path(), "")).await;
    assert_eq!(broker.post(&pool.body("run_1")).await.1["didWarmStart"], true);
    let run = native.answer().await;
    assert_eq!(
        (run.header("pilotlight-run"), run.header("content-type")),
        (Some("run_1"), Some("application/json"))
    );
    let mut stock = broker.held_poll(&pool, "one").await;
    let opaque = ask(&broker, post(&pool.path(), "", b"not a message")).await;
    assert_eq!(opaque.json()["reason"], "not_a_message", "a stock controller would exit on it");
    assert!(stock.is_held().await);
    let message = pool.message("run_2").to_string();
    let headers = "content-type: application/json\r\n";
    assert_eq!(ask(&broker, post(&pool.path(), headers, message.as_bytes())).await.json()["delivered"], true);
    assert_eq!(stock.answer().await.body, message.as_bytes());
}

#[tokio::test]
async fn wrong_requests_get_a_problem_that_says_what_is_wrong() {
    let broker = Broker::start(&["--connection-timeout", "20s"]);
    for (request, kind) in [
        (get("/v1/pools/a/1/0.5", ""), "bad-key"),
        (get("/v1/pools/a/1/0.5/1/2", ""), "bad-key"),
        (get("/v1/pools//1/0.5/1", ""), "bad-key"),
        (get("/v1/pools/a/1/x/1", ""), "bad-key"),
        (get("/v1/pools/a%ff/1/1/1", ""), "bad-key"),
        (get("/v1/pools/a/1/1/-1", ""), "bad-key"),
        (get(&format!("{POOL}?timeout=soon"), ""), "bad-parameter"),
        (get(&format!("{POOL}?timeout=21s"), ""), "bad-parameter"),
        (get(&format!("{POOL}?wait=1s"), ""), "bad-parameter"),
        (get(POOL, "pilotlight-controller: a\r\npilotlight-controller: b\r\n"), "bad-parameter"),
    ] {
        let answer = ask(&broker, &request).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, kind), "{request}");
    }
    for (target, headers, kind) in [
        ("?redeliver=perhaps", "", "bad-parameter"),
        ("?proof=sworn", "", "bad-parameter"),
        ("?timeout=1s", "", "bad-parameter"),
        ("", "pilotlight-run: a\r\npilotlight-run: b\r\n", "bad-parameter"),
        ("", "content-encoding: br\r\n", "encoded-body"),
    ] {
        let answer = ask(&broker, post(&format!("{POOL}{target}"), headers, b"x")).await;
        assert_eq!(answer.problem(), kind, "{target} {headers}");
    }
}

#[tokio::test]
async fn a_named_run_is_not_delivered_twice_when_its_supervisor_leaves_and_returns() {
    let broker = Broker::start(&[]);
    let mut other = wait(&broker, &get(POOL, "pilotlight-controller: other\r\n")).await;
    let mut slow = Client::connect_narrow(broker.public, 4096).await;
    slow.send(get(POOL, "pilotlight-controller: slow\r\n")).await;
    broker.wait_for_waiters(2).await;
    let run = post(POOL, "pilotlight-run: job-1\r\n", &vec![b'x'; 3_900_000]);
    let mut impatient = broker.client().await;
    impatient.send(&run).await;
    broker.wait_for_waiters(1).await;
    drop(impatient);
    broker.wait_for_metric("pilotlight_dispatches_total{outcome=\"aborted\",reason=\"none\"}", 1).await;
    let mut again = broker.client().await;
    let (answer, received) = tokio::join!(again.ask(&run), slow.answer());
    assert_eq!((answer.json()["controller"].as_str(), received.body.len()), (Some("slow"), 3_900_000));
    assert!(other.is_held().await);
}

#[tokio::test]
async fn a_wait_without_end_is_bounded_by_the_budget() {
    let broker = Broker::start(&["--dispatch-budget", "100ms"]);
    let answer = ask(&broker, post(&format!("{POOL}?wait=18446744073709551615s"), "", b"x")).await;
    assert_eq!(answer.json()["reason"], "no_pool");
}

#[tokio::test]
async fn a_wait_ends_at_once_when_the_broker_drains() {
    let broker = Broker::start(&["--dispatch-budget", "20s"]);
    let mut supervisor = broker.client().await;
    supervisor.send(post(&format!("{POOL}?wait=20s"), "", b"x")).await;
    assert!(supervisor.is_held().await);
    broker.operate("POST", "/drain").await;
    let begun = Instant::now();
    assert_eq!(supervisor.answer().await.json()["reason"], "draining");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_runs_name_cannot_write_headers() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut native = wait(&broker, &get(&pool.path(), "")).await;
    let (status, problem) = broker.post(&pool.body("run_1\r\nx-evil: 1")).await;
    assert_eq!((status, problem["type"].as_str()), (400, Some("urn:pilotlight:problem:bad-body")));
    assert!(native.is_held().await);
}

#[tokio::test]
async fn one_name_in_two_pools_is_two_runs() {
    let broker = Broker::start(&[]);
    let (first, second) = (Pool::small("d1").path(), Pool::small("d2").path());
    for path in [&first, &second] {
        let mut waiting = broker.client().await;
        waiting.send(get(path, "")).await;
        broker.wait_for_waiters(1).await;
        let answer =
            broker.client().await.ask(post(path, "pilotlight-run: 1\r\n", path.as_bytes())).await.json();
        assert_eq!(answer["delivered"], true, "{answer}");
        assert_eq!(waiting.answer().await.body, path.as_bytes(), "each gets its own payload");
    }
}

#[tokio::test]
async fn a_repeated_run_is_no_better_proved_than_it_was() {
    let broker = Broker::start(&[]);
    let path = Pool::small("d1").path();
    let mut waiting = broker.client().await;
    waiting.send(get(&path, "")).await;
    broker.wait_for_waiters(1).await;
    let repeat = async |query: &str| {
        let request = post(&format!("{path}{query}"), "pilotlight-run: 1\r\n", b"a run");
        broker.client().await.ask(request).await.json()
    };
    assert_eq!(repeat("?proof=written").await["proof"], "written");
    assert_eq!(repeat("?proof=written").await["delivered"], true);
    let better = repeat("?proof=received").await;
    assert_eq!((better["delivered"].as_bool(), better["reason"].as_str()), (Some(false), Some("unknown")));
}

#[tokio::test]
async fn a_run_that_may_have_arrived_goes_to_no_other_waiter_however_often_it_is_posted() {
    let broker = Broker::proving("received", &["--proof-timeout", "50ms"]);
    let path = Pool::small("d1").path();
    let (mut frozen, mut other) = (broker.client().await, broker.client().await);
    other.send(get(&path, "")).await;
    broker.wait_for_waiters(1).await;
    frozen.send(get(&path, "")).await;
    broker.wait_for_waiters(2).await;
    for _ in 0..2 {
        let answer = broker.client().await.ask(post(&path, "pilotlight-run: 1\r\n", b"a run")).await.json();
        assert_eq!(
            (answer["delivered"].as_bool(), answer["reason"].as_str()),
            (Some(false), Some("unknown"))
        );
    }
    assert!(other.is_held().await);
}

#[tokio::test]
async fn a_name_that_comes_again_with_another_payload_is_refused_and_nothing_delivered() {
    let broker = Broker::start(&[]);
    let named = |query: &str, run: &str, body: &[u8]| {
        post(&format!("{POOL}{query}"), &format!("pilotlight-run: {run}\r\n"), body)
    };
    assert_eq!(ask(&broker, named("", "job-1", b"before")).await.json()["reason"], "no_pool");
    let mut one = wait(&broker, &get(POOL, "pilotlight-controller: one\r\n")).await;
    let mut two = wait(&broker, &get(POOL, "pilotlight-controller: two\r\n")).await;
    let first = ask(&broker, named("", "job-1", b"a run")).await;
    assert_eq!(first.json()["delivered"], true, "neither a miss nor its payload is remembered");
    for other in [&b"another"[..], b"a ruN", b"", b"a run\0", &vec![b'a'; 100_000]] {
        let refused = ask(&broker, named("", "job-1", other)).await;
        assert_eq!((refused.status, refused.problem().as_str()), (422, "name-of-another-run"));
    }
    assert_eq!(broker.waiters("").await, 1, "nothing is delivered");
    for query in ["", "?wait=100ms", "?redeliver=true", "?proof=written"] {
        let again = ask(&broker, named(query, "job-1", b"a run")).await;
        assert_eq!(again.json(), first.json(), "{query}: only the payload is compared");
    }
    let typed = post(POOL, "pilotlight-run: job-1\r\ncontent-type: text/plain\r\n", b"a run");
    assert_eq!(ask(&broker, typed).await.json(), first.json());
    let counted = async |labels| broker.metric(&format!("pilotlight_dispatches_total{{{labels}}}")).await;
    assert_eq!(counted("outcome=\"refused\",reason=\"none\"").await, 5);
    assert_eq!(counted("outcome=\"hit\",reason=\"none\"").await, 6);
    let rows = broker.operate("GET", "/runs/job-1").await.1;
    assert!(!rows.contains("refused"), "the history has the outcome of the run: {rows}");
    assert_eq!(ask(&broker, named("", "job-2", b"another")).await.json()["delivered"], true);
    let bodies = [one.answer().await.body, two.answer().await.body];
    assert!(bodies.contains(&b"a run".to_vec()) && bodies.contains(&b"another".to_vec()), "{bodies:?}");
}

#[tokio::test]
async fn another_payload_is_refused_at_once_while_the_first_is_under_way() {
    let broker = Broker::start(&["--dispatch-budget", "20s", "--threads", "1"]);
    let mut waiting = broker.client().await;
    waiting.send(post(&format!("{POOL}?wait=20s"), "pilotlight-run: job-1\r\n", b"a run")).await;
    let refused = async || {
        let answer = ask(&broker, post(POOL, "pilotlight-run: job-1\r\n", b"another")).await;
        (answer.status == 422, answer)
    };
    // Until the first is known to be in flight, the second is an ordinary miss.
    broker.wait_until("the second is refused", async || refused().await.0).await;
    let mut controller = broker.client().await;
    controller.send(get(POOL, "")).await;
    assert_eq!(controller.answer().await.body, b"a run");
    assert_eq!(waiting.answer().await.json()["delivered"], true);
    assert_eq!(refused().await.1.problem(), "name-of-another-run");
}

#[tokio::test]
async fn every_post_of_a_name_can_be_a_run_of_its_own() {
    let broker = Broker::start(&["--remember-runs", "0s"]);
    for body in [&b"a run"[..], b"another"] {
        let mut controller = wait(&broker, &get(POOL, "")).await;
        let answer = ask(&broker, post(POOL, "pilotlight-run: job-1\r\n", body)).await;
        assert_eq!((answer.status, controller.answer().await.body.as_slice()), (200, body));
    }
}

#[tokio::test]
async fn a_metric_says_how_far_back_runs_are_remembered() {
    for (time, seconds) in [("0s", 0.0), ("2s", 2.0), ("10m", 0.5)] {
        let broker = Broker::start(&["--remember-runs", time]);
        // Less than a second at first, because nothing is remembered from before the start.
        let window = async || {
            let text = broker.operate("GET", "/metrics").await.1;
            let mut lines =
                text.lines().filter_map(|line| line.strip_prefix("pilotlight_idempotency_window_seconds "));
            lines.next_back().unwrap().parse::<f64>().unwrap()
        };
        broker.wait_until(time, async || window().await >= seconds).await;
        let most = if time == "10m" { 300.0 } else { seconds };
        assert!(window().await <= most, "{time}");
    }
}

//! Owns the end-to-end tests of the dialect of Trigger.dev, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use support::client::Client;
use support::{Broker, Pool, post};

#[tokio::test]
async fn connect_says_how_to_wait() {
    let broker = Broker::start(&["--connection-timeout", "42s", "--keepalive", "0s"]);
    let answer = broker.client().await.ask("GET /connect HTTP/1.1\r\nhost: b\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.body, br#"{"connectionTimeoutMs":42000,"keepaliveMs":0}"#);
}

#[tokio::test]
async fn a_run_reaches_its_controller_byte_for_byte() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut controller = broker.held_poll(&pool, "one").await;
    let message = format!("{{\n \"unknown\" : 1.50,\t{}", &pool.message("run_1").to_string()[1..]);
    let (status, answer) =
        broker.post(&format!("{{\"more\":[],\"dequeuedMessage\":{message},\"z\":{{}}}}")).await;
    assert_eq!((status, &answer["didWarmStart"]), (200, &true.into()), "{answer}");
    assert_eq!((answer["proof"].as_str(), answer["offers"].as_u64()), (Some("written"), Some(1)));
    let run = controller.answer().await;
    assert_eq!((run.status, run.header("content-type")), (200, Some("application/json")));
    assert_eq!(String::from_utf8(run.body).unwrap(), message);
}

#[tokio::test]
async fn a_kept_alive_connection_polls_again_and_again() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut controller = broker.client().await;
    for round in 0..20 {
        let run = format!("run_{round}");
        controller.send(pool.poll("one")).await;
        broker.wait_for_waiters(1).await;
        assert_eq!(broker.post(&pool.body(&run)).await.1["didWarmStart"], true);
        assert_eq!(controller.answer().await.json()["run"]["friendlyId"], run.as_str());
        // Other requests may come between two polls of a connection.
        assert_eq!(controller.ask("GET /connect HTTP/1.1\r\nhost: b\r\n\r\n").await.status, 200);
    }
    assert_eq!(broker.metric("pilotlight_connections{listener=\"public\",tls=\"false\"}").await, 1);
}

#[tokio::test]
async fn a_miss_says_why_and_a_dev_run_is_one() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let reason = async |pool: &Pool| {
        let (status, answer) = broker.post(&pool.body("r")).await;
        assert_eq!((status, &answer["didWarmStart"]), (200, &false.into()));
        answer["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(reason(&pool).await, "no_pool");
    let _controller = broker.held_poll(&pool, "one").await;
    assert_eq!(reason(&Pool::new("d2", "20260821.3", "0.5", "0.5")).await, "no_pool");
    assert_eq!(reason(&Pool::new("d1", "20260821.4", "0.5", "0.5")).await, "wrong_version");
    assert_eq!(reason(&Pool::new("d1", "20260821.3", "1", "2")).await, "wrong_machine");
    assert_eq!(broker.post(&pool.body("r")).await.1["didWarmStart"], true);
    assert_eq!(reason(&pool).await, "all_taken");
    let mut dev = pool.message("r");
    dev["deployment"] = serde_json::json!({});
    let (status, answer) = broker.post(&format!("{{\"dequeuedMessage\":{dev}}}")).await;
    assert_eq!((status, answer["reason"].as_str()), (200, Some("no_deployment")));
}

#[tokio::test]
async fn numbers_meet_by_value_and_presets_never_by_likeness() {
    let broker = Broker::start(&[]);
    for (header, body, meets) in [
        (("0.50", "5e-1"), ("0.5", "0.5"), true),
        (("1e0", "2.0"), ("1", "2"), true),
        (("0.30000000000000004", "1"), ("0.30000000000000004", "1"), true),
        (("0.3", "1"), ("0.30000000000000004", "1"), false),
        (("1", "2"), ("0.5", "0.5"), false),
        (("0", "0"), ("0.5", "0.5"), false),
    ] {
        let mut controller = broker.held_poll(&Pool::new("d", "1", header.0, header.1), "one").await;
        let (_, answer) = broker.post(&Pool::new("d", "1", body.0, body.1).body("r")).await;
        assert_eq!(answer["didWarmStart"], meets, "{header:?} and {body:?}");
        assert_eq!(controller.is_held().await, !meets);
        drop(controller);
        broker.wait_for_waiters(0).await;
    }
}

#[tokio::test]
async fn a_token_names_its_deployment() {
    use base64::Engine;
    let broker = Broker::start(&[]);
    let part = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let claims = r#"{"ver":1,"deployment":"d1","deployment_version":"20260821.3"}"#;
    let token = format!("{}.{}.{}", part(r#"{"alg":"HS256"}"#), part(claims), part("s"));
    let mut controller = broker.held_poll(&Pool { deployment: token, ..Pool::small("") }, "one").await;
    assert_eq!(broker.pools("deployment=d1").await["waiters"], 1);
    assert_eq!(broker.post(&Pool::small("d1").body("r")).await.1["didWarmStart"], true);
    assert_eq!(controller.answer().await.status, 200);
}

#[tokio::test]
async fn a_broken_run_is_refused_and_claims_no_waiter() {
    let broker = Broker::start(&["--body-limit", "64KiB"]);
    let pool = Pool::small("d1");
    let mut controller = broker.held_poll(&pool, "one").await;
    let message = pool.message("r").to_string();
    let with = |from: &str, to: &str| {
        assert!(message.contains(from), "{from}");
        format!("{{\"dequeuedMessage\":{}}}", message.replacen(from, to, 1))
    };
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let cases: Vec<(u16, &str, Vec<u8>)> = vec![
        (400, "bad-body", b"".into()),
        (400, "bad-body", b"{".into()),
        (400, "bad-body", b"[]".into()),
        (400, "bad-body", b"{}".into()),
        (400, "bad-body", b"{\"dequeuedMessage\":null}".into()),
        (400, "bad-body", b"{\"dequeuedMessage\":{}}".into()),
        (400, "bad-body", format!("{} x", pool.body("r")).into()),
        (400, "bad-body", format!("\u{feff}{}", pool.body("r")).into()),
        (400, "bad-body", [b"{\"dequeuedMessage\":\"\xff\"}".as_slice()].concat()),
        (400, "bad-body", with("\"cpu\":0.5", "\"cpu\":\"0.5\"").into()),
        (400, "bad-body", with("\"cpu\":0.5", "\"cpu\":1e400").into()),
        (400, "bad-body", with("\"cpu\":0.5", "\"cpu\":-1").into()),
        (400, "bad-body", with("\"cpu\":0.5", "\"cpu\":0.5,\"cpu\":1").into()),
        (400, "bad-body", with("\"isTest\":false", "\"isTest\":null").into()),
        (400, "bad-body", with("\"small-1x\"", "\"huge-9x\"").into()),
        (400, "bad-body", with("\"PENDING_EXECUTING\"", "{\"PENDING_EXECUTING\":null}").into()),
        (400, "bad-body", with("2026-08-21T18:27:52.131Z", "yesterday").into()),
        (400, "bad-body", with("{\"id\":\"cmcx6a0aa0002l508project1\"}", "[\"p\"]").into()),
        (400, "bad-body", with("\"image\"", &format!("\"extra\":{deep},\"image\"")).into()),
        (413, "body-too-large", format!("{}{}", pool.body("r"), " ".repeat(70_000)).into()),
    ];
    for (status, kind, body) in cases {
        let head = format!("POST /warm-start HTTP/1.1\r\nhost: b\r\ncontent-length: {}\r\n\r\n", body.len());
        let answer = Client::connect(broker.public).await.ask([head.as_bytes(), &body].concat()).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        assert_eq!((answer.status, answer.problem().as_str()), (status, kind), "{shown}");
    }
    let encoded =
        post("/warm-start", &pool.body("r")).replacen("host: b", "content-encoding: gzip\r\nhost: b", 1);
    assert_eq!(broker.client().await.ask(encoded).await.problem(), "encoded-body");
    assert!(controller.is_held().await);
    assert_eq!(broker.post(&pool.body("r")).await.1["didWarmStart"], true, "the pool is as it was");
    assert_eq!(controller.answer().await.status, 200);
}

#[tokio::test]
async fn a_truncated_body_claims_no_waiter() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut controller = broker.held_poll(&pool, "one").await;
    let mut supervisor = broker.client().await;
    let request = post("/warm-start", &pool.body("r"));
    supervisor.send(&request[..request.len() - 1]).await;
    drop(supervisor);
    assert!(controller.is_held().await);
    assert_eq!(broker.waiters("").await, 1);
}

#[tokio::test]
async fn a_broken_poll_is_ended_with_a_status() {
    let broker = Broker::start(&[]);
    let poll = Pool::small("d1").poll("one");
    let without = |name: &str| {
        let kept = poll.split("\r\n").filter(|line| !line.starts_with(name)).collect::<Vec<_>>().join("\r\n");
        assert_ne!(kept, poll);
        kept
    };
    let long = "x".repeat(300);
    for request in [
        without("x-trigger-deployment-id"),
        without("x-trigger-deployment-version"),
        without("x-trigger-machine-cpu"),
        without("x-trigger-machine-memory"),
        poll.replace("id: d1", "id: d1\r\nx-trigger-deployment-id: d2"),
        poll.replace("id: d1", "id:"),
        poll.replace("id: d1", &format!("id: {long}")),
        poll.replace("id: d1", "id: d\u{e9}"),
        poll.replace("id: d1", "id: eyJhbGciOiJIUzI1NiJ9.e30.x"),
        poll.replace("cpu: 0.5", "cpu: NaN"),
        poll.replace("cpu: 0.5", "cpu: inf"),
        poll.replace("cpu: 0.5", "cpu: -1"),
        poll.replace("cpu: 0.5", "cpu: 1e7"),
    ] {
        let answer = broker.client().await.ask(&request).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-key"), "{request}");
    }
    assert_eq!(broker.waiters("").await, 0);
    assert_eq!(broker.metric("pilotlight_polls_total{end=\"refused\"}").await, 13);
}

#[tokio::test]
async fn routes_and_methods_that_are_not_there_say_so() {
    let broker = Broker::start(&[]);
    let long = format!("/warm-start?{}", "x".repeat(2048));
    for (request, status, allow) in [
        ("GET /nothing".to_owned(), 404, None),
        ("GET /".to_owned(), 404, None),
        ("PUT /warm-start".to_owned(), 405, Some("GET, HEAD, POST")),
        ("POST /connect".to_owned(), 405, Some("GET, HEAD")),
        ("DELETE /v1/pools/a/b/1/1".to_owned(), 405, Some("GET, HEAD, POST")),
        (format!("GET {long}"), 414, None),
    ] {
        let mut client = broker.client().await;
        client.send(format!("{request} HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n")).await;
        let mut seen = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut client.stream, &mut seen).await.unwrap();
        assert_eq!(seen[9..12].parse::<u16>().unwrap(), status, "{request}: {seen}");
        let found = seen.lines().find_map(|line| line.strip_prefix("allow: "));
        assert_eq!(found, allow, "{request}");
    }
}

#[tokio::test]
async fn an_aborted_poll_leaves_its_pool_at_once() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    for _ in 0..20 {
        let controller = broker.held_poll(&pool, "one").await;
        let left = Instant::now();
        drop(controller);
        broker.wait_for_waiters(0).await;
        assert!(left.elapsed() < Duration::from_millis(100), "{:?}", left.elapsed());
    }
    assert_eq!(broker.metric("pilotlight_polls_total{end=\"client_gone\"}").await, 20);
}

#[tokio::test]
async fn the_same_controllers_newest_poll_wins_and_the_old_one_is_closed() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut old = broker.held_poll(&pool, "one").await;
    let mut new = broker.client().await;
    new.send(pool.poll("one")).await;
    assert!(old.is_closed_silently().await);
    assert_eq!(broker.waiters("").await, 1);
    assert_eq!(broker.post(&pool.body("r")).await.1["didWarmStart"], true);
    assert_eq!(new.answer().await.status, 200);
}

#[tokio::test]
async fn a_poll_near_its_deadline_is_not_offered_and_past_it_is_closed() {
    let broker = Broker::start(&["--connection-timeout", "1s"]);
    let pool = Pool::small("d1");
    let begun = Instant::now();
    let mut controller = broker.held_poll(&pool, "one").await;
    tokio::time::sleep(Duration::from_millis(800).saturating_sub(begun.elapsed())).await;
    let (_, answer) = broker.post(&pool.body("r")).await;
    assert_eq!(answer["reason"], "all_taken", "it is within 250 ms of its end");
    assert!(controller.is_held().await);
    assert!(controller.is_closed_silently().await);
    let held = begun.elapsed();
    assert!(held > Duration::from_millis(2900) && held < Duration::from_millis(3600), "{held:?}");
    assert_eq!(broker.metric("pilotlight_polls_total{end=\"expired\"}").await, 1);
}

#[tokio::test]
async fn surplus_polls_are_closed_without_a_status() {
    let broker = Broker::start(&["--max-waiters", "2", "--max-waiters-per-pool", "1"]);
    let _first = broker.held_poll(&Pool::small("d1"), "one").await;
    let surplus = async |pool: Pool| {
        let mut surplus = broker.client().await;
        surplus.send(pool.poll("surplus")).await;
        surplus.is_closed_silently().await
    };
    assert!(surplus(Pool::small("d1")).await, "its pool is full");
    let _second = broker.held_poll(&Pool::small("d2"), "two").await;
    assert!(surplus(Pool::small("d3")).await, "the broker is full");
    assert_eq!(broker.waiters("").await, 2);
}

#[tokio::test]
async fn bytes_after_a_held_poll_close_it() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut together = broker.client().await;
    together.send(format!("{}\r\n", pool.poll("one"))).await;
    assert!(together.is_closed_silently().await);
    let mut later = broker.held_poll(&pool, "two").await;
    later.send("GET /connect HTTP/1.1\r\nhost: b\r\n\r\n").await;
    assert!(later.is_closed_silently().await);
    broker.wait_for_waiters(0).await;
    assert_eq!(broker.metric("pilotlight_connections_rejected_total{reason=\"pipelined\"}").await, 2);
}

#[tokio::test]
async fn a_poll_with_a_small_body_is_held_and_with_a_large_one_closed() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let with_body = |length: usize| {
        let poll = pool.poll("one").replacen("host", &format!("content-length: {length}\r\nhost"), 1);
        format!("{poll}{}", "x".repeat(length))
    };
    let mut small = broker.client().await;
    small.send(with_body(1000)).await;
    broker.wait_for_waiters(1).await;
    let mut large = broker.client().await;
    large.send(with_body(2000)).await;
    assert!(large.is_closed_silently().await, "a status would end a stock controller");
    assert_eq!(broker.post(&pool.body("r")).await.1["didWarmStart"], true);
    assert_eq!(small.answer().await.status, 200);
}

#[tokio::test]
async fn posts_can_have_a_listener_of_their_own() {
    let broker = Broker::start(&["--dispatch-listen", "127.0.0.1:0"]);
    let pool = Pool::small("d1");
    let mut controller = broker.held_poll(&pool, "one").await;
    let refused = broker.client().await.ask(post("/warm-start", &pool.body("r"))).await;
    assert_eq!(refused.status, 405);
    let mut lost = Client::connect(broker.dispatch).await;
    assert_eq!(lost.ask(pool.poll("two")).await.status, 405);
    assert_eq!(broker.post(&pool.body("r")).await.1["didWarmStart"], true);
    assert_eq!(controller.answer().await.status, 200);
}

#[tokio::test]
async fn a_connection_that_was_asked_to_close_closes_after_the_run() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut controller = broker.client().await;
    controller.send(pool.poll("one").replace("keep-alive", "close")).await;
    broker.wait_for_waiters(1).await;
    assert_eq!(broker.post(&pool.body("r")).await.1["didWarmStart"], true);
    let run = controller.answer().await;
    assert_eq!((run.status, run.header("connection")), (200, Some("close")));
    assert!(controller.is_closed_silently().await);
}

#[tokio::test]
async fn a_run_that_is_posted_twice_is_delivered_once() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut one = broker.held_poll(&pool, "one").await;
    let mut two = broker.held_poll(&pool, "two").await;
    let body = pool.body("run_1");
    let first = broker.post(&body).await.1;
    assert_eq!((first["didWarmStart"].as_bool(), first["offers"].as_u64()), (Some(true), Some(1)));
    for _ in 0..3 {
        assert_eq!(broker.post(&body).await.1, first, "the second answer repeats the first");
    }
    assert_eq!(broker.waiters("").await, 1);
    // The same run with another snapshot is another start.
    assert_eq!(broker.post(&pool.body("run_1")).await.1["didWarmStart"], true);
    assert_eq!((one.answer().await.status, two.answer().await.status), (200, 200));
    // A miss is not remembered: a controller that has come since then gets the run.
    let missed = pool.body("run_2");
    assert_eq!(broker.post(&missed).await.1["didWarmStart"], false);
    let mut three = broker.held_poll(&pool, "three").await;
    assert_eq!(broker.post(&missed).await.1["didWarmStart"], true);
    assert_eq!(three.answer().await.status, 200);
}

#[tokio::test]
async fn every_post_can_be_a_run_of_its_own() {
    let broker = Broker::start(&["--remember-runs", "0s"]);
    let pool = Pool::small("d1");
    let body = pool.body("run_1");
    for controller in ["one", "two"] {
        let mut controller = broker.held_poll(&pool, controller).await;
        assert_eq!(broker.post(&body).await.1["didWarmStart"], true);
        assert_eq!(controller.answer().await.status, 200);
    }
}

#[tokio::test]
async fn a_page_in_a_browser_neither_waits_nor_dispatches() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let _standing = broker.held_poll(&pool, "one").await;
    for mark in ["origin: http://evil.example", "sec-fetch-site: cross-site", "Origin: null"] {
        let marked =
            |request: String| request.replacen("host: broker", &format!("host: broker\r\n{mark}"), 1);
        for request in [marked(post("/warm-start", &pool.body("r"))), marked(pool.poll("two"))] {
            let answer = broker.client().await.ask(request).await;
            assert_eq!((answer.status, answer.problem().as_str()), (403, "foreign-page"), "{mark}");
        }
    }
    assert_eq!(broker.waiters("").await, 1);
}

#[tokio::test]
async fn the_content_of_an_invalid_body_is_not_quoted() {
    let broker = Broker::start(&[]);
    for body in ["{\"dequeuedMessage\":\"a secret\"}", "{\"dequeuedMessage\":{\"version\":\"a secret\"}}"] {
        let answer = broker.client().await.ask(post("/warm-start", body)).await;
        assert_eq!(answer.problem(), "bad-body");
        assert!(!String::from_utf8(answer.body).unwrap().contains("a secret"), "{body}");
    }
}

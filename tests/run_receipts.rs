//! Owns the end-to-end tests of receipts at the broker that made the offer: `POST /v1/runs/{run}/ack` and `/ready`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use support::Broker;
use support::client::Client;
use support::offers::{
    Offered, PATH, PATIENT, ask, forged, is, offered_at, offered_with, outcome, outcome_at, post, post_with,
};

/// The response to a receipt may be lost, so that it is sent again.
#[tokio::test]
async fn a_receipt_may_be_repeated_and_a_slot_is_freed_once() {
    let broker = Broker::proving("received", &PATIENT);
    let (Offered { ack, ready, stream: _stream, .. }, mut supervisor) = offered_at(&broker).await;
    let answer = ask(&broker, &ack).await;
    assert_eq!((answer.status, answer.header("content-length")), (204, None), "{answer:?}");
    assert_eq!(supervisor.answer().await.json()["proof"], "received");
    assert_eq!(outcome_at(&broker, &ack).await, is(204, ""));
    assert_eq!(broker.waiters("").await, 0, "an acknowledgement frees no slot");
    for _ in 0..3 {
        assert_eq!(outcome_at(&broker, &ready).await, is(204, ""));
        broker.wait_for_waiters(1).await;
    }
    let both = post_with(&format!("{ack}&ready=true"), "transfer-encoding: chunked\r\n");
    let answer = broker.client().await.ask(format!("{both}0\r\n\r\n")).await;
    assert_eq!((answer.status, answer.header("content-length")), (204, None), "{answer:?}");
    assert_eq!(broker.waiters("").await, 1);
    let counted =
        |class| format!("pilotlight_http_requests_total{{code_class=\"{class}\",route=\"receipt\"}}");
    assert_eq!((broker.metric(&counted("2xx")).await, broker.metric(&counted("4xx")).await), (6, 0));
}

#[tokio::test]
async fn one_receipt_can_acknowledge_a_run_and_free_its_slot() {
    let broker = Broker::proving("received", &PATIENT);
    let (Offered { ack, stream: _stream, .. }, mut supervisor) = offered_at(&broker).await;
    assert_eq!(outcome_at(&broker, &format!("{ack}&ready=true")).await, is(204, ""));
    assert_eq!(supervisor.answer().await.json()["proof"], "received");
    broker.wait_for_waiters(1).await;
}

#[tokio::test]
async fn a_receipt_is_taken_also_where_the_proof_did_not_wait_for_it() {
    let broker = Broker::proving("written", &[]);
    let (Offered { ack, ready, stream: _stream, .. }, mut supervisor) = offered_at(&broker).await;
    assert_eq!(supervisor.answer().await.json()["proof"], "written");
    assert_eq!(outcome_at(&broker, &ack).await, is(204, ""), "the controller may start the run");
    assert_eq!(broker.waiters("").await, 0);
    assert_eq!(outcome_at(&broker, &ready).await, is(204, ""));
    broker.wait_for_waiters(1).await;
}

#[tokio::test]
async fn a_receipt_without_the_token_of_its_offer_does_not_count() {
    let broker = Broker::proving("received", &PATIENT);
    let (Offered { path, ack, token, stream: _stream, .. }, mut supervisor) = offered_at(&broker).await;
    let altered = |at: usize| {
        let mut altered = token.clone().into_bytes();
        altered[at] = if altered[at] == b'0' { b'1' } else { b'0' };
        String::from_utf8(altered).unwrap()
    };
    let mut queries: Vec<String> = ["", "?", "?token", "?token="].map(str::to_owned).into();
    let mut tokens: Vec<String> = [0, 31, 32, 47, 48, 55].map(altered).into();
    tokens.extend([
        forged(),
        token[1..].to_owned(),
        format!("{token}0"),
        format!("{token}{}", "0".repeat(32)),
    ]);
    tokens.extend([
        token.to_uppercase(),
        format!("g{}", &token[1..]),
        format!("%20{token}"),
        "%FF".repeat(56),
        "é".repeat(28),
    ]);
    queries.extend(tokens.into_iter().map(|token| format!("?token={token}")));
    for query in queries {
        for action in ["ack", "ready"] {
            let target = format!("{path}/{action}{query}").replace('é', "%C3%A9");
            assert_eq!(outcome_at(&broker, &target).await, is(403, "bad-offer-token"), "{target}");
        }
    }
    let upper = path.strip_prefix("/v1/runs/").unwrap().to_uppercase();
    for run in ["run", "run%2F", &upper, "%FF", "", "%20", "%", "%2", "run%252F0"] {
        let target = format!("/v1/runs/{run}/ack?token={token}");
        assert_eq!(outcome_at(&broker, &target).await, is(403, "bad-offer-token"), "{target}");
    }
    for suffix in ["%20", "%00", "%2F", "0"] {
        let target = format!("{path}{suffix}/ack?token={token}");
        assert_eq!(outcome_at(&broker, &target).await, is(403, "bad-offer-token"), "{target}");
    }
    for (target, expected) in [
        (format!("{ack}&ready=yes"), is(400, "bad-parameter")),
        (format!("{ack}&token={token}"), is(400, "bad-parameter")),
        (format!("{ack}&slots=2"), is(400, "bad-parameter")),
        (format!("{path}/ready?token={token}&ready=true"), is(400, "bad-parameter")),
        (format!("{path}/result?token={token}"), is(404, "no-such-route")),
        (format!("{path}/ack/?token={token}"), is(404, "no-such-route")),
        (ack.replace("%2F", "/"), is(404, "no-such-route")),
        (format!("/v1/runs/ack?token={token}"), is(404, "no-such-route")),
        (format!("{path}?token={token}"), is(404, "no-such-route")),
    ] {
        assert_eq!(outcome_at(&broker, &target).await, expected, "{target}");
    }
    let otherwise = ack.replace("/run%2F", "/r%75n%2f");
    assert_eq!(outcome_at(&broker, &otherwise).await, is(204, ""), "the same, encoded otherwise");
    assert_eq!(supervisor.answer().await.json()["proof"], "received");
}

#[tokio::test]
async fn a_receipt_is_a_post_on_the_listener_of_polls() {
    let broker = Broker::proving("received", &[&PATIENT[..], &["--dispatch-listen", "127.0.0.1:0"]].concat());
    let (Offered { ack, ready, stream: _stream, .. }, mut supervisor) = offered_at(&broker).await;
    for target in [&ack, &ready] {
        for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
            let answer =
                broker.client().await.ask(format!("{method} {target} HTTP/1.1\r\nhost: b\r\n\r\n")).await;
            assert_eq!(outcome(&answer), is(405, "method-not-allowed"), "{method} {target}");
            assert_eq!(answer.header("allow"), Some("POST"));
        }
        let mut head = broker.client().await;
        head.send(format!("HEAD {target} HTTP/1.1\r\nhost: b\r\n\r\n")).await;
        assert_eq!(head.bare_answer().await.status, 405);
        for address in [broker.dispatch, broker.ops] {
            let answer =
                Client::connect(address).await.ask(post(target).replace("host: b", "host: localhost")).await;
            assert_eq!(outcome(&answer), is(404, "no-such-route"), "{target}");
        }
        let browser = "origin: https://example.com\r\ncontent-length: 0\r\n";
        let answer = broker.client().await.ask(post_with(target, browser)).await;
        assert_eq!(outcome(&answer), is(403, "foreign-page"));
    }
    assert_eq!(outcome_at(&broker, &ack).await, is(204, ""), "nothing of all that has counted");
    assert_eq!(supervisor.answer().await.json()["proof"], "received");
}

#[tokio::test]
async fn the_body_of_a_receipt_is_ignored_and_is_not_taken_for_a_request() {
    let broker = Broker::proving("received", &PATIENT);
    let ack = format!("{PATH}/ack?token={}", forged());
    let inner = "GET /connect HTTP/1.1\r\nhost: b\r\n\r\n";
    let sized = |length: usize| format!("content-length: {length}\r\n");
    let chunked = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    for (fields, body) in [
        (sized(inner.len()), inner.to_owned()),
        (sized(16 * 1024), inner.repeat(1024)[..16 * 1024].to_owned()),
        ("transfer-encoding: chunked\r\n".to_owned(), chunked.clone()),
        (sized(0), String::new()),
        (String::new(), String::new()),
    ] {
        let mut client = broker.client().await;
        // The next request follows in the same bytes.
        client.send(format!("{}{body}{}", post_with(&ack, &fields), post(&format!("{PATH}/ready")))).await;
        assert_eq!(outcome(&client.answer().await), is(403, "bad-offer-token"), "{fields}");
        let next = client.try_answer().await;
        let is_small = body.len() <= 1024;
        assert_eq!(next.map(|answer| answer.status), is_small.then_some(403), "{fields}");
    }
    for (fields, body) in [
        ("content-length: 5\r\nexpect: 100-continue\r\n", ""),
        ("transfer-encoding: chunked\r\nexpect: 100-continue\r\n", ""),
        ("content-length: 1000000\r\n", "a part of it"),
    ] {
        let mut client = broker.client().await;
        let answer = client.ask(format!("{}{body}", post_with(&ack, fields))).await;
        assert_eq!((answer.status, answer.header("connection")), (403, Some("close")), "{fields}");
    }
    let slow = &mut broker.client().await;
    slow.send(post_with(&ack, "content-length: 5\r\n")).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    slow.send("12345").await;
    assert_eq!(slow.answer().await.status, 403);
    assert_eq!(slow.ask(post(&ack)).await.status, 403);
}

#[tokio::test]
async fn no_limit_of_dispatches_and_no_credential_stands_before_a_receipt() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, "a secret of the platform\n").unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (secret, supervisors) = (file("secret"), file("supervisors"));
    let full = Broker::proving("received", &[&PATIENT[..], &["--max-posts", "1"]].concat());
    let (Offered { ack, ready, stream: _stream, .. }, mut supervisor) = offered_at(&full).await;
    assert_eq!(ask(&full, "/v1/pools/nobody/1/1/1").await.status, 429, "the broker is full");
    assert_eq!(outcome_at(&full, &ack).await, is(204, ""));
    assert_eq!(supervisor.answer().await.json()["proof"], "received");
    assert_eq!(outcome_at(&full, &ready).await, is(204, ""));

    // Refused for its token, and for nothing else.
    let closed = Broker::start(&[
        "--token-secret-file",
        &secret,
        "--require-token",
        "--dispatch-token-file",
        &supervisors,
        "--max-post-rate",
        "1",
        "--memory-limit",
        "1B",
    ]);
    let bearer = "content-length: 0\r\nauthorization: Bearer a secret of the platform\r\n";
    let dispatch = post_with("/v1/pools/nobody/1/1/1", bearer);
    let is_refused = async || closed.client().await.ask(&dispatch).await.status == 429;
    closed.wait_until("the memory is full", is_refused).await;
    let forged = format!("{PATH}/ack?token={}", forged());
    assert_eq!(outcome_at(&closed, &forged).await, is(403, "bad-offer-token"));
    assert_eq!(
        outcome(&closed.client().await.ask(post_with(&forged, bearer)).await),
        is(403, "bad-offer-token")
    );
}

#[tokio::test]
async fn an_address_that_may_not_poll_is_given_no_answer() {
    let broker = Broker::proving(
        "received",
        &[&PATIENT[..], &["--allow-poll", "10.1.2.3", "--behind-proxy", "127.0.0.1"]].concat(),
    );
    let (offered, _supervisor) = offered_with(&broker, "x-forwarded-for: 10.1.2.3\r\n").await;
    for field in ["x-forwarded-for: 10.1.2.4\r\n", "x-forwarded-for: unknown\r\n", ""] {
        let mut client = broker.client().await;
        client.send(post_with(&offered.ack, &format!("{field}content-length: 0\r\n"))).await;
        assert!(client.is_closed_silently().await, "{field}");
    }
    let known = post_with(&offered.ack, "x-forwarded-for: 10.1.2.3\r\ncontent-length: 0\r\n");
    assert_eq!(broker.client().await.ask(known).await.status, 204);
}

#[tokio::test]
async fn a_receipt_is_late_when_its_stream_has_ended() {
    let broker = Broker::proving("received", &PATIENT);
    let (Offered { ack, ready, stream, .. }, _supervisor) = offered_at(&broker).await;
    drop(stream);
    broker.wait_until("its end is seen", async || outcome_at(&broker, &ready).await.0 == 410).await;
    assert_eq!(outcome_at(&broker, &ack).await, is(410, "offer-ended"));
}

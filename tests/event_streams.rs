//! Owns the end-to-end tests of runs over an event stream: slots, receipts by POST, and what an offer costs that has none.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::client::Client;
use support::cluster::{dispatch, native_poll, native_post, outcome, posted, verdicts};
use support::event_stream::{EventStream, StreamedRun, confirm, subscription};
use support::lab::{broker as lab_broker, in_a_lab};
use support::proxy::{NGINX, start};
use support::websocket::{WebSocket, named};
use support::{Broker, Pool};

/// Time enough for the steps of a test within one proof.
const PATIENT: [&str; 4] = ["--proof-timeout", "5s", "--dispatch-budget", "9s"];

/// Receives a run, and acknowledges it.
async fn take(broker: &Broker, stream: &mut EventStream) -> StreamedRun {
    let run = stream.run().await;
    assert_eq!(confirm(broker.public, &run.ack).await, 204);
    run
}

#[tokio::test]
async fn a_run_is_received_when_it_is_acknowledged_and_readiness_frees_its_slot() {
    let broker = Broker::proving("received", &PATIENT);
    let pool = Pool::small("d1");
    let mut stream = EventStream::held(&broker, &pool, "one", 1).await;
    assert_eq!(broker.metric("pilotlight_waiters{transport=\"sse\"}").await, 1);
    for (number, target) in ["ack", "ack&ready", "ready", "ack twice"].into_iter().enumerate() {
        let name = format!("job {number}/\"?&=%2F+");
        let named = format!("pilotlight-run: {name}\r\ncontent-type: text/x-run\r\n");
        let mut post = native_post(&pool, "", "", "{\"a\": \"ä and many\n more words\"}".as_bytes());
        let at = post.windows(14).position(|window| window == b"content-length").unwrap();
        post.splice(at..at, named.into_bytes());
        let mut supervisor = broker.client().await;
        supervisor.send(post).await;
        let run = stream.run().await;
        assert_eq!((run.run.as_str(), run.content_type.as_str()), (name.as_str(), "text/x-run"));
        assert_eq!(
            (&run.payload[..], run.is_base64),
            ("{\"a\": \"ä and many\n more words\"}".as_bytes(), false)
        );
        assert!(supervisor.is_held().await, "written is no proof");
        let status = match target {
            "ack" | "ack twice" => confirm(broker.public, &run.ack).await,
            "ready" => confirm(broker.public, &run.ready).await,
            _ => confirm(broker.public, &format!("{}&ready=true", run.ack)).await,
        };
        assert_eq!(status, 204, "{target}");
        let delivered = json!(
            {"delivered": true, "proof": "received", "offers": 1, "controller": "one", "run": name}
        );
        assert_eq!(supervisor.answer().await.json(), delivered);
        let is_ready = target.contains("ready");
        if !is_ready {
            assert_eq!(broker.waiters("").await, 0, "an acknowledgement alone frees no slot");
            assert_eq!(confirm(broker.public, &run.ack).await, 204, "its response may have been lost");
            assert_eq!(confirm(broker.public, &run.ready).await, 204);
        }
        broker.wait_for_waiters(1).await;
        assert_eq!(confirm(broker.public, &run.ready).await, 204, "its slot was freed before");
        assert_eq!(broker.waiters("").await, 1);
    }
    assert_eq!(verdicts(&broker, "received").await, 4);
}

#[tokio::test]
async fn a_payload_arrives_byte_for_byte() {
    let broker = Broker::proving("received", &PATIENT);
    let pool = Pool::small("d1");
    let mut stream = EventStream::held(&broker, &pool, "one", 8).await;
    let large: Vec<u8> = "lines\nand \"quotes\"\r\n and more text ".bytes().cycle().take(3 << 20).collect();
    let payloads: [(&[u8], bool); 7] = [
        (b"", false),
        (b"plain", false),
        ("two\nlines\r\nand data: nothing\n\n\u{2028}".as_bytes(), false),
        (&[0, 159, 146, 150], true),
        (&[b'"'; 999], true),
        (&[1; 100], true),
        (&large, false),
    ];
    for (payload, is_base64) in payloads {
        let (answer, run) =
            tokio::join!(dispatch(&broker, &pool, "", "", payload), take(&broker, &mut stream));
        assert_eq!(outcome(&answer.json()), (true, "received", 1));
        assert!(run.payload == payload && run.is_base64 == is_base64, "{is_base64} {}", run.payload.len());
        assert_eq!(run.run, answer.json()["run"].as_str().unwrap());
    }
}

#[tokio::test]
async fn a_stock_supervisors_run_reaches_a_slot() {
    let broker = Broker::proving("received", &[]);
    let pool = Pool::small("d1");
    let mut stream = EventStream::held(&broker, &pool, "one", 1).await;
    let body = pool.body("run_1");
    let (answer, run) = tokio::join!(broker.post(&body), take(&broker, &mut stream));
    assert_eq!(outcome(&answer.1), (true, "received", 1));
    let message: Value = serde_json::from_slice(&run.payload).unwrap();
    assert_eq!((run.run.as_str(), message["run"]["friendlyId"].as_str()), ("run_1", Some("run_1")));
}

#[tokio::test]
async fn behind_nginx_events_arrive_at_once_and_receipts_are_the_controllers_own() {
    let broker = Broker::proving("received", &[]);
    let configuration = NGINX.replace("{headers}", "proxy_set_header X-Forwarded-For $remote_addr;");
    let Some(proxy) = start(&broker, &configuration, "nginx -c {folder}/configuration -p {folder}") else {
        return;
    };
    let pool = Pool::small("d1");
    let mut stream = EventStream::connect(proxy.address, &pool, "one", 2).await;
    broker.wait_for_waiters(2).await;
    let receiving = async {
        let run = stream.run().await;
        assert_eq!(confirm(proxy.address, &run.ack).await, 204);
        run
    };
    let (answer, run) = tokio::join!(dispatch(&broker, &pool, "", "job-1", b"x"), receiving);
    assert_eq!((outcome(&answer.json()), run.run.as_str()), ((true, "received", 1), "job-1"));
    let (answer, _) = tokio::join!(dispatch(&broker, &pool, "", "job-2", b"x"), stream.run());
    assert_eq!(outcome(&answer.json()), (false, "unknown", 1), "nginx has read it");
}

#[tokio::test]
async fn slots_take_runs_at_once_and_none_waits_for_another() {
    let broker = Broker::proving("received", &PATIENT);
    let pool = Pool::small("d1");
    let mut stream = EventStream::held(&broker, &pool, "one", 3).await;
    let (mut supervisors, mut runs) = (Vec::new(), Vec::new());
    for number in 0..3 {
        supervisors.push(posted(&broker, &pool, "", &format!("job-{number}"), b"x").await);
        runs.push(stream.run().await);
    }
    assert_eq!(dispatch(&broker, &pool, "", "", b"x").await.json()["delivered"], false, "no slot is left");
    for at in [2, 1] {
        assert_eq!(confirm(broker.public, &runs[at].ready).await, 204);
        assert_eq!(outcome(&supervisors[at].answer().await.json()), (true, "received", 1));
    }
    broker.wait_for_waiters(2).await;
    let (answer, _) = tokio::join!(dispatch(&broker, &pool, "", "job-3", b"x"), take(&broker, &mut stream));
    assert_eq!(outcome(&answer.json()), (true, "received", 1));
    assert!(supervisors[0].is_held().await);
    assert_eq!(confirm(broker.public, &runs[0].ack).await, 204);
    assert_eq!(outcome(&supervisors[0].answer().await.json()), (true, "received", 1));
}

#[tokio::test]
async fn a_silent_acknowledgement_costs_its_offer_and_the_place_of_its_controller() {
    let broker = Broker::proving("received", &["--proof-timeout", "3s", "--dispatch-budget", "15s"]);
    let pool = Pool::small("d1");
    let mut spare = native_poll(&broker, &pool, "spare").await;
    let mut stream = EventStream::held(&broker, &pool, "silent", 4).await;
    let mut again = posted(&broker, &pool, "?redeliver=true", "again", b"again").await;
    let silent = stream.run().await;
    // The first one's time is over well before the second one's.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut once = posted(&broker, &pool, "", "once", b"once").await;
    let other = stream.run().await;
    let (answer, received) = tokio::join!(again.answer(), spare.answer());
    // Its other slots may be claimed before they have left the pool; nothing is sent to them.
    assert_eq!((&answer.json()["proof"], &received.body[..]), (&json!("received"), &b"again"[..]));
    assert_eq!(broker.metric("pilotlight_redeliveries_total").await, 1);
    assert_eq!(outcome(&once.answer().await.json()), (false, "unknown", 1));
    let (events, is_proper) = stream.rest().await;
    assert!(events.is_empty() && !is_proper, "the connection is reset: {events:?}");
    assert_eq!(broker.waiters("").await, 0);
    assert_eq!((verdicts(&broker, "frozen").await, verdicts(&broker, "lost").await), (1, 1));
    for target in [&silent.ack, &silent.ready, &other.ack, &other.ready] {
        assert_eq!(confirm(broker.public, target).await, 410, "too late");
    }
}

/// A token is of one offer of one stream, and cannot be guessed from another.
#[tokio::test]
async fn nobody_acknowledges_for_another() {
    let arguments = [&PATIENT[..], &["--remember-runs", "0s"]].concat();
    let broker = Broker::proving("received", &arguments);
    let pool = Pool::small("d1");
    let mut stream = EventStream::held(&broker, &pool, "one", 5).await;
    let (mut supervisors, mut runs) = (Vec::new(), Vec::new());
    for name in ["same", "same", "other"] {
        supervisors.push(posted(&broker, &pool, "", name, name.as_bytes()).await);
        runs.push(stream.run().await);
    }
    let tokens: Vec<&str> = runs.iter().map(|run| run.ack.split_once("token=").unwrap().1).collect();
    let (token, length) = (tokens[0], tokens[0].len());
    assert!(token.bytes().all(|digit| digit.is_ascii_hexdigit() && !digit.is_ascii_uppercase()), "{token}");
    assert_eq!(length, 32 + 16 + 8, "{token}");
    assert_eq!(token[32..48], tokens[1][32..48], "the session");
    assert_ne!(token[48..], tokens[1][48..], "the offer");
    let flipped = |at: usize| {
        let digit = if token.as_bytes()[at] == b'0' { "1" } else { "0" };
        format!("{}{digit}{}", &token[..at], &token[at + 1..])
    };
    let other_offer = format!("{}{}", &token[..48], &tokens[1][48..]);
    let forged = [
        String::new(),
        "0".to_owned(),
        "0".repeat(length),
        token.to_uppercase(),
        format!("{token}0"),
        token[1..].to_owned(),
        flipped(0),
        flipped(31),
        flipped(32),
        flipped(47),
        flipped(length - 1),
        other_offer,
    ];
    for target in ["ack", "ready"] {
        assert_eq!(confirm(broker.public, &format!("/v1/runs/same/{target}")).await, 403);
        for forged in forged.iter().filter(|forged| *forged != token) {
            let path = format!("/v1/runs/same/{target}?token={forged}");
            assert_eq!(confirm(broker.public, &path).await, 403, "{path}");
        }
        // Crossed: the path names another run than the token.
        assert_eq!(confirm(broker.public, &format!("/v1/runs/other/{target}?token={token}")).await, 403);
        assert_eq!(confirm(broker.public, &format!("/v1/runs/same/{target}?token={}", tokens[2])).await, 403);
    }
    let [first, second, third] = &mut supervisors[..] else { panic!() };
    for supervisor in [&mut *first, second, third] {
        assert!(supervisor.is_held().await);
    }
    // Two offers of one run.
    assert_eq!(confirm(broker.public, &runs[1].ack).await, 204);
    assert_eq!(outcome(&second.answer().await.json()), (true, "received", 1));
    assert!(first.is_held().await && third.is_held().await);
    assert_eq!(confirm(broker.public, &runs[0].ready).await, 204);
    assert_eq!(outcome(&first.answer().await.json()), (true, "received", 1));
    assert_eq!(confirm(broker.public, &runs[2].ack).await, 204);
    assert_eq!(outcome(&third.answer().await.json()), (true, "received", 1));
    broker.wait_for_waiters(3).await;
    // The tokens of a stream end with it.
    drop(stream);
    broker.wait_for_waiters(0).await;
    assert_eq!(confirm(broker.public, &runs[1].ready).await, 410);
    let other = Broker::start(&[]);
    assert_eq!(confirm(other.public, &runs[1].ready).await, 403, "another broker has another key");
}

#[tokio::test]
async fn a_weaker_proof_needs_no_acknowledgement_and_its_slot_is_freed_all_the_same() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut stream = EventStream::held(&broker, &pool, "one", 2).await;
    assert_eq!(outcome(&dispatch(&broker, &pool, "", "a", b"x").await.json()), (true, "written", 1));
    assert_eq!(
        outcome(&dispatch(&broker, &pool, "?proof=acked", "b", b"x").await.json()),
        (true, "acked", 1)
    );
    let runs = [stream.run().await, stream.run().await];
    assert_eq!(broker.waiters("").await, 0);
    for run in &runs {
        assert_eq!(confirm(broker.public, &run.ready).await, 204);
    }
    broker.wait_for_waiters(2).await;
    let received = dispatch(&broker, &pool, "?proof=received", "c", b"x");
    let (answer, _) = tokio::join!(received, take(&broker, &mut stream));
    assert_eq!(outcome(&answer.json()), (true, "received", 1));
}

#[tokio::test]
async fn slots_of_a_stream_that_is_written_to_leave_their_pool_and_come_back() {
    let broker = Broker::proving("received", &PATIENT);
    let pool = Pool::small("d1");
    let client = Client::connect_narrow(broker.public, 16 * 1024).await;
    let request = subscription(&pool, "?slots=3", &named("slow"));
    let mut stream = EventStream::open(client, &request).await.unwrap();
    broker.wait_for_waiters(3).await;
    let large = "x".repeat(4 << 20).into_bytes();
    let mut supervisor = posted(&broker, &pool, "", "large", &large).await;
    broker.wait_for_waiters(0).await;
    assert_eq!(dispatch(&broker, &pool, "", "next", b"x").await.json()["delivered"], false);
    let run = take(&broker, &mut stream).await;
    assert!(run.payload == large);
    assert_eq!(outcome(&supervisor.answer().await.json()), (true, "received", 1));
    broker.wait_for_waiters(2).await;
    assert_eq!(broker.metric("pilotlight_polls_total{end=\"set_aside\"}").await, 2);
    let (answer, _) = tokio::join!(dispatch(&broker, &pool, "", "next", b"x"), take(&broker, &mut stream));
    assert_eq!(outcome(&answer.json()), (true, "received", 1));
}

#[tokio::test]
async fn the_run_of_a_controller_that_dies_is_offered_again() {
    let broker = Broker::proving("received", &PATIENT);
    let pool = Pool::small("d1");
    for is_reset in [false, true] {
        let die = |stream: EventStream| {
            if is_reset {
                stream.client.stream.set_zero_linger().unwrap();
            }
        };
        let mut spare = WebSocket::held(&broker, &pool, "spare", 1).await;
        let mut stream = EventStream::held(&broker, &pool, "mortal", 1).await;
        let mut supervisor = posted(&broker, &pool, "?redeliver=true", "", b"x").await;
        let run = stream.run().await;
        die(stream);
        spare.take().await;
        assert_eq!(outcome(&supervisor.answer().await.json()), (true, "received", 2), "reset: {is_reset}");
        assert_eq!(confirm(broker.public, &run.ack).await, 410);
        broker.wait_for_waiters(0).await;
        let mut spare = WebSocket::held(&broker, &pool, "spare", 1).await;
        let mut stream = EventStream::held(&broker, &pool, "mortal", 1).await;
        let mut supervisor = posted(&broker, &pool, "", "", b"x").await;
        stream.run().await;
        die(stream);
        assert_eq!(outcome(&supervisor.answer().await.json()), (false, "unknown", 1), "reset: {is_reset}");
        assert!(spare.is_quiet().await);
        drop(spare);
        broker.wait_for_waiters(0).await;
        die(EventStream::held(&broker, &pool, "mortal", 2).await);
        broker.wait_for_waiters(0).await;
    }
}

#[test]
fn a_machine_that_falls_silent_costs_one_unproven_offer() {
    in_a_lab(async |mut lab| {
        let (failing, living) = (lab.node(), lab.node());
        let broker = lab_broker();
        let pool = Pool::small("d1");
        let mut streams = Vec::new();
        for (node, name, slots) in [(&living, "alive", 3), (&failing, "dead", 8)] {
            let request = subscription(&pool, &format!("?slots={slots}"), &named(name));
            streams.push(EventStream::open(node.connect(7070), &request).await.unwrap());
            // The newest is offered the first run.
            broker.wait_for_waiters(if name == "alive" { 3 } else { 11 }).await;
        }
        failing.die();
        let posting = dispatch(&broker, &pool, "?redeliver=true", "job-1", b"x");
        let receiving = async {
            let run = streams[0].run().await;
            let target = format!("POST {} HTTP/1.1\r\nhost: b\r\ncontent-length: 0\r\n\r\n", run.ack);
            living.connect(7070).ask(target).await.status
        };
        let (answer, status) = tokio::join!(posting, receiving);
        assert_eq!((outcome(&answer.json()), status), ((true, "received", 2), 204));
        assert_eq!(verdicts(&broker, "unacked").await, 1);
        broker.wait_for_waiters(2).await;
    });
}

#[tokio::test]
async fn a_stream_says_at_once_that_it_is_open_and_that_it_lives() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut client = broker.client().await;
    client.send(subscription(&pool, "", &format!("{}last-event-id: job-1\r\n", named("one")))).await;
    let mut seen = String::new();
    while !seen.contains("\n\n") {
        let mut bytes = [0; 4096];
        let read = tokio::io::AsyncReadExt::read(&mut client.stream, &mut bytes).await.unwrap();
        assert!(read > 0, "{seen}");
        seen.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    let seen = seen.to_lowercase();
    for field in ["x-accel-buffering: no", "cache-control: no-", "content-type: text/event-stream", "retry: "]
    {
        assert!(seen.contains(field), "no {field} in {seen}");
    }
    broker.wait_for_waiters(1).await;
    let mut stream = EventStream::connect(broker.public, &pool, "two", 1).await;
    assert!(stream.event().await.unwrap().retry.is_some());
    let living = tokio::time::timeout(Duration::from_secs(30), stream.event()).await;
    let comment = living.expect("a sign of life within 15 s").unwrap();
    assert_eq!((comment.kind.as_str(), comment.data.as_str(), comment.retry), ("", "", None));
}

#[tokio::test]
async fn a_wrong_number_of_slots_is_refused() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    for query in ["?slots=0", "?slots=257", "?slots=-1", "?slots=x", "?slots=", "?seats=1"] {
        let opened = EventStream::open(broker.client().await, &subscription(&pool, query, "")).await;
        let refusal = opened.err().expect(query).unwrap();
        assert_eq!((refusal.status, refusal.problem().as_str()), (400, "bad-parameter"), "{query}");
    }
    let _most = EventStream::held(&broker, &pool, "one", 256).await;
}

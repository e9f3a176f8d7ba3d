//! Owns the end-to-end tests of runs over a WebSocket: slots, acknowledgements, and what an offer costs that has none.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::client::Client;
use support::cluster::{dispatch, native_poll, native_post, outcome, posted, verdicts};
use support::lab::{broker as lab_broker, in_a_lab};
use support::proxy::{NGINX, start};
use support::session_bytes::{BINARY, PING, TEXT, masked_frame};
use support::websocket::{Message, PushedRun, WebSocket, handshake, named};
use support::{Broker, Pool};
use tokio::io::AsyncWriteExt;

/// Time enough for the steps of a test within one proof.
const PATIENT: [&str; 4] = ["--proof-timeout", "5s", "--dispatch-budget", "9s"];

async fn waiting(broker: &Broker) -> u64 {
    broker.metric("pilotlight_waiters{transport=\"websocket\"}").await
}

#[tokio::test]
async fn a_run_is_received_when_it_is_acknowledged_and_the_connection_takes_the_next() {
    let broker = Broker::proving("received", &[]);
    let pool = Pool::small("d1");
    let mut socket = WebSocket::connect(broker.public, &pool, "one").await;
    assert!(socket.is_quiet().await);
    assert_eq!(broker.waiters("").await, 0, "no slot is ready");
    for number in 0..3 {
        socket.ready(1).await;
        broker.wait_for_waiters(1).await;
        assert_eq!(waiting(&broker).await, 1);
        let payload: Vec<u8> = (0..=255).cycle().take(number * 700).collect();
        let name = format!("run-{number}");
        let head = format!("content-type: application/x-run\r\npilotlight-run: {name}\r\n");
        let mut post = native_post(&pool, "", "", &payload);
        let at = post.windows(14).position(|window| window == b"content-length").unwrap();
        post.splice(at..at, head.into_bytes());
        let mut supervisor = broker.client().await;
        supervisor.send(post).await;
        let run = socket.run().await;
        let expected = PushedRun {
            run: name.clone(),
            offer: run.offer,
            content_type: "application/x-run".to_owned(),
            payload,
            reply: None,
        };
        assert_eq!(run, expected);
        assert!(supervisor.is_held().await, "written is no proof");
        socket.ack(&run).await;
        let answer = supervisor.answer().await.json();
        let delivered = json!(
            {"delivered": true, "proof": "received", "offers": 1, "controller": "one", "run": name}
        );
        assert_eq!(answer, delivered);
        assert_eq!(broker.waiters("").await, 0, "an acknowledgement frees no slot");
    }
    assert_eq!(verdicts(&broker, "received").await, 3);
}

#[tokio::test]
async fn a_run_without_name_or_type_gets_both() {
    let broker = Broker::proving("received", &[]);
    let pool = Pool::small("d1");
    let mut socket = WebSocket::held(&broker, &pool, "one", 1).await;
    let (answer, run) = tokio::join!(dispatch(&broker, &pool, "", "", b"x"), socket.take());
    assert_eq!(answer.json()["run"], run.run.as_str());
    assert_eq!((run.content_type.as_str(), &run.payload[..]), ("application/octet-stream", &b"x"[..]));
}

#[tokio::test]
async fn a_stock_supervisors_run_reaches_a_slot() {
    let broker = Broker::proving("received", &[]);
    let pool = Pool::small("d1");
    let mut socket = WebSocket::held(&broker, &pool, "one", 1).await;
    let body = pool.body("run_1");
    let (answer, run) = tokio::join!(broker.post(&body), socket.take());
    assert_eq!(outcome(&answer.1), (true, "received", 1));
    let message: Value = serde_json::from_slice(&run.payload).unwrap();
    assert_eq!((run.run.as_str(), message["run"]["friendlyId"].as_str()), ("run_1", Some("run_1")));
    assert_eq!(run.content_type, "application/json");
}

/// A poll's answer that nginx has read proves only that.
#[tokio::test]
async fn behind_nginx_an_acknowledgement_is_the_controllers_own() {
    let broker = Broker::proving("received", &[]);
    let headers = "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header Upgrade $http_upgrade; \
         proxy_set_header Connection upgrade;";
    let configuration = NGINX.replace("{headers}", headers);
    let Some(proxy) = start(&broker, &configuration, "nginx -c {folder}/configuration -p {folder}") else {
        return;
    };
    let pool = Pool::small("d1");
    let mut socket = WebSocket::connect(proxy.address, &pool, "one").await;
    socket.ready(2).await;
    broker.wait_for_waiters(2).await;
    let (answer, run) = tokio::join!(dispatch(&broker, &pool, "", "job-1", b"x"), socket.take());
    assert_eq!((outcome(&answer.json()), run.run.as_str()), ((true, "received", 1), "job-1"));
    let (answer, _) = tokio::join!(dispatch(&broker, &pool, "", "job-2", b"x"), socket.run());
    assert_eq!(outcome(&answer.json()), (false, "unknown", 1), "nginx has read it");
}

#[tokio::test]
async fn slots_take_runs_at_once_and_none_waits_for_another() {
    let broker = Broker::proving("received", &PATIENT);
    let pool = Pool::small("d1");
    let mut socket = WebSocket::held(&broker, &pool, "one", 3).await;
    assert_eq!(waiting(&broker).await, 3, "the slots of one controller do not replace each other");
    let (mut supervisors, mut runs) = (Vec::new(), Vec::new());
    for number in 0..3 {
        supervisors.push(posted(&broker, &pool, "", &format!("job-{number}"), &[number]).await);
        runs.push(socket.run().await);
    }
    for (number, run) in (0_u8..).zip(&runs) {
        assert_eq!((run.run.as_str(), &run.payload[..]), (&*format!("job-{number}"), &[number][..]));
    }
    assert_eq!(dispatch(&broker, &pool, "", "", b"x").await.json()["delivered"], false, "no slot is left");
    // The first one is silent for a while.
    for at in [2, 1] {
        socket.ack(&runs[at]).await;
        assert_eq!(outcome(&supervisors[at].answer().await.json()), (true, "received", 1));
    }
    socket.ready(2).await;
    let (answer, fourth) = tokio::join!(dispatch(&broker, &pool, "?wait=1s", "job-3", b"x"), socket.take());
    assert_eq!((outcome(&answer.json()), fourth.run.as_str()), ((true, "received", 1), "job-3"));
    assert!(supervisors[0].is_held().await);
    socket.ack(&runs[0]).await;
    assert_eq!(outcome(&supervisors[0].answer().await.json()), (true, "received", 1));
}

#[tokio::test]
async fn a_silent_acknowledgement_costs_its_offer_and_the_place_of_its_controller() {
    let broker = Broker::proving("received", &["--proof-timeout", "3s", "--dispatch-budget", "15s"]);
    let pool = Pool::small("d1");
    let mut spare = native_poll(&broker, &pool, "spare").await;
    let mut socket = WebSocket::held(&broker, &pool, "silent", 4).await;
    let mut again = posted(&broker, &pool, "?redeliver=true", "again", b"again").await;
    assert_eq!(socket.run().await.run, "again");
    // The first one's time is over well before the second one's.
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Offers that are open when the connection ends: their bytes cannot be called back.
    let mut once = posted(&broker, &pool, "", "once", b"once").await;
    assert_eq!(socket.run().await.run, "once");
    assert_eq!(broker.waiters("").await, 3);
    let receipt = async {
        let run = spare.answer().await;
        String::from_utf8(run.body).unwrap()
    };
    let (answer, received) = tokio::join!(again.answer(), receipt);
    // Its other slots may be claimed before they have left the pool; nothing is sent to them.
    assert_eq!((&answer.json()["proof"], received.as_str()), (&json!("received"), "again"));
    assert_eq!(broker.metric("pilotlight_redeliveries_total").await, 1);
    assert_eq!(outcome(&once.answer().await.json()), (false, "unknown", 1));
    assert_eq!(socket.close().await, None, "the connection is reset");
    assert_eq!(broker.waiters("").await, 0);
    assert_eq!((verdicts(&broker, "frozen").await, verdicts(&broker, "lost").await), (1, 1));
}

#[tokio::test]
async fn an_open_offer_of_a_silent_connection_goes_on_where_it_may() {
    let broker = Broker::proving("received", &["--dispatch-budget", "5s"]);
    let pool = Pool::small("d1");
    let mut spares = Vec::new();
    for number in 0..3 {
        spares.push(WebSocket::held(&broker, &pool, &format!("spare-{number}"), 1).await);
    }
    let mut socket = WebSocket::held(&broker, &pool, "silent", 3).await;
    let mut supervisors = Vec::new();
    for number in 0..3 {
        supervisors.push(posted(&broker, &pool, "?redeliver=true", &format!("job-{number}"), b"x").await);
        socket.run().await;
    }
    let mut received = Vec::new();
    for spare in &mut spares {
        received.push(spare.take().await.run);
    }
    received.sort();
    assert_eq!(received, ["job-0", "job-1", "job-2"]);
    for supervisor in &mut supervisors {
        assert_eq!(outcome(&supervisor.answer().await.json()), (true, "received", 2));
    }
}

#[tokio::test]
async fn an_acknowledgement_is_of_the_offer_that_it_names() {
    let arguments = [&PATIENT[..], &["--remember-runs", "0s"]].concat();
    let broker = Broker::proving("received", &arguments);
    let pool = Pool::small("d1");
    let mut socket = WebSocket::held(&broker, &pool, "one", 5).await;
    let (mut supervisors, mut runs) = (Vec::new(), Vec::new());
    for name in ["same", "same", "other"] {
        supervisors.push(posted(&broker, &pool, "", name, name.as_bytes()).await);
        runs.push(socket.run().await);
    }
    let [first, second, third] = &mut supervisors[..] else { panic!() };
    assert!(runs[0].offer != runs[1].offer && runs[1].offer != runs[2].offer, "{runs:?}");
    let crossed = json!({"type": "ack", "run": "other", "offer": runs[1].offer});
    let unsure = json!({"type": "ack", "run": "same"});
    let stranger = json!({"type": "ack", "run": "nobody's"});
    for ignored in [crossed, unsure.clone(), stranger] {
        socket.say(&ignored).await;
        for supervisor in [&mut *first, second, third] {
            assert!(supervisor.is_held().await, "{ignored}");
        }
    }
    socket.ack(&runs[1]).await;
    assert_eq!(outcome(&second.answer().await.json()), (true, "received", 1));
    // It is late now, and acknowledges nothing else.
    socket.ack(&runs[1]).await;
    assert!(first.is_held().await && third.is_held().await);
    // One offer of that run is open.
    socket.say(&unsure).await;
    assert_eq!(outcome(&first.answer().await.json()), (true, "received", 1));
    assert!(third.is_held().await);
    socket.say(&json!({"type": "ack", "run": "other", "note": {"of": ["no", "interest"]}})).await;
    assert_eq!(outcome(&third.answer().await.json()), (true, "received", 1));
    assert_eq!(broker.waiters("").await, 2);
}

/// Two connections cannot acknowledge for each other, although their offers may have the same numbers.
#[tokio::test]
async fn an_acknowledgement_counts_on_its_own_connection_only() {
    let broker = Broker::proving("received", &PATIENT);
    let pool = Pool::small("d1");
    let mut other = WebSocket::held(&broker, &pool, "other", 1).await;
    let mut socket = WebSocket::held(&broker, &pool, "one", 1).await;
    let mut supervisor = posted(&broker, &pool, "", "job-1", b"x").await;
    let run = socket.run().await;
    other.say(&json!({"type": "ack", "run": "job-1"})).await;
    assert!(supervisor.is_held().await);
    other.ack(&run).await;
    assert!(supervisor.is_held().await);
    socket.ack(&run).await;
    assert_eq!(supervisor.answer().await.json()["controller"], "one");
}

#[tokio::test]
async fn a_message_that_breaks_the_rules_ends_the_connection_with_its_code() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let long = format!("{{\"type\":\"ready\",\"slots\":1,\"note\":\"{}\"}}", "x".repeat(4096));
    let [ready, first_half] = ["{\"type\":\"ready\",\"slots\":1}", "{\"type\":\"rea"];
    let unmasked = [&[TEXT, u8::try_from(ready.len()).unwrap()], ready.as_bytes()].concat();
    let text = |message: &str| masked_frame(TEXT, message.as_bytes());
    for (bytes, code) in [
        (text("{\"type\":\"hello\"}"), 1008),
        (text("{\"slots\":1}"), 1008),
        (text("ready"), 1008),
        (text("[]"), 1008),
        (text(""), 1008),
        (text("{\"type\":\"ready\",\"slots\":0}"), 1008),
        (text("{\"type\":\"ready\",\"slots\":-1}"), 1008),
        (text("{\"type\":\"ready\",\"slots\":257}"), 1008),
        (text("{\"type\":\"ready\",\"slots\":\"1\"}"), 1008),
        (text("{\"type\":\"ack\",\"offer\":1}"), 1008),
        (text("{\"type\":\"ack\",\"run\":\"r\",\"offer\":1}"), 1008),
        (masked_frame(BINARY, ready.as_bytes()), 1003),
        (masked_frame(TEXT, b"{\"type\":\"\xff\"}"), 1007),
        (text(&long), 1009),
        (unmasked, 1002),
        (masked_frame(TEXT | 0x40, ready.as_bytes()), 1002),
        (masked_frame(0x83, b""), 1002),
        (masked_frame(0x80, b"a continuation of nothing"), 1002),
        ([masked_frame(0x01, first_half.as_bytes()), text(ready)].concat(), 1002),
        (masked_frame(PING & 0x7f, b""), 1002),
        (masked_frame(PING, &[b'x'; 126]), 1002),
    ] {
        let mut socket = WebSocket::held(&broker, &pool, "one", 1).await;
        socket.client.send(&bytes).await;
        let (got, reason) = socket.close().await.unwrap_or_default();
        assert_eq!(got, code, "{}: {reason:?}", bytes.escape_ascii());
        assert!(code != 1008 || !reason.is_empty(), "{}", bytes.escape_ascii());
        broker.wait_for_waiters(0).await;
    }
}

#[tokio::test]
async fn no_more_than_256_slots_are_outstanding() {
    let broker = Broker::proving("received", &PATIENT);
    let pool = Pool::small("d1");
    let mut socket = WebSocket::held(&broker, &pool, "one", 256).await;
    // A slot with an open offer is outstanding, too, until it is acknowledged.
    let mut supervisor = posted(&broker, &pool, "", "job-1", b"x").await;
    let run = socket.run().await;
    socket.ack(&run).await;
    supervisor.answer().await;
    socket.ready(1).await;
    broker.wait_for_waiters(256).await;
    socket.ready(1).await;
    let (code, reason) = socket.close().await.unwrap();
    assert_eq!(code, 1008, "{reason}");
    assert!(reason.contains("256"), "{reason}");
    broker.wait_for_waiters(0).await;
}

#[tokio::test]
async fn a_message_may_come_in_many_frames_and_pings_between_them() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut socket = WebSocket::connect(broker.public, &pool, "one").await;
    let ready = b"{\"type\":\"ready\",\"slots\":2}";
    for (number, byte) in ready.iter().enumerate() {
        let first = u8::from(number == 0);
        let end = if number + 1 == ready.len() { 0x80 } else { 0 };
        for piece in masked_frame(first | end, &[*byte]) {
            socket.client.send([piece]).await;
        }
        if number == 7 {
            socket.send_frame(PING, b"between").await;
            assert_eq!(socket.message().await, Message::Pong(b"between".to_vec()));
        }
    }
    broker.wait_for_waiters(2).await;
}

#[tokio::test]
async fn a_weaker_proof_needs_no_acknowledgement() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut socket = WebSocket::held(&broker, &pool, "one", 3).await;
    assert_eq!(outcome(&dispatch(&broker, &pool, "", "a", b"x").await.json()), (true, "written", 1));
    assert_eq!(
        outcome(&dispatch(&broker, &pool, "?proof=acked", "b", b"x").await.json()),
        (true, "acked", 1)
    );
    let [first, second] = [socket.run().await, socket.run().await];
    assert_eq!([first.run.as_str(), second.run.as_str()], ["a", "b"]);
    // Acknowledgements after the answer are late, and end nothing.
    socket.ack(&first).await;
    let received = dispatch(&broker, &pool, "?proof=received", "c", b"x");
    let (answer, _) = tokio::join!(received, socket.take());
    assert_eq!(outcome(&answer.json()), (true, "received", 1));
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(socket.is_quiet().await, "a missing acknowledgement that nobody asked for resets nothing");
    socket.ready(1).await;
    broker.wait_for_waiters(1).await;
}

/// The broker writes a large run over a while; meanwhile no other run is written behind it.
#[tokio::test]
async fn slots_of_a_connection_that_is_written_to_leave_their_pool_and_come_back() {
    let broker = Broker::proving("received", &PATIENT);
    let pool = Pool::small("d1");
    let client = Client::connect_narrow(broker.public, 16 * 1024).await;
    let mut socket = WebSocket::open(client, &handshake(&pool.path(), &named("slow"))).await.unwrap();
    socket.ready(3).await;
    broker.wait_for_waiters(3).await;
    let large: Vec<u8> = (0..=255).cycle().take(4 << 20).collect();
    let mut supervisor = posted(&broker, &pool, "", "large", &large).await;
    broker.wait_for_waiters(0).await;
    assert_eq!(broker.pools("deployment=d1").await["waiters"], 0);
    assert_eq!(dispatch(&broker, &pool, "", "next", b"x").await.json()["delivered"], false);
    let run = socket.run().await;
    assert_eq!(run.payload, large);
    broker.wait_for_waiters(2).await;
    socket.ack(&run).await;
    assert_eq!(outcome(&supervisor.answer().await.json()), (true, "received", 1));
    assert_eq!(broker.metric("pilotlight_polls_total{end=\"set_aside\"}").await, 2);
    let (answer, next) = tokio::join!(dispatch(&broker, &pool, "", "next", b"x"), socket.take());
    assert_eq!((outcome(&answer.json()), next.run.as_str()), ((true, "received", 1), "next"));
}

#[tokio::test]
async fn a_run_that_is_not_sent_as_a_whole_cannot_be_acknowledged() {
    let broker = Broker::proving("received", &PATIENT);
    let pool = Pool::small("d1");
    let client = Client::connect_narrow(broker.public, 16 * 1024).await;
    let mut socket = WebSocket::open(client, &handshake(&pool.path(), &named("hasty"))).await.unwrap();
    socket.ready(3).await;
    broker.wait_for_waiters(3).await;
    let mut supervisor = posted(&broker, &pool, "", "large", &vec![7; 4 << 20]).await;
    broker.wait_for_waiters(0).await;
    socket.say(&json!({"type": "ack", "run": "large", "offer": 1})).await;
    assert_eq!(outcome(&supervisor.answer().await.json()), (false, "unknown", 1));
    broker.wait_for_metric("pilotlight_connections{listener=\"public\",tls=\"false\"}", 1).await;
}

#[tokio::test]
async fn slots_whose_place_was_taken_during_a_large_run_wait_for_another() {
    let broker = Broker::proving("received", &[&PATIENT[..], &["--max-waiters-per-pool", "3"]].concat());
    let pool = Pool::small("d1");
    let client = Client::connect_narrow(broker.public, 16 * 1024).await;
    let mut slow = WebSocket::open(client, &handshake(&pool.path(), &named("slow"))).await.unwrap();
    slow.ready(3).await;
    broker.wait_for_waiters(3).await;
    let large = vec![7; 4 << 20];
    let mut supervisor = posted(&broker, &pool, "", "large", &large).await;
    broker.wait_for_waiters(0).await;
    let other = WebSocket::held(&broker, &pool, "other", 3).await;
    let run = slow.run().await;
    slow.ack(&run).await;
    assert_eq!(outcome(&supervisor.answer().await.json()), (true, "received", 1));
    assert!(slow.is_quiet().await, "it is not sent away");
    drop(other);
    // At its next ping, they find a place again.
    broker.wait_until("its slots are back", async || broker.waiters("").await == 2).await;
}

/// How a controller's connection dies.
#[derive(Debug, Clone, Copy)]
enum Death {
    Fin,
    Reset,
    CloseFrame,
}

impl Death {
    async fn strike(self, mut socket: WebSocket) {
        match self {
            Self::Fin => {}
            Self::Reset => socket.client.stream.set_zero_linger().unwrap(),
            Self::CloseFrame => {
                socket.send_frame(0x88, &1000_u16.to_be_bytes()).await;
                assert_eq!(socket.close_code().await, 1000);
            }
        }
    }
}

#[tokio::test]
async fn the_run_of_a_controller_that_dies_is_offered_again() {
    let broker = Broker::proving("received", &PATIENT);
    let pool = Pool::small("d1");
    for death in [Death::Fin, Death::Reset, Death::CloseFrame] {
        let mut spare = WebSocket::held(&broker, &pool, "spare", 1).await;
        let mut socket = WebSocket::held(&broker, &pool, "mortal", 1).await;
        let mut supervisor = posted(&broker, &pool, "?redeliver=true", "", b"x").await;
        socket.run().await;
        death.strike(socket).await;
        spare.take().await;
        assert_eq!(outcome(&supervisor.answer().await.json()), (true, "received", 2), "{death:?}");
        broker.wait_for_waiters(0).await;
        // Without permission nobody else gets it.
        let mut spare = WebSocket::held(&broker, &pool, "spare", 1).await;
        let mut socket = WebSocket::held(&broker, &pool, "mortal", 1).await;
        let mut supervisor = posted(&broker, &pool, "", "", b"x").await;
        socket.run().await;
        death.strike(socket).await;
        assert_eq!(outcome(&supervisor.answer().await.json()), (false, "unknown", 1), "{death:?}");
        assert!(spare.is_quiet().await);
        drop(spare);
        broker.wait_for_waiters(0).await;
        // An idle one costs no offer.
        let socket = WebSocket::held(&broker, &pool, "mortal", 2).await;
        death.strike(socket).await;
        broker.wait_for_waiters(0).await;
    }
}

#[tokio::test]
async fn a_killed_process_is_no_receipt() {
    let broker = Broker::proving("received", &PATIENT);
    let pool = Pool::small("d1");
    let mut spare = WebSocket::held(&broker, &pool, "spare", 1).await;
    let bytes = [
        handshake(&pool.path(), &named("victim")).into_bytes(),
        masked_frame(TEXT, b"{\"type\":\"ready\",\"slots\":1}"),
    ]
    .concat();
    let escaped: Vec<String> = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    let escaped = escaped.concat();
    let port = broker.public.port();
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; printf '{escaped}' >&3; read -r");
    let mut victim = Command::new("bash").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
    broker.wait_for_waiters(2).await;
    let mut supervisor = posted(&broker, &pool, "?redeliver=true", "", b"x").await;
    assert!(supervisor.is_held().await);
    victim.kill().unwrap();
    victim.wait().unwrap();
    spare.take().await;
    assert_eq!(outcome(&supervisor.answer().await.json()), (true, "received", 2));
    broker.wait_for_waiters(0).await;
}

#[test]
fn a_machine_that_falls_silent_costs_one_unproven_offer() {
    in_a_lab(async |mut lab| {
        let (failing, living) = (lab.node(), lab.node());
        let broker = lab_broker();
        let pool = Pool::small("d1");
        let mut sockets = Vec::new();
        for (node, name, slots) in [(&living, "alive", 3), (&failing, "dead", 8)] {
            let handshake = handshake(&pool.path(), &named(name));
            let mut socket = WebSocket::open(node.connect(7070), &handshake).await.unwrap();
            socket.ready(slots).await;
            sockets.push(socket);
            // The newest is offered the first run.
            broker.wait_for_waiters(if name == "alive" { 3 } else { 11 }).await;
        }
        failing.die();
        for (number, offers) in [(0, 2), (1, 1)] {
            let name = format!("job-{number}");
            let posting = dispatch(&broker, &pool, "?redeliver=true", &name, b"x");
            let (answer, run) = tokio::join!(posting, sockets[0].take());
            assert_eq!((outcome(&answer.json()), run.run), ((true, "received", offers), name));
        }
        assert_eq!(verdicts(&broker, "unacked").await, 1);
        broker.wait_for_waiters(1).await;
    });
}

#[tokio::test]
async fn a_controller_that_answers_no_ping_is_ended() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut deaf = WebSocket::held(&broker, &pool, "deaf", 2).await;
    let mut alive = WebSocket::held(&broker, &pool, "alive", 1).await;
    let pinging = async {
        for _ in 0..2 {
            let Message::Ping(payload) = alive.message().await else { panic!("no ping") };
            alive.send_frame(0x8a, &payload).await;
        }
    };
    let ending = async {
        assert!(matches!(deaf.message().await, Message::Ping(_)));
        while deaf.message().await != Message::End {}
    };
    let both = async { tokio::join!(pinging, ending) };
    tokio::time::timeout(Duration::from_secs(60), both).await.expect("two pings, and an end");
    broker.wait_for_waiters(1).await;
}

#[tokio::test]
async fn bytes_behind_the_handshake_are_messages() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut client = broker.client().await;
    let together = [
        handshake(&pool.path(), &named("one")).into_bytes(),
        masked_frame(TEXT, b"{\"type\":\"ready\",\"slots\":2}"),
    ]
    .concat();
    client.stream.write_all(&together).await.unwrap();
    broker.wait_for_waiters(2).await;
}

#[tokio::test]
async fn operators_see_slots_and_their_runs_by_the_name_of_their_controller() {
    let broker = Broker::proving("received", &[]);
    let pool = Pool::small("d1");
    let mut socket = WebSocket::held(&broker, &pool, "one", 2).await;
    let poll = native_poll(&broker, &pool, "two").await;
    let listed: Value = serde_json::from_str(&broker.operate("GET", "/waiters").await.1).unwrap();
    let mut names: Vec<&str> =
        listed["waiters"].as_array().unwrap().iter().map(|row| row["controller"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["one", "one", "two"]);
    let by =
        async |transport| broker.metric(&format!("pilotlight_waiters{{transport=\"{transport}\"}}")).await;
    assert_eq!([by("poll").await, by("websocket").await, by("sse").await], [1, 2, 0]);
    drop(poll);
    broker.wait_for_waiters(2).await;
    let (answer, _) = tokio::join!(dispatch(&broker, &pool, "", "job-1", b"x"), socket.take());
    assert_eq!(answer.json()["controller"], "one");
    let row = async || {
        let listed = broker.operate("GET", "/runs/job-1").await.1;
        serde_json::from_str::<Value>(&listed).unwrap().pointer("/runs/0").cloned().unwrap_or_default()
    };
    broker.wait_until("the run is recorded", async || row().await["outcome"] == "hit").await;
    let row = row().await;
    assert_eq!((&row["controller"], &row["proof"]), (&json!("one"), &json!("received")), "{row}");
}

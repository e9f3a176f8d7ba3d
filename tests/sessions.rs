//! Owns the end-to-end tests of how sessions begin and end, over WebSockets and event streams alike: who may wait, replacement,
//! drain, retirement, limits.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::process::Signal;
use serde_json::{Value, json};
use support::client::{Answer, Client};
use support::cluster::{dispatch, native_get, native_poll, native_post, outcome};
use support::event_stream::{EventStream, confirm, subscription};
use support::websocket::{Message, WebSocket, handshake, named};
use support::{Broker, PATIENCE, Pool};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    WebSocket,
    EventStream,
}

const KINDS: [Kind; 2] = [Kind::WebSocket, Kind::EventStream];

/// A controller that waits with slots.
enum Session {
    WebSocket(WebSocket),
    EventStream(EventStream, std::net::SocketAddr),
}

/// What is necessary to acknowledge a run.
enum Received {
    Message(support::websocket::PushedRun),
    Event(support::event_stream::StreamedRun),
}

impl Session {
    async fn held(kind: Kind, broker: &Broker, pool: &Pool, controller: &str, slots: u64) -> Self {
        match kind {
            Kind::WebSocket => Self::WebSocket(WebSocket::held(broker, pool, controller, slots).await),
            Kind::EventStream => {
                let stream = EventStream::held(broker, pool, controller, slots).await;
                Self::EventStream(stream, broker.public)
            }
        }
    }

    /// The same, while as many waiters are there already.
    async fn instead(kind: Kind, broker: &Broker, pool: &Pool, controller: &str, slots: u64) -> Self {
        match kind {
            Kind::WebSocket => {
                let mut socket = WebSocket::connect(broker.public, pool, controller).await;
                socket.ready(slots).await;
                Self::WebSocket(socket)
            }
            Kind::EventStream => {
                let stream = EventStream::connect(broker.public, pool, controller, slots).await;
                Self::EventStream(stream, broker.public)
            }
        }
    }

    async fn run(&mut self) -> Received {
        match self {
            Self::WebSocket(socket) => Received::Message(socket.run().await),
            Self::EventStream(stream, _) => Received::Event(stream.run().await),
        }
    }

    async fn ack(&mut self, run: &Received) {
        match (self, run) {
            (Self::WebSocket(socket), Received::Message(run)) => socket.ack(run).await,
            (Self::EventStream(_, address), Received::Event(run)) => {
                assert_eq!(confirm(*address, &run.ack).await, 204);
            }
            _ => panic!("a run of another session"),
        }
    }

    async fn take(&mut self) {
        let run = self.run().await;
        self.ack(&run).await;
    }

    /// How the session ends, in words that are the same for both kinds where they say the same.
    async fn end(&mut self) -> String {
        match self {
            Self::WebSocket(socket) => {
                let first = tokio::time::timeout(PATIENCE, socket.message()).await.expect("an end in time");
                match first {
                    Message::Drain { retry_in_ms } => {
                        assert!(retry_in_ms <= 60_000, "{retry_in_ms}");
                        assert_eq!(socket.close_code().await, 1001);
                        "drained".to_owned()
                    }
                    Message::Close(code, reason) => match code {
                        4410 => "retired".to_owned(),
                        4409 => "replaced".to_owned(),
                        1013 => format!("limit: {reason}"),
                        code => format!("{code} {reason}"),
                    },
                    Message::Run(_) | Message::Ping(_) | Message::Pong(_) | Message::End => {
                        format!("{first:?}")
                    }
                }
            }
            Self::EventStream(stream, _) => {
                let (events, is_proper) = stream.rest().await;
                assert!(is_proper, "the stream is cut off after {events:?}");
                // The first advice says that the stream is open.
                let mut events = events.into_iter().filter(|event| event.retry != Some(1000));
                match (events.next(), events.next()) {
                    (Some(event), None) if ["retired", "replaced"].contains(&&*event.kind) => event.kind,
                    (Some(event), None) if event.retry.is_some() && event.comment.is_empty() => {
                        "drained".to_owned()
                    }
                    (Some(event), None) if event.retry.is_some() => format!("limit: {}", event.comment),
                    other => format!("{other:?}"),
                }
            }
        }
    }

    /// Whether no run and no end comes for a while.
    async fn is_quiet(&mut self) -> bool {
        match self {
            Self::WebSocket(socket) => socket.is_quiet().await,
            Self::EventStream(stream, _) => stream.is_quiet().await,
        }
    }
}

/// The refusal of a handshake or of a subscription with these fields; none if the connection is closed without an answer.
async fn refusal(kind: Kind, broker: &Broker, pool: &Pool, fields: &str) -> Option<Answer> {
    let client = broker.client().await;
    match kind {
        Kind::WebSocket => {
            WebSocket::open(client, &handshake(&pool.path(), fields)).await.err().expect("refused")
        }
        Kind::EventStream => {
            EventStream::open(client, &subscription(pool, "", fields)).await.err().expect("refused")
        }
    }
}

async fn polls_ended(broker: &Broker, end: &str) -> u64 {
    broker.metric(&format!("pilotlight_polls_total{{end=\"{end}\"}}")).await
}

#[tokio::test]
async fn a_new_connection_of_a_controller_replaces_all_slots_of_its_older_one() {
    for older in KINDS {
        for newer in KINDS {
            let broker = Broker::proving("received", &[]);
            let pool = Pool::small("d1");
            let mut other = Session::held(older, &broker, &pool, "other", 2).await;
            let mut old = Session::held(older, &broker, &pool, "one", 3).await;
            let mut new = Session::instead(newer, &broker, &pool, "one", 2).await;
            assert_eq!(old.end().await, "replaced", "{older:?} by {newer:?}");
            broker.wait_for_waiters(4).await;
            assert_eq!(polls_ended(&broker, "replaced").await, 3);
            // Another pool's and another name's stay.
            assert!(other.is_quiet().await);
            let elsewhere = Session::held(newer, &broker, &Pool::small("d2"), "one", 1).await;
            assert!(new.is_quiet().await);
            drop(elsewhere);
            for _ in 0..2 {
                let (answer, ()) = tokio::join!(dispatch(&broker, &pool, "", "", b"x"), new.take());
                assert_eq!(answer.json()["controller"], "one");
            }
        }
    }
}

#[tokio::test]
async fn an_open_offer_of_a_replaced_connection_can_still_be_acknowledged() {
    for kind in KINDS {
        let broker = Broker::proving("received", &["--proof-timeout", "5s", "--dispatch-budget", "9s"]);
        let pool = Pool::small("d1");
        let mut old = Session::held(kind, &broker, &pool, "one", 2).await;
        let mut supervisor = broker.client().await;
        supervisor.send(native_post(&pool, "", "", b"x")).await;
        let run = old.run().await;
        let _new = Session::instead(kind, &broker, &pool, "one", 3).await;
        broker.wait_for_waiters(3).await;
        old.ack(&run).await;
        assert_eq!(outcome(&supervisor.answer().await.json()), (true, "received", 1));
        assert_eq!(old.end().await, "replaced");
    }
}

#[tokio::test]
async fn a_poll_replaces_a_session_and_a_session_a_poll() {
    for kind in KINDS {
        let broker = Broker::start(&[]);
        let pool = Pool::small("d1");
        let mut session = Session::held(kind, &broker, &pool, "one", 2).await;
        let mut poll = broker.client().await;
        poll.send(native_get(&pool, "one")).await;
        assert_eq!(session.end().await, "replaced");
        broker.wait_for_waiters(1).await;
        let _session = Session::instead(kind, &broker, &pool, "one", 3).await;
        assert!(poll.is_closed_silently().await);
        broker.wait_for_waiters(3).await;
        assert_eq!(polls_ended(&broker, "replaced").await, 3);
    }
}

#[tokio::test]
async fn controllers_without_a_name_replace_nobody() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut sockets = Vec::new();
    for number in 1..=3 {
        let client = broker.client().await;
        let mut socket = WebSocket::open(client, &handshake(&pool.path(), "")).await.unwrap();
        socket.ready(1).await;
        broker.wait_for_waiters(number).await;
        sockets.push(socket);
    }
    let opened = EventStream::open(broker.client().await, &subscription(&pool, "?slots=2", "")).await;
    let _stream = opened.unwrap();
    broker.wait_for_waiters(5).await;
}

/// The session has an open offer and an idle slot.
#[tokio::test]
async fn a_drain_ends_sessions_once_their_offers_have_ended() {
    for kind in KINDS {
        let arguments = ["--drain-window", "200ms", "--proof-timeout", "5s", "--dispatch-budget", "9s"];
        let mut broker = Broker::proving("received", &arguments);
        let pool = Pool::small("d1");
        let mut working = Session::held(kind, &broker, &pool, "working", 2).await;
        let mut supervisor = broker.client().await;
        supervisor.send(native_post(&pool, "", "", b"x")).await;
        let run = working.run().await;
        let mut idle = Session::held(kind, &broker, &pool, "idle", 3).await;
        // Its one slot has taken a run: it is in no pool.
        let mut taken = Session::held(kind, &broker, &pool, "taken", 1).await;
        let (answer, ()) = tokio::join!(dispatch(&broker, &pool, "", "", b"x"), taken.take());
        assert_eq!(answer.json()["controller"], "taken");
        broker.signal(Signal::TERM);
        assert_eq!(idle.end().await, "drained", "{kind:?}");
        assert_eq!(taken.end().await, "drained", "{kind:?}");
        assert!(supervisor.is_held().await);
        working.ack(&run).await;
        assert_eq!(outcome(&supervisor.answer().await.json()), (true, "received", 1));
        assert_eq!(working.end().await, "drained", "{kind:?}");
        drop((working, idle, taken, supervisor));
        assert!(broker.ended().await.success());
    }
}

#[tokio::test]
async fn a_draining_broker_takes_no_new_session() {
    for kind in KINDS {
        let broker = Broker::start(&["--drain-window", "0s"]);
        let pool = Pool::small("d1");
        let mut session = Session::held(kind, &broker, &pool, "one", 1).await;
        assert_eq!(broker.operate("POST", "/drain").await.0, 200);
        assert_eq!(session.end().await, "drained");
        let mut late = match kind {
            Kind::WebSocket => {
                let opened = WebSocket::open(broker.client().await, &handshake(&pool.path(), "")).await;
                match opened {
                    Ok(socket) => Session::WebSocket(socket),
                    Err(refusal) => {
                        assert_eq!(refusal.unwrap().status, 503);
                        continue;
                    }
                }
            }
            Kind::EventStream => {
                let opened = EventStream::open(broker.client().await, &subscription(&pool, "", "")).await;
                match opened {
                    Ok(stream) => Session::EventStream(stream, broker.public),
                    Err(refusal) => {
                        assert_eq!(refusal.unwrap().status, 503);
                        continue;
                    }
                }
            }
        };
        if let Session::WebSocket(socket) = &mut late {
            socket.ready(1).await;
        }
        assert_eq!(late.end().await, "drained", "{kind:?}");
    }
}

#[tokio::test]
async fn retired_controllers_are_told_to_stay_away() {
    for kind in KINDS {
        let broker = Broker::proving("received", &[]);
        let (pool, other) = (Pool::small("d1"), Pool::small("d2"));
        let mut idle = Session::held(kind, &broker, &pool, "idle", 3).await;
        let mut stays = Session::held(kind, &broker, &other, "stays", 1).await;
        let mut taken = Session::held(kind, &broker, &pool, "taken", 1).await;
        let (answer, ()) = tokio::join!(dispatch(&broker, &pool, "", "", b"x"), taken.take());
        assert_eq!(answer.json()["controller"], "taken");
        assert_eq!(broker.operate("POST", "/retire?deployment=d1").await.0, 200);
        assert_eq!(idle.end().await, "retired", "{kind:?}");
        assert_eq!(taken.end().await, "retired", "a session without a ready slot, {kind:?}");
        assert!(stays.is_quiet().await);
        assert_eq!(broker.waiters("").await, 1);
        assert_eq!(polls_ended(&broker, "retired").await, 3);
    }
}

#[tokio::test]
async fn a_limit_of_waiters_counts_slots_and_ends_whoever_exceeds_it() {
    for kind in KINDS {
        for (flag, limit) in [("--max-waiters", "waiters"), ("--max-waiters-per-pool", "waiters_per_pool")] {
            let broker = Broker::start(&[flag, "4"]);
            let pool = Pool::small("d1");
            let mut first = Session::held(kind, &broker, &pool, "first", 3).await;
            let mut surplus = Session::instead(kind, &broker, &pool, "surplus", 2).await;
            let end = surplus.end().await;
            assert!(end.starts_with("limit: ") && end.contains("waiters"), "{kind:?} {flag} {limit}: {end}");
            broker.wait_for_waiters(3).await;
            assert!(first.is_quiet().await, "nobody who waits already is ended");
            let _fits = Session::held(kind, &broker, &pool, "fits", 1).await;
            let mut poll = broker.client().await;
            poll.send(native_get(&pool, "poll")).await;
            assert!(poll.is_closed_silently().await);
        }
    }
}

const SECRET: &str = "a secret of the platform";

fn token(deployment: &str, secret: &str) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "ver": 1, "deployment": deployment, "deployment_version": "20260821.3", "exp": 4_000_000_000_u64,
        "iss": "https://id.trigger.dev", "aud": "https://api.trigger.dev",
    });
    let text = format!("{}.{}", part(json!({"alg": "HS256", "typ": "JWT"})), part(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, text.as_bytes())))
}

#[tokio::test]
async fn sessions_need_the_token_that_polls_need() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let broker = Broker::start(&["--token-secret-file", secret.to_str().unwrap(), "--require-token"]);
    let pool = Pool::small("d1");
    let bearer = |deployment, secret| format!("authorization: Bearer {}\r\n", token(deployment, secret));
    for kind in KINDS {
        for (fields, reason) in [
            (String::new(), "no_token"),
            (bearer("d1", "a secret of somebody else"), "bad_token"),
            (bearer("d2", SECRET), "other_deployment"),
        ] {
            let answer = refusal(kind, &broker, &pool, &fields).await.unwrap();
            assert_eq!((answer.status, answer.problem().as_str()), (401, reason), "{kind:?}");
        }
        let bearer = bearer("d1", SECRET);
        let client = broker.client().await;
        match kind {
            Kind::WebSocket => {
                let mut socket = WebSocket::open(client, &handshake(&pool.path(), &bearer)).await.unwrap();
                socket.ready(2).await;
                broker.wait_for_waiters(2).await;
            }
            Kind::EventStream => {
                let opened = EventStream::open(client, &subscription(&pool, "?slots=2", &bearer)).await;
                let _stream = opened.unwrap();
                broker.wait_for_waiters(2).await;
            }
        }
        broker.wait_for_waiters(0).await;
    }
}

#[tokio::test]
async fn a_session_from_an_unlisted_address_is_closed_without_an_answer() {
    let broker = Broker::start(&["--allow-poll", "10.0.0.0/8", "--allow-dispatch", "127.0.0.0/8"]);
    for kind in KINDS {
        assert!(refusal(kind, &broker, &Pool::small("d1"), "").await.is_none(), "{kind:?}");
    }
}

/// A browser sends its page's origin, and may not be told by a page of somebody else to wait for runs.
#[tokio::test]
async fn a_page_of_another_origin_may_not_wait() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    for kind in KINDS {
        for origin in ["https://elsewhere.example", "null"] {
            let answer = refusal(kind, &broker, &pool, &format!("origin: {origin}\r\n")).await.unwrap();
            assert_eq!(answer.status, 403, "{kind:?} {origin}");
        }
    }
    assert_eq!(broker.waiters("").await, 0);
}

#[tokio::test]
async fn a_malformed_handshake_is_refused_before_the_upgrade() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let whole = handshake(&pool.path(), &named("one"));
    for (from, to, status) in [
        ("sec-websocket-version: 13", "sec-websocket-version: 8", 426),
        ("sec-websocket-protocol: pilotlight.v1\r\n", "", 400),
        ("pilotlight.v1", "pilotlight.v0, chat", 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dG9vIHNob3J0", 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "not base64 at all !!!!!!", 400),
        ("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400),
    ] {
        assert!(whole.contains(from));
        let answer = broker.client().await.ask(whole.replace(from, to)).await;
        assert_eq!(answer.status, status, "{to:?}: {answer:?}");
        let _ = answer.problem();
        if status == 426 {
            assert_eq!(answer.header("sec-websocket-version"), Some("13"));
        }
    }
    let several = whole.replace("pilotlight.v1", "chat, pilotlight.v1");
    assert!(WebSocket::open(broker.client().await, &several).await.is_ok());
}

/// Each of them takes its part of a pool's runs.
#[tokio::test]
async fn all_ways_to_wait_share_one_pool() {
    let broker = Broker::proving("received", &["--pick", "oldest"]);
    let pool = Pool::small("d1");
    let mut poll = native_poll(&broker, &pool, "poll").await;
    let mut socket = Session::held(Kind::WebSocket, &broker, &pool, "socket", 2).await;
    let mut stock = broker.held_poll(&pool, "stock").await;
    let mut stream = Session::held(Kind::EventStream, &broker, &pool, "stream", 1).await;
    let body = pool.message("run_1").to_string();
    let mut taken = Vec::new();
    for _ in 0..5 {
        let posting = async {
            let mut post = native_post(&pool, "", "", body.as_bytes());
            let at = post.windows(14).position(|window| window == b"content-length").unwrap();
            post.splice(at..at, *b"content-type: application/json\r\n");
            Client::connect(broker.dispatch).await.ask(post).await.json()
        };
        let receiving = async {
            tokio::select! {
                answer = poll.answer(), if taken.is_empty() => drop(answer),
                () = socket.take() => {}
                answer = stock.answer(), if taken.len() < 4 => drop(answer),
                () = stream.take() => {}
            }
        };
        let (answer, ()) = tokio::join!(posting, receiving);
        assert_eq!(answer["proof"], "received", "{answer}");
        taken.push(answer["controller"].as_str().unwrap().to_owned());
    }
    assert_eq!(taken, ["poll", "socket", "socket", "stock", "stream"]);
}

/// A session whose slots are all in use is no waiter, but holds a connection.
#[tokio::test]
async fn there_are_no_more_sessions_than_waiters_may_be() {
    for kind in KINDS {
        let broker = Broker::start(&["--max-waiters", "2"]);
        let pool = Pool::small("d1");
        let mut idle = Vec::new();
        for _ in 0..2 {
            idle.push(WebSocket::open(broker.client().await, &handshake(&pool.path(), "")).await.unwrap());
        }
        assert!(refusal(kind, &broker, &pool, "").await.is_none(), "{kind:?}: closed without a response");
        drop(idle.pop());
        broker
            .wait_until("there is a place", async || {
                WebSocket::open(broker.client().await, &handshake(&pool.path(), "")).await.is_ok()
            })
            .await;
    }
}

//! Owns the end-to-end tests of metadata: what a waiter says to whoever claims it, and to nobody else.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use support::client::{Answer, Client};
use support::cluster::{Cluster, dispatch, wait_until_known_at};
use support::event_stream::{EventStream, subscription};
use support::events::Events;
use support::websocket::{Message, WebSocket, handshake, named};
use support::{Broker, Pool};

const MOST: usize = 1024;

/// The fields of a waiter with this name and metadata.
fn fields(controller: &str, metadata: &str) -> String {
    format!("{}Pilotlight-Metadata: {metadata}\r\n", named(controller))
}

fn get(pool: &Pool, fields: &str) -> String {
    format!("GET {} HTTP/1.1\r\nhost: b\r\n{fields}\r\n", pool.path())
}

/// A held native poll with these fields.
async fn held(broker: &Broker, pool: &Pool, fields: &str) -> Client {
    let before = broker.waiters("").await;
    let mut client = broker.client().await;
    client.send(get(pool, fields)).await;
    broker.wait_for_waiters(before + 1).await;
    client
}

async fn claim(broker: &Broker, pool: &Pool, run: &str) -> Value {
    let answer = dispatch(broker, pool, "", run, b"a run").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[tokio::test]
async fn a_hit_returns_what_the_claimed_waiter_says_however_it_waits() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let said = r#"{"url":"http://10.0.0.7:8080/","token":"a\b <&>"}"#;
    let expected = |controller: &str| {
        json!({
            "delivered": true, "proof": "written", "offers": 1, "run": "job", "controller": controller,
            "metadata": said,
        })
    };
    let answered = async |controller: &str| {
        let mut answer = claim(&broker, &pool, "").await;
        answer["run"] = "job".into();
        assert_eq!(answer, expected(controller));
    };

    let mut poll = held(&broker, &pool, &fields("poll", said)).await;
    answered("poll").await;
    let run = poll.answer().await;
    assert_eq!(
        (run.status, run.body.as_slice(), run.header("pilotlight-metadata")),
        (200, &b"a run"[..], None)
    );

    let opening = handshake(&pool.path(), &fields("socket", said));
    let mut socket =
        WebSocket::open(broker.client().await, &opening).await.unwrap_or_else(|_| panic!("refused"));
    socket.ready(2).await;
    broker.wait_for_waiters(2).await;
    for _ in 0..2 {
        answered("socket").await;
        assert!(matches!(socket.message().await, Message::Run(_)), "each of its slots says so");
    }

    let opening = subscription(&pool, "?slots=1", &fields("stream", said));
    let mut stream =
        EventStream::open(broker.client().await, &opening).await.unwrap_or_else(|_| panic!("refused"));
    broker.wait_for_waiters(1).await;
    answered("stream").await;
    assert_eq!(stream.run().await.payload, b"a run");
}

#[tokio::test]
async fn who_says_nothing_has_none() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    for fields in [named("one"), fields("one", "")] {
        let _poll = held(&broker, &pool, &fields).await;
        let answer = claim(&broker, &pool, "").await;
        assert_eq!((&answer["controller"], answer.get("metadata")), (&json!("one"), None), "{answer}");
    }
    let _nameless = held(&broker, &pool, "pilotlight-metadata: at 10.0.0.7\r\n").await;
    let answer = claim(&broker, &pool, "").await;
    assert_eq!((&answer["controller"], &answer["metadata"]), (&json!(""), &json!("at 10.0.0.7")));
}

#[tokio::test]
async fn a_stock_controller_has_none_and_the_answer_of_the_other_dialect_does_not_change() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let stock = pool.poll("stock").replacen("\r\n\r\n", "\r\npilotlight-metadata: ignored\r\n\r\n", 1);
    let mut client = broker.client().await;
    client.send(&stock).await;
    broker.wait_for_waiters(1).await;
    let (_, answer) = broker.post(&pool.body("run_1")).await;
    let keys: Vec<_> = answer.as_object().unwrap().keys().cloned().collect();
    assert!(answer["didWarmStart"] == true && !answer.to_string().contains("ignored"), "{answer}");

    let _native = held(&broker, &pool, &fields("native", "a secret")).await;
    let (_, other) = broker.post(&pool.body("run_2")).await;
    assert!(other["didWarmStart"] == true && !other.to_string().contains("secret"), "{other}");
    assert_eq!(other.as_object().unwrap().keys().cloned().collect::<Vec<_>>(), keys);
}

#[tokio::test]
async fn metadata_are_printable_ascii_of_at_most_1024_bytes_once() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let longest: String = (' '..='~').cycle().skip(1).take(MOST - 1).chain(['!']).collect();
    let _poll = held(&broker, &pool, &fields("one", &longest)).await;
    assert_eq!(claim(&broker, &pool, "").await["metadata"], longest.as_str());

    let too_long = fields("one", &"x".repeat(MOST + 1));
    let rows = [
        too_long.as_str(),
        "pilotlight-metadata: \u{e9}\r\n",
        "pilotlight-metadata: a\tb\r\n",
        "pilotlight-metadata: a\r\npilotlight-metadata: a\r\n",
    ];
    for refused in rows {
        let ways =
            [get(&pool, refused), handshake(&pool.path(), refused), subscription(&pool, "?slots=1", refused)];
        for request in ways {
            let answer = broker.client().await.ask(&request).await;
            assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-parameter"), "{request}");
            let detail = answer.json()["detail"].to_string();
            assert!(detail.contains("pilotlight-metadata") && !detail.contains("xxx"), "{detail}");
        }
    }
    assert_eq!(broker.waiters("").await, 0, "nothing is held");
    assert_eq!(dispatch(&broker, &pool, "", "", b"x").await.json()["delivered"], false);
}

#[tokio::test]
async fn the_same_run_again_is_answered_with_the_same_metadata() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let _poll = held(&broker, &pool, &fields("one", "at 10.0.0.7")).await;
    let _other = held(&broker, &pool, &fields("two", "at 10.0.0.8")).await;
    let first = claim(&broker, &pool, "job-1").await;
    assert!(first["metadata"].as_str().unwrap().starts_with("at 10.0.0."), "{first}");
    assert_eq!(claim(&broker, &pool, "job-1").await, first);
    assert_eq!(broker.waiters("").await, 1);
}

#[tokio::test]
async fn a_miss_returns_no_metadata_of_a_waiter_that_may_have_the_run() {
    let broker = Broker::proving("received", &["--dispatch-budget", "300ms", "--proof-timeout", "100ms"]);
    let pool = Pool::small("d1");
    let _frozen = held(&broker, &pool, &fields("frozen", "a secret")).await;
    let answer = claim(&broker, &pool, "").await;
    assert_eq!((&answer["delivered"], answer.get("metadata")), (&json!(false), None), "{answer}");
}

#[tokio::test]
async fn a_waiter_of_another_broker_says_it_as_well() {
    let Some(cluster) = Cluster::with(3, "received", &[]).await else { return };
    let [origin, owner, third] = [0, 1, 2].map(|at| &cluster.brokers[at]);
    let pool = Pool::small("d1");
    let mut poll = held(owner, &pool, &fields("one", "at \"10.0.0.7\"")).await;
    wait_until_known_at(origin, &pool).await;
    let (answer, run) = tokio::join!(claim(origin, &pool, "job-1"), poll.answer());
    assert_eq!((&answer["metadata"], run.body.as_slice()), (&json!("at \"10.0.0.7\""), &b"a run"[..]));
    // Longer than a broker takes to tell the others which runs its waiters have.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    for broker in [origin, owner, third] {
        assert_eq!(claim(broker, &pool, "job-1").await, answer, "whichever broker is asked again");
    }

    let mut plain = held(owner, &pool, &named("plain")).await;
    wait_until_known_at(origin, &pool).await;
    let (answer, _) = tokio::join!(claim(origin, &pool, "job-2"), plain.answer());
    assert_eq!((&answer["controller"], answer.get("metadata")), (&json!("plain"), None));
}

/// All that operators see.
async fn pages(broker: &Broker) -> Vec<String> {
    let mut pages = Vec::new();
    for page in ["/", "/pools", "/waiters", "/brokers", "/metrics", "/runs", "/runs/job-0"] {
        pages.push(broker.operate("GET", page).await.1);
    }
    pages
}

#[tokio::test]
async fn nobody_else_sees_metadata() {
    const SECRET: &str = "token-of-the-owner";
    let folder = tempfile::tempdir().unwrap();
    let history = folder.path().join("history.db");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command
        .args(["--proof", "written", "--drain-window", "0s", "--history"])
        .arg(&history)
        .env("RUST_LOG", "trace");
    let (mut broker, log) = Broker::logging(&mut command);
    let pool = Pool::small("d1");
    let mut events = Events::follow(&broker, "/events", None).await;
    let opening = handshake(&pool.path(), &fields("socket", SECRET));
    let mut socket =
        WebSocket::open(broker.client().await, &opening).await.unwrap_or_else(|_| panic!("refused"));
    socket.ready(2).await;
    let opening = subscription(&pool, "?slots=1", &fields("stream", SECRET));
    let _stream =
        EventStream::open(broker.client().await, &opening).await.unwrap_or_else(|_| panic!("refused"));
    broker.wait_for_waiters(3).await;
    let _poll = held(&broker, &pool, &fields("poll", SECRET)).await;
    let bad = get(&pool, &fields("bad", &format!("{SECRET}\ty")));
    let refused: Answer = broker.client().await.ask(&bad).await;
    assert_eq!(refused.status, 400);
    let mut seen = vec![String::from_utf8(refused.body).unwrap()];
    seen.extend(pages(&broker).await);
    for run in 0..4 {
        let answer = claim(&broker, &pool, &format!("job-{run}")).await;
        assert_eq!(answer["metadata"], SECRET);
    }
    for _ in 0..4 {
        seen.push(format!("{:?}", events.next("dispatch").await));
    }
    seen.extend(pages(&broker).await);
    assert!(seen.iter().any(|page| page.contains("\"socket\"")), "the waiters are listed: {seen:?}");
    assert!(seen.iter().any(|page| page.contains("job-0")), "the runs are listed: {seen:?}");
    broker.signal(rustix::process::Signal::TERM);
    assert!(broker.ended().await.success());
    for entry in fs::read_dir(folder.path()).unwrap() {
        seen.push(String::from_utf8_lossy(&fs::read(entry.unwrap().path()).unwrap()).into_owned());
    }
    seen.push(fs::read_to_string(log.path()).unwrap());
    for text in seen {
        assert!(!text.contains(SECRET), "{text}");
    }
}

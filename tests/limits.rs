//! Owns the tests of limits: each has a refusal, and does not affect polls that are held already.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use support::client::Client;
use support::{Broker, Pool, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn rejected(reason: &str) -> String {
    format!("pilotlight_connections_rejected_total{{reason=\"{reason}\"}}")
}

/// Fifty controllers whose polls are held.
async fn crowd(broker: &Broker, pool: &Pool) -> Vec<Client> {
    let mut standing = Vec::new();
    for number in 0..50 {
        standing.push(broker.held_poll(pool, &format!("c{number}")).await);
    }
    standing
}

#[tokio::test]
async fn a_flood_of_silent_connections_displaces_only_itself() {
    let broker = Broker::start(&["--max-connections", "200", "--threads", "1"]);
    let pool = Pool::small("d1");
    let _standing = crowd(&broker, &pool).await;
    let mut flood = Vec::new();
    for _ in 0..500 {
        flood.push(broker.client().await);
    }
    // During the flood, a client that sends a request is served.
    for _ in 0..10 {
        let begun = Instant::now();
        let answer = broker.post(&pool.body("r")).await;
        assert_eq!(answer.1["didWarmStart"], true);
        assert!(begun.elapsed() < Duration::from_secs(1), "the flood delays a client that sends a request");
    }
    assert!(broker.metric(&rejected("silent")).await >= 300);
    assert_eq!(broker.metric(&rejected("connections")).await, 0);
    assert_eq!(broker.waiters("").await, 40, "no held poll has ended");
}

#[tokio::test]
async fn when_every_connection_has_sent_data_the_next_one_is_closed_at_once() {
    let broker = Broker::start(&["--max-connections", "50", "--threads", "1"]);
    let pool = Pool::small("d1");
    let mut standing = crowd(&broker, &pool).await;
    let mut surplus = broker.client().await;
    surplus.send(pool.poll("surplus")).await;
    assert!(surplus.is_closed_silently().await);
    assert_eq!(broker.metric(&rejected("connections")).await, 1);
    standing.pop();
    broker.wait_for_waiters(49).await;
    standing.push(broker.held_poll(&pool, "next").await);
}

#[tokio::test]
async fn connections_rest_until_nine_of_ten_places_are_taken_however_few_there_are() {
    for (places, resting) in [(1, 0), (2, 1), (9, 8), (10, 9), (11, 9), (30, 27)] {
        let broker = Broker::start(&["--max-connections", &places.to_string(), "--threads", "1"]);
        let mut inside = Vec::new();
        for number in 1..=places {
            let mut client = broker.client().await;
            let answer = client.ask("GET /connect HTTP/1.1\r\nhost: b\r\n\r\n").await;
            let is_closed = answer.header("connection") == Some("close");
            assert_eq!((answer.status, is_closed), (200, number > resting), "{number} of {places}");
            if is_closed {
                break;
            }
            inside.push(client);
        }
        assert_eq!(inside.len(), resting);
    }
}

#[tokio::test]
async fn a_listener_for_dispatch_alone_keeps_its_places() {
    let arguments = ["--max-connections", "100", "--threads", "1", "--dispatch-listen", "127.0.0.1:0"];
    let broker = Broker::start(&arguments);
    let pool = Pool::small("d1");
    let _standing = crowd(&broker, &pool).await;
    let mut surplus = broker.client().await;
    surplus.send(pool.poll("surplus")).await;
    assert!(surplus.is_closed_silently().await);
    assert_eq!(broker.post(&pool.body("r")).await.1["didWarmStart"], true);
}

#[tokio::test]
async fn an_address_has_no_more_than_its_share() {
    let broker = Broker::start(&["--max-connections-per-source", "3"]);
    let from = async |last: u8| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, last], 0).into()).unwrap();
        Client::over(socket.connect(broker.public).await.unwrap())
    };
    let connect = "GET /connect HTTP/1.1\r\nhost: b\r\n\r\n";
    let mut inside = Vec::new();
    for _ in 0..3 {
        let mut client = from(2).await;
        assert_eq!(client.ask(connect).await.status, 200);
        inside.push(client);
    }
    assert!(from(2).await.is_closed_silently().await);
    assert_eq!(broker.metric(&rejected("source")).await, 1);
    assert_eq!(from(3).await.ask(connect).await.status, 200, "another address has a limit of its own");
    inside.pop();
    let freed = async || {
        let mut client = from(2).await;
        client.send(connect).await;
        client.try_answer().await.is_some()
    };
    broker.wait_until("a place is free again", freed).await;
}

#[tokio::test]
async fn posts_beyond_the_rate_are_misses_at_once() {
    let broker = Broker::start(&["--max-post-rate", "20"]);
    let pool = Pool::small("d1");
    let _standing = broker.held_poll(&pool, "one").await;
    let elsewhere = Pool::small("d2");
    let mut refused = 0;
    // A refusal keeps the connection open: a new one for each refusal would cost more than the request.
    let mut client = broker.client().await;
    for _ in 0..60 {
        let begun = Instant::now();
        let answer = client.ask(post("/warm-start", &elsewhere.body("r"))).await;
        if answer.status == 429 {
            refused += 1;
            assert_eq!((answer.problem().as_str(), answer.header("retry-after")), ("overloaded", Some("1")));
            let said = answer.json();
            assert_eq!((&said["didWarmStart"], &said["delivered"]), (&false.into(), &false.into()));
            assert!(begun.elapsed() < Duration::from_millis(500), "at once, even on a busy machine");
        }
    }
    assert!((25..=40).contains(&refused), "{refused} of 60");
    assert_eq!(
        broker.metric("pilotlight_dispatches_total{outcome=\"miss\",reason=\"overloaded\"}").await,
        refused
    );
    assert_eq!(broker.waiters("").await, 1);
}

#[tokio::test]
async fn a_client_that_has_its_answer_may_post_again_at_once() {
    let broker = Broker::start(&["--max-posts", "1"]);
    let request = post("/warm-start", &Pool::small("d1").body("r"));
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(broker.client().await);
    }
    for _ in 0..100 {
        for client in &mut clients {
            assert_eq!(client.ask(&request).await.status, 200);
        }
    }
}

#[tokio::test]
async fn posts_that_wait_for_their_proof_leave_room_for_so_many_others() {
    let broker = Broker::proving("received", &["--max-posts", "2", "--proof-timeout", "2s"]);
    let pool = Pool::small("d1");
    let mut frozen = Vec::new();
    for number in 0..2 {
        frozen.push(broker.held_poll(&pool, &format!("c{number}")).await);
    }
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut client = broker.client().await;
        client.send(post("/warm-start", &pool.body("r"))).await;
        waiting.push(client);
    }
    broker.wait_for_waiters(0).await;
    let answer = broker.client().await.ask(post("/warm-start", &pool.body("r"))).await;
    assert_eq!((answer.status, answer.problem().as_str()), (429, "overloaded"));
    for mut client in waiting {
        assert_eq!(client.answer().await.json()["didWarmStart"], false);
    }
    assert_eq!(broker.client().await.ask(post("/warm-start", &pool.body("r"))).await.status, 200);
}

#[tokio::test]
async fn short_of_memory_no_new_poll_is_held_and_no_held_one_is_dropped() {
    let broker = Broker::start(&["--memory-limit", "1B"]);
    let pool = Pool::small("d1");
    let overloaded = async || {
        let answer = broker.client().await.ask(post("/warm-start", &pool.body("r"))).await;
        answer.status == 429 && answer.problem() == "overloaded"
    };
    broker.wait_until("housekeeping has measured memory", overloaded).await;
    let mut surplus = broker.client().await;
    surplus.send(pool.poll("one")).await;
    assert!(surplus.is_closed_silently().await);
    assert_eq!(broker.operate("GET", "/livez").await.0, 200);
    assert_eq!(broker.metric("pilotlight_polls_total{end=\"refused\"}").await, 1);
}

/// The head of a POST that announces a body of this length.
fn announce(bytes: usize) -> String {
    format!("POST /v1/pools/d/1/1/1 HTTP/1.1\r\nhost: b\r\ncontent-length: {bytes}\r\n\r\n")
}

/// The start of a chunked POST with one chunk of this length.
fn chunk(bytes: usize) -> Vec<u8> {
    let head = "POST /v1/pools/d/1/1/1 HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n";
    [head.as_bytes(), format!("{bytes:x}\r\n").as_bytes(), &vec![b'x'; bytes], b"\r\n"].concat()
}

const MIB: usize = 1 << 20;

/// Sends the beginnings of a hundred POSTs, and returns those that are not refused.
async fn begun_and_taken(broker: &Broker, begin: &[u8]) -> Vec<Client> {
    let overloaded = "pilotlight_dispatches_total{outcome=\"miss\",reason=\"overloaded\"}";
    let (mut taken, mut refused) = (Vec::new(), broker.metric(overloaded).await);
    for _ in 0..100 {
        let mut client = broker.client().await;
        // A client that is still sending may get a reset instead of the refusal.
        let _ = client.stream.write_all(begin).await;
        match tokio::time::timeout(Duration::from_millis(300), client.try_answer()).await {
            Err(_) => taken.push(client),
            Ok(answer) => {
                if let Some(answer) = answer {
                    assert_eq!((answer.status, answer.problem().as_str()), (429, "overloaded"));
                    assert_eq!(answer.header("connection"), Some("close"), "its body is not read");
                }
                refused += 1;
                assert_eq!(broker.metric(overloaded).await, refused);
                return taken;
            }
        }
    }
    panic!("a hundred POSTs are accepted");
}

#[tokio::test]
async fn no_more_bodies_are_taken_than_there_is_memory_for() {
    let broker = Broker::start(&["--memory-limit", "128MiB", "--body-limit", "16MiB"]);
    let pool = Pool::small("d1");
    let mut waiting = broker.held_poll(&pool, "one").await;
    let taken = begun_and_taken(&broker, announce(16 * MIB).as_bytes()).await;
    assert!((2..=8).contains(&taken.len()), "{} bodies of 16 MiB in 128 MiB", taken.len());
    // A run of the usual size came with its head, and is in memory already.
    assert_eq!(broker.post(&pool.body("r")).await.1["didWarmStart"], true);
    assert_eq!(waiting.answer().await.status, 200);
    drop(taken);
    let taken_again = async || {
        let mut client = broker.client().await;
        client.send(announce(4 * MIB)).await;
        client.stream.write_all(&vec![b'x'; 4 * MIB]).await.is_ok()
            && client.try_answer().await.is_some_and(|answer| answer.status == 200)
    };
    broker.wait_until("what was reserved is given back", taken_again).await;
}

#[tokio::test]
async fn a_body_of_unknown_length_reserves_memory_as_it_grows() {
    let broker = Broker::start(&["--memory-limit", "128MiB", "--body-limit", "32MiB"]);
    let taken = begun_and_taken(&broker, &chunk(8 * MIB)).await;
    assert!((2..=16).contains(&taken.len()), "{} bodies of 8 MiB in 128 MiB", taken.len());
    drop(taken);
    let whole = [&chunk(8 * MIB)[..], b"0\r\n\r\n"].concat();
    let taken_again = async || {
        let mut client = broker.client().await;
        client.stream.write_all(&whole).await.is_ok()
            && client.try_answer().await.is_some_and(|answer| answer.status == 200)
    };
    broker.wait_until("what was reserved is given back", taken_again).await;
}

#[tokio::test]
async fn operators_have_a_cap_of_their_own_and_idle_ones_are_closed_first() {
    let broker = Broker::start(&["--max-ops-connections", "10"]);
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(Client::connect(broker.ops).await);
    }
    // During the flood, a probe is answered.
    assert_eq!(broker.operate("GET", "/livez").await.0, 200);
    assert!(broker.metric(&rejected("silent")).await >= 30);
    drop(silent);
    let open = "pilotlight_connections{listener=\"ops\",tls=\"false\"}";
    broker.wait_for_metric(open, 1).await;
    // Connections that are idle after a request are closed for new ones, too.
    let livez = "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut resting = Vec::new();
    for _ in 0..30 {
        let mut client = Client::connect(broker.ops).await;
        assert_eq!(client.ask(livez).await.status, 200);
        resting.push(client);
    }
    drop(resting);
    // Readers of events are never idle. They may take eight of ten places.
    let follow = async || {
        let mut reader = Client::connect(broker.ops).await;
        reader.send("GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        let mut first = [0; 12];
        reader.stream.read_exact(&mut first).await.unwrap();
        (reader, first)
    };
    let mut readers = Vec::new();
    for _ in 0..8 {
        let (reader, first) = follow().await;
        assert_eq!(&first, b"HTTP/1.1 200");
        readers.push(reader);
    }
    for _ in 0..20 {
        let (refused, first) = follow().await;
        assert_eq!(&first, b"HTTP/1.1 503");
        readers.push(refused);
        assert_eq!(broker.operate("GET", "/livez").await.0, 200);
    }
    let pool = Pool::small("d1");
    assert_eq!(broker.post(&pool.body("r")).await.0, 200, "the public listener has a limit of its own");
    readers.clear();
    broker.wait_until("a reader is accepted again", async || &follow().await.1 == b"HTTP/1.1 200").await;
}

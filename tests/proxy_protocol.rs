//! Owns the tests of the PROXY protocol: the client that a header names, the bytes after it, and invalid headers.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::client::Client;
use support::proxy::{HAPROXY, start};
use support::{Broker, Pool, post};
use tokio::net::TcpSocket;

const V1: &[u8] = b"PROXY TCP4 192.0.2.9 10.0.0.1 51201 7070\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x09\x0a\0\0\x01\xc8\x01\x1b\x9e";
/// The header of haproxy's health checks.
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
const BEHIND: [&str; 3] = ["--proxy-protocol", "--behind-proxy", "127.0.0.1"];
const REJECTED: &str = "pilotlight_connections_rejected_total{reason=\"proxy_protocol\"}";

async fn origin(broker: &Broker) -> String {
    let (_, body) = broker.operate("GET", "/waiters").await;
    let waiters: Value = serde_json::from_str(&body).unwrap();
    waiters["waiters"][0]["origin"].as_str().unwrap().to_owned()
}

/// Delivers a run to the waiting controller. Returns the waiter's origin, and the proof.
async fn delivered(broker: &Broker, pool: &Pool, controller: &mut Client) -> (String, String) {
    broker.wait_for_waiters(1).await;
    let origin = origin(broker).await;
    let mut supervisor = broker.client().await;
    supervisor.send([V1, post("/warm-start", &pool.body("run")).as_bytes()].concat()).await;
    let (answer, receipt) = tokio::join!(supervisor.answer(), controller.answer());
    assert_eq!(receipt.json()["run"]["friendlyId"], "run");
    (origin, answer.json()["proof"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_header_names_the_client_however_its_bytes_come() {
    let broker = Broker::proving("received", &BEHIND);
    let pool = Pool::small("d1");
    let poll = pool.poll("one");
    let v6 = b"PROXY TCP6 2001:db8::9 ::1 51201 7070\r\n";
    let with_fields = [&V2[..14], b"\x01\x12", &V2[16..], b"\x04\x01\x03", &[7; 259]].concat();
    for (header, origin) in [
        (V1, "192.0.2.9"),
        (v6, "2001:db8::9"),
        (V2, "192.0.2.9"),
        (&with_fields, "192.0.2.9"),
        (V2_LOCAL, "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", "::"),
    ] {
        let expected = (origin.to_owned(), "hop".to_owned());
        // In one segment with the request, in a segment of its own, split in the middle, and byte by byte.
        let whole = [header, poll.as_bytes()].concat();
        for cuts in [vec![], vec![header.len()], vec![7, header.len() + 5], (1..header.len() + 3).collect()] {
            let mut client = broker.client().await;
            let mut sent = 0;
            for cut in cuts.into_iter().chain([whole.len()]) {
                client.send(&whole[sent..cut]).await;
                tokio::task::yield_now().await;
                sent = cut;
            }
            assert_eq!(delivered(&broker, &pool, &mut client).await, expected, "{}", header.escape_ascii());
        }
    }
    assert_eq!(broker.metric(REJECTED).await, 0);
}

#[tokio::test]
async fn an_invalid_header_ends_a_proxys_connection() {
    let broker = Broker::start(&BEHIND);
    let request = Pool::small("d1").poll("one");
    let oversized = [&V2[..14], b"\xff\xff", &[1; 5000]].concat();
    let unending = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
    for (number, bytes) in (1..).zip([
        request.as_bytes(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PROXY TCP4 localhost 10.0.0.1 51201 7070\r\n",
        b"PROXY TCP4 192.0.2.9\r\n\r\n",
        &oversized,
        &unending,
        &[V2[..12].to_vec(), b"\x31\x11\0\x0c".to_vec()].concat(),
    ]) {
        let mut client = broker.client().await;
        client.send(bytes).await;
        assert!(client.rest().await.is_empty(), "{}", bytes.escape_ascii());
        broker.wait_for_metric(REJECTED, number).await;
    }
    let mut cut_off = broker.client().await;
    cut_off.send(&V1[..20]).await;
    drop(cut_off);
    broker.wait_for_metric(REJECTED, 8).await;
    // A health check may connect and close without sending anything.
    drop(broker.client().await);
    // A header that does not come, or not completely, times out.
    let mut silent = broker.client().await;
    let mut begun = broker.client().await;
    begun.send(&V2[..20]).await;
    let since = Instant::now();
    assert!(silent.rest().await.is_empty() && begun.rest().await.is_empty());
    assert!(since.elapsed() > Duration::from_secs(4), "{:?}", since.elapsed());
    broker.wait_for_metric(REJECTED, 10).await;
    // Only one header is read: the bytes after it are a request.
    let mut twice = broker.client().await;
    twice.send([V1, V1].concat()).await;
    assert_eq!(twice.answer().await.status, 400);
}

#[tokio::test]
async fn a_header_is_expected_from_listed_proxies_only() {
    let broker = Broker::start(&["--proxy-protocol", "--behind-proxy", "127.0.0.2"]);
    let pool = Pool::small("d1");
    let _ordinary = broker.held_poll(&pool, "one").await;
    assert_eq!(origin(&broker).await, "127.0.0.1");
    for off in [&[][..], &["--behind-proxy", "127.0.0.1"]] {
        let without = Broker::start(off);
        for header in [V1, V2] {
            for broker in [&broker, &without] {
                let mut stranger = broker.client().await;
                assert_eq!(stranger.ask([header, pool.poll("two").as_bytes()].concat()).await.status, 400);
            }
        }
    }
}

#[tokio::test]
async fn access_and_limits_apply_to_the_named_client() {
    let listed = ["--allow-poll", "192.0.2.0/24", "--allow-dispatch", "192.0.2.0/24"];
    let broker = Broker::start(&[&BEHIND[..], &listed, &["--max-connections-per-source", "1"]].concat());
    let poll = Pool::small("d1").poll("one");
    let come = async |client: &str| {
        let mut connection = broker.client().await;
        connection.send(format!("PROXY TCP4 {client} 10.0.0.1 51201 7070\r\n{poll}")).await;
        connection
    };
    let held = come("192.0.2.9").await;
    broker.wait_for_waiters(1).await;
    assert!(come("198.51.100.9").await.is_closed_silently().await);
    assert_eq!(broker.metric("pilotlight_connections_rejected_total{reason=\"address\"}").await, 1);
    assert!(come("192.0.2.9").await.is_closed_silently().await, "the cap per source is reached");
    assert_eq!(broker.metric("pilotlight_connections_rejected_total{reason=\"source\"}").await, 1);
    let _other = come("192.0.2.10").await;
    broker.wait_for_waiters(2).await;
    // A closed connection no longer counts.
    drop(held);
    broker.wait_for_waiters(1).await;
    broker
        .wait_until("the address may connect again", async || {
            let connection = come("192.0.2.9").await;
            let came = broker.waiters("").await == 2;
            drop(connection);
            came
        })
        .await;
    // A health check counts as the proxy itself, which is not listed.
    let mut check = broker.client().await;
    check.send([V2_LOCAL, b"GET /connect HTTP/1.1\r\nhost: b\r\n\r\n"].concat()).await;
    assert!(check.is_closed_silently().await);
    assert_eq!(broker.metric("pilotlight_auth_failures_total{reason=\"address\"}").await, 1);
}

/// A proxy is often listed itself, for its own checks or for other services. Clients that it does not name must not get
/// access because of that.
#[tokio::test]
async fn an_unnamed_client_has_no_address() {
    let listed =
        ["--allow-poll", "127.0.0.1,0.0.0.0/0,::/0", "--allow-dispatch", "127.0.0.1", "--public-livez"];
    let broker = Broker::start(&[&BEHIND[..], &listed].concat());
    let of_a_unix_socket = [&V2[..12], b"\x21\x31\0\xd8", &[0; 216]].concat();
    let unspecified = [&V2[..12], b"\x21\0\0\0"].concat();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: b\r\n\r\n").into_bytes();
    for (number, header) in (1..).zip([
        b"PROXY UNKNOWN\r\n",
        &b"PROXY UNKNOWN 127.0.0.1 127.0.0.1 1 2\r\n"[..],
        &of_a_unix_socket,
        &unspecified,
    ]) {
        let mut client = broker.client().await;
        client.send([header, &get("/connect")].concat()).await;
        assert!(client.is_closed_silently().await, "{}", header.escape_ascii());
        let mut supervisor = broker.client().await;
        let run = post("/warm-start", &Pool::small("d1").body("run"));
        assert_eq!(supervisor.ask([header, run.as_bytes()].concat()).await.status, 403);
        let denied = "pilotlight_auth_failures_total{reason=\"no_address\"}";
        assert_eq!(broker.metric(denied).await, 2 * number);
        let mut check = broker.client().await;
        assert_eq!(check.ask([header, &get("/livez")].concat()).await.status, 200);
    }
    let mut itself = broker.client().await;
    assert_eq!(itself.ask([V2_LOCAL, &get("/connect")].concat()).await.status, 200);
}

/// Real haproxy on layer 4, with health checks: the client's address is known, and a reset is no receipt.
#[tokio::test]
async fn haproxy_on_layer_4_passes_the_clients_address_on() {
    for version in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
        let broker = Broker::proving("received", &BEHIND);
        let server = format!("{{broker}} {version} check inter 50ms");
        let layer_4 = HAPROXY.replace("mode http", "mode tcp").replace("  option forwardfor\n", "");
        let layer_4 = layer_4.replace("{broker}", &server);
        let Some(proxy) = start(&broker, &layer_4, "haproxy -db -f {folder}/configuration") else { return };
        let pool = Pool::small("d1");
        let poll_from = async |last: u8| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 0, last], 0).into()).unwrap();
            let mut client = Client::over(socket.connect(proxy.address).await.unwrap());
            client.send(pool.poll("behind")).await;
            broker.wait_for_waiters(1).await;
            client
        };
        let mut alive = poll_from(77).await;
        assert_eq!(delivered(&broker, &pool, &mut alive).await, ("127.0.0.77".to_owned(), "hop".to_owned()));
        // Closed with the run unread, as if its process were killed.
        let dead = poll_from(78).await;
        let dying = async {
            dead.stream.readable().await.unwrap();
            drop(dead);
        };
        let mut supervisor = broker.client().await;
        supervisor.send([V1, post("/warm-start", &pool.body("run_2")).as_bytes()].concat()).await;
        let (answer, ()) = tokio::join!(supervisor.answer(), dying);
        let answer = answer.json();
        assert_eq!(answer["offers"], 1, "{answer}");
        assert_ne!(answer["proof"], "received", "{answer}");
        broker.wait_for_waiters(0).await;
        assert_eq!(broker.metric(REJECTED).await, 0, "haproxy's health checks have headers, too");
    }
}

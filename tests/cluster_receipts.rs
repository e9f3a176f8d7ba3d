//! Owns the tests of receipts that reach another broker of a cluster than the one that made the offer.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]

mod support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::cluster::{CONNECTED, Cluster};
use support::nats::NatsServer;
use support::offers::{
    Offered, PATH, PATIENT, forged, is, offered_at, offered_with, outcome, outcome_at, post, post_with,
};
use support::{Broker, PATIENCE, free_addresses};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// A cluster whose first broker has the offers, and whose second one gets the receipts. The first one has these arguments.
async fn two_brokers(arguments: &[&str]) -> Option<Cluster> {
    let mut cluster = Cluster::empty(NatsServer::start("")?, "received", &PATIENT);
    cluster.join(arguments);
    cluster.join(&[]);
    cluster.settle().await;
    Some(cluster)
}

/// The same with a first broker that is reached where it says. Its further arguments follow.
async fn two_brokers_in_reach(arguments: &[&str]) -> Option<Cluster> {
    let [listen] = free_addresses();
    let (listen, url) = (listen.to_string(), format!("http://{listen}"));
    two_brokers(&[&["--listen", &listen, "--advertise", &url], arguments].concat()).await
}

/// The first broker, and the second one.
fn owner_and_other(cluster: &Cluster) -> (&Broker, &Broker) {
    (&cluster.brokers[0], &cluster.brokers[1])
}

/// How many receipts a broker has answered.
async fn receipts_at(broker: &Broker) -> u64 {
    let mut sum = 0;
    for class in ["2xx", "4xx", "5xx"] {
        let name = format!("pilotlight_http_requests_total{{code_class=\"{class}\",route=\"receipt\"}}");
        sum += broker.metric(&name).await;
    }
    sum
}

/// Something that is no broker, at the URL that the first broker announces.
struct Stranger {
    listener: TcpListener,
}

impl Stranger {
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (Self { listener }, url)
    }

    async fn accept(&self) -> TcpStream {
        timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap().0
    }
}

/// The head of a request that ends there.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_receipt_at_another_broker_reaches_the_one_that_made_the_offer() {
    let Some(cluster) = two_brokers_in_reach(&[]).await else { return };
    let (owner, other) = owner_and_other(&cluster);
    let (Offered { path, ack, ready, token, stream: _stream }, _supervisor) = offered_at(owner).await;
    let altered = token.replacen(&token[..2], if token.starts_with("00") { "01" } else { "00" }, 1);
    let mut client = other.client().await;
    let chunked =
        |target: &str| format!("{}1\r\nx\r\n0\r\n\r\n", post_with(target, "transfer-encoding: chunked\r\n"));
    for (target, expected) in [
        (format!("/v1/runs/another/ack?token={token}"), is(403, "bad-offer-token")),
        (format!("{path}/ack?token={altered}"), is(403, "bad-offer-token")),
        (ack.clone(), is(204, "")),
        (ready.clone(), is(204, "")),
        (format!("{ack}&ready=true"), is(204, "")),
    ] {
        let answer = client.ask(post(&target)).await;
        assert_eq!(outcome(&answer), expected, "{target}");
        assert_eq!(answer.header("content-length").is_none(), answer.status == 204, "{answer:?}");
        // Its response may have been lost.
        assert_eq!(outcome(&client.ask(chunked(&target)).await), expected, "{target}, sent again");
    }
    assert_eq!((receipts_at(owner).await, receipts_at(other).await), (10, 10));
    let listed = other.operate("GET", "/brokers").await.1;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let advertised = listed["brokers"][0]["advertised"].as_str().unwrap();
    assert!(advertised.starts_with("http://127."), "{listed}");
    assert!(listed["broker"]["advertised"].is_null(), "{listed}");
}

#[tokio::test]
async fn a_receipt_for_a_broker_that_is_not_advertised_counts_there_only() {
    let Some(cluster) = two_brokers(&[]).await else { return };
    let (owner, other) = owner_and_other(&cluster);
    let (Offered { ack, stream: _stream, .. }, _supervisor) = offered_at(owner).await;
    assert_eq!(outcome_at(other, &ack).await, is(502, "no-way-to-broker"));
    assert_eq!(outcome_at(owner, &ack).await, is(204, ""));
}

#[tokio::test]
async fn a_receipt_for_a_broker_that_has_ended_says_what_is_known_of_it() {
    let Some(mut cluster) = two_brokers_in_reach(&[]).await else { return };
    let (Offered { ack, stream: _stream, .. }, _supervisor) = offered_at(&cluster.brokers[0]).await;
    let ended = cluster.join(&["--drain-window", "0s"]);
    cluster.settle().await;
    let (Offered { ack: of_ended, stream: of_ended_stream, .. }, _supervisor) =
        offered_at(&cluster.brokers[ended]).await;
    let mut unknown = forged();
    unknown.push_str(&"1".repeat(32));
    let unknown = format!("{PATH}/ack?token={unknown}");

    // With an open offer, its end would wait for the receipt.
    drop(of_ended_stream);
    cluster.kill(0);
    cluster.brokers[ended].signal(Signal::TERM);
    cluster.brokers[ended].child.wait().unwrap();
    let other = &cluster.brokers[1];
    assert_eq!(outcome_at(other, &ack).await, is(502, "broker-unreachable"));
    other
        .wait_until("its end is known", async || outcome_at(other, &of_ended).await == is(410, "offer-ended"))
        .await;
    assert_eq!(outcome_at(other, &unknown).await, is(410, "offer-ended"));

    cluster.nats.stop();
    other.wait_for_metric(CONNECTED, 0).await;
    let answer = other.client().await.ask(post(&unknown)).await;
    assert_eq!((outcome(&answer), answer.header("retry-after")), (is(503, "unknown-broker"), Some("1")));
    assert_eq!(outcome_at(other, &ack).await, is(502, "broker-unreachable"));
}

#[tokio::test]
async fn a_receipt_passes_while_nats_is_away() {
    let Some(mut cluster) = two_brokers_in_reach(&[]).await else { return };
    cluster.nats.stop();
    let (owner, other) = owner_and_other(&cluster);
    other.wait_for_metric(CONNECTED, 0).await;
    let (Offered { ack, stream: _stream, .. }, _supervisor) = offered_at(owner).await;
    assert_eq!(outcome_at(other, &ack).await, is(204, ""));
}

#[tokio::test]
async fn a_receipt_is_passed_on_once() {
    let Some(mut cluster) = two_brokers_in_reach(&[]).await else { return };
    // A third broker, whose offers lead to the first one, as behind a balancer.
    let [listen] = free_addresses();
    let (listen, url) = (listen.to_string(), format!("http://{listen}"));
    cluster.join(&["--listen", &listen, "--advertise", &format!("http://{}", cluster.brokers[1].public)]);
    cluster.join(&["--advertise", &url]);
    cluster.settle().await;
    let Cluster { brokers, .. } = &cluster;
    let (owner, other, misled, misleading) = (&brokers[0], &brokers[1], &brokers[2], &brokers[3]);
    // The receiver's own URL, and that of a third broker.
    for (owner, through) in [(misled, other), (misleading, other)] {
        let (Offered { ack, stream: _stream, .. }, _supervisor) = offered_at(owner).await;
        let before = receipts_at(through).await + receipts_at(misled).await;
        assert_eq!(outcome_at(through, &ack).await, is(502, "broker-failed"));
        assert_eq!(receipts_at(through).await + receipts_at(misled).await - before, 2);
        assert_eq!(outcome_at(owner, &ack).await, is(204, ""), "nothing was counted before");
    }
    let (Offered { ack, stream: _stream, .. }, _supervisor) = offered_at(owner).await;
    let marked = format!("{ack}&passed_on=true");
    assert_eq!(outcome_at(other, &marked).await, is(421, "misdirected-receipt"));
    assert_eq!(outcome_at(owner, &marked).await, is(204, ""));
}

#[tokio::test]
async fn nothing_but_the_path_and_the_token_is_passed_on() {
    let (stranger, url) = Stranger::start().await;
    let Some(cluster) = two_brokers(&["--advertise", &url]).await else { return };
    let (owner, other) = owner_and_other(&cluster);
    let (Offered { path, token, stream: _stream, .. }, _supervisor) = offered_at(owner).await;
    let mut client = other.client().await;
    let fields = "authorization: Bearer x\r\ncookie: a=b\r\nx-forwarded-for: 1.2.3.4\r\ntraceparent: t\r\ncontent-length: 5\r\n";
    client.send(format!("{}12345", post_with(&format!("{path}/ack?ready=true&token={token}"), fields))).await;
    let mut stream = stranger.accept().await;
    let head = read_head(&mut stream).await.to_ascii_lowercase();
    let (first, fields) = head.split_once("\r\n").unwrap();
    assert_eq!(
        first,
        format!("post {}/ack?token={token}&ready=true&passed_on=true http/1.1", path.to_ascii_lowercase())
    );
    let names: Vec<&str> =
        fields.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    assert_eq!(names, ["content-length", "host"], "{fields}");
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(client.answer().await.status, 204);

    // The connection is kept; a new one is made when it has ended.
    client.send(post(&format!("{path}/ready?token={token}"))).await;
    assert!(read_head(&mut stream).await.contains(&format!("/ready?token={token}&passed_on=true ")));
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(client.answer().await.status, 204);
    drop(stream);
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.send(post(&format!("{path}/ready?token={token}"))).await;
    read_head(&mut stranger.accept().await).await;
}

#[tokio::test]
async fn a_response_that_is_no_brokers_is_not_relayed() {
    let (stranger, url) = Stranger::start().await;
    let Some(cluster) = two_brokers(&["--advertise", &url]).await else { return };
    let (owner, other) = owner_and_other(&cluster);
    let (Offered { ack, stream: _stream, .. }, _supervisor) = offered_at(owner).await;
    let problem = "content-type: application/problem+json\r\n";
    let long = format!("HTTP/1.1 410 Gone\r\n{problem}content-length: 100000\r\n\r\n{}", " ".repeat(100_000));
    for response in [
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\n<html>"[..]
            .trim_end_matches('>'),
        &format!("HTTP/1.1 500 Oops\r\n{problem}content-length: 2\r\n\r\n{{}}"),
        "HTTP/1.1 307 Go\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 204 No",
        "",
        "SSH-2.0-x\r\n",
        &long,
    ] {
        let mut client = other.client().await;
        client.send(post(&ack)).await;
        let mut stream = stranger.accept().await;
        read_head(&mut stream).await;
        // It may stop reading.
        let _ = stream.write_all(response.as_bytes()).await;
        drop(stream);
        assert_eq!(outcome(&client.answer().await), is(502, "broker-failed"), "{response:.60}");
    }
}

#[tokio::test]
async fn a_broker_that_does_not_answer_delays_few_receipts_and_not_for_long() {
    let (stranger, url) = Stranger::start().await;
    let Some(cluster) = two_brokers(&["--advertise", &url]).await else { return };
    let (owner, other) = owner_and_other(&cluster);
    let (Offered { ack, stream: _stream, .. }, _supervisor) = offered_at(owner).await;
    let begun = Instant::now();
    let mut waiting = Vec::new();
    for _ in 0..32 {
        let mut client = other.client().await;
        client.send(post(&ack)).await;
        let mut stream = stranger.accept().await;
        read_head(&mut stream).await;
        waiting.push((client, stream));
    }
    let answer = other.client().await.ask(post(&ack)).await;
    assert_eq!((outcome(&answer), answer.header("retry-after")), (is(503, "broker-busy"), Some("0")));
    assert!(
        begun.elapsed() < Duration::from_millis(1900),
        "the first one was answered: {:?}",
        begun.elapsed()
    );
    for (mut client, _stream) in waiting {
        assert_eq!(outcome(&client.answer().await), is(504, "broker-too-slow"));
    }
    let took = begun.elapsed();
    assert!((Duration::from_secs(2)..PATIENCE).contains(&took), "{took:?}");
    // Their places are free again, also those of clients that have left.
    let mut left = other.client().await;
    left.send(post(&ack)).await;
    let mut stream = stranger.accept().await;
    read_head(&mut stream).await;
    drop(left);
    let mut client = other.client().await;
    client.send(post(&ack)).await;
    read_head(&mut stranger.accept().await).await;
}

#[tokio::test]
async fn the_others_need_the_right_to_poll() {
    let arguments = ["--allow-poll", "10.1.2.3", "--behind-proxy", "127.0.0.1"];
    let Some(cluster) = two_brokers_in_reach(&arguments).await else { return };
    let (owner, other) = owner_and_other(&cluster);
    let listed = "x-forwarded-for: 10.1.2.3\r\n";
    let (Offered { ack, stream: _stream, .. }, _supervisor) = offered_with(owner, listed).await;
    assert_eq!(outcome_at(other, &ack).await, is(502, "broker-failed"));
    let answer = owner.client().await.ask(post_with(&ack, &format!("{listed}content-length: 0\r\n"))).await;
    assert_eq!(outcome(&answer), is(204, ""), "nothing was counted before");
}

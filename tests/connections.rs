//! Owns a connection between its requests: no byte that was read is lost, none blocks a thread, and none is idle for ever.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::client::Client;
use support::{Broker, PATIENCE, Pool, post};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CONNECT: &str = "GET /connect HTTP/1.1\r\nhost: broker\r\n\r\n";

/// A POST of this many bytes, with `content-length` or in chunks, for which no controller waits.
fn run_of(bytes: usize, is_chunked: bool) -> String {
    let (target, body) = ("/v1/pools/a/b/1/1", "x".repeat(bytes));
    if !is_chunked {
        return post(target, &body);
    }
    let mut request = format!("POST {target} HTTP/1.1\r\nhost: broker\r\ntransfer-encoding: chunked\r\n\r\n");
    for chunk in body.as_bytes().chunks(3000) {
        let chunk = str::from_utf8(chunk).unwrap();
        request += &[&format!("{:x}", chunk.len()), "\r\n", chunk, "\r\n"].concat();
    }
    request + "0\r\n\r\n"
}

/// Sends all requests in one write, and returns a letter for each response: `m` a miss, `c` that of /connect, `?` any other.
async fn answers(broker: &Broker, requests: String, count: usize) -> String {
    let (mut read, mut write) = broker.client().await.stream.into_split();
    let mut text = Vec::new();
    let letters = |text: &[u8]| -> String {
        let bodies = str::from_utf8(text).unwrap().split("\r\n\r\n").skip(1);
        let letter = |body: &str| match body {
            miss if miss.contains("\"no_pool\"") => 'm',
            connect if connect.contains("\"keepaliveMs\"") => 'c',
            _ => '?',
        };
        bodies.filter(|body| body.contains('}')).map(letter).collect()
    };
    let reading =
        async { while letters(&text).len() < count && read.read_buf(&mut text).await.unwrap() > 0 {} };
    // A client that does not read while it writes could block for ever.
    let (_, written) =
        tokio::join!(tokio::time::timeout(PATIENCE, reading), write.write_all(requests.as_bytes()));
    written.unwrap();
    letters(&text)
}

#[tokio::test]
async fn bytes_after_a_request_are_not_lost() {
    let broker = Broker::start(&[]);
    for bytes in [1, 4000, 4096, 12_000, 16_384, 20_000, 30_000, 70_000, 400_000] {
        for is_chunked in [false, true] {
            let after = if bytes == 30_000 { 400 } else { 60 };
            let requests = run_of(bytes, is_chunked) + &CONNECT.repeat(after) + &run_of(bytes, !is_chunked);
            let expected = format!("m{}mccc", "c".repeat(after));
            let answers = answers(&broker, requests + &CONNECT.repeat(3), expected.len()).await;
            assert_eq!(answers, expected, "{bytes} bytes, chunked: {is_chunked}");
        }
    }
}

#[tokio::test]
async fn pipelined_runs_are_answered_in_order() {
    let broker = Broker::start(&[]);
    let mut requests = String::new();
    let mut expected = String::new();
    for number in 0..120 {
        requests += &run_of(1 + number * 397, number % 3 == 0);
        requests += CONNECT;
        expected += "mc";
    }
    assert_eq!(answers(&broker, requests, expected.len()).await, expected);
}

/// A client that sends the same requests without pause, and reads every response.
struct Flood {
    stopped: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    fn start(address: SocketAddr, requests: String) -> Self {
        let (stopped, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = TcpStream::connect(address).unwrap();
        let mut reader = writer.try_clone().unwrap();
        reader.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        writer.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let writing = {
            let stopped = stopped.clone();
            let mut writer = writer;
            std::thread::spawn(move || {
                let mut sent = 0;
                // An error means a full buffer, or the end of the connection.
                while !stopped.load(Ordering::Relaxed) {
                    sent = (sent + writer.write(&requests.as_bytes()[sent..]).unwrap_or(0)) % requests.len();
                }
            })
        };
        let reading = {
            let (stopped, answered) = (stopped.clone(), answered.clone());
            std::thread::spawn(move || {
                let mut bytes = vec![0; 1 << 16];
                while !stopped.load(Ordering::Relaxed) {
                    let read = reader.read(&mut bytes).unwrap_or(0);
                    answered.fetch_add(u64::try_from(read).unwrap(), Ordering::Relaxed);
                }
            })
        };
        Self { stopped, answered, threads: vec![writing, reading] }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// A request of exactly this length. If one fills a read, the reader does not know whether the socket is empty.
fn connect_of(bytes: usize) -> String {
    let field = "x-padding: \r\n".len();
    CONNECT.replacen(
        "\r\n\r\n",
        &format!("\r\nx-padding: {}\r\n\r\n", "x".repeat(bytes - CONNECT.len() - field)),
        1,
    )
}

#[tokio::test]
async fn a_busy_connection_does_not_block_the_others_of_its_thread() {
    assert_eq!(connect_of(4096).len(), 4096);
    let miss = run_of(100, false);
    for (what, requests) in [
        ("small ones", CONNECT.repeat(1000)),
        ("one read each", connect_of(4096).repeat(50)),
        ("runs", miss.repeat(100)),
        ("chunked runs", run_of(9000, true).repeat(20)),
    ] {
        let mut broker = Broker::start(&["--threads", "1", "--drain-window", "0s"]);
        let floods: Vec<_> = (0..2).map(|_| Flood::start(broker.public, requests.clone())).collect();
        let is_flooded = async || floods.iter().all(|flood| flood.answered() > 0);
        broker.wait_until("the flood is answered", is_flooded).await;
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            let begun = Instant::now();
            let mut other = broker.client().await;
            assert_eq!(other.ask(CONNECT).await.status, 200);
            assert_eq!(other.ask(&miss).await.status, 200);
            longest = longest.max(begun.elapsed());
        }
        let before = floods[0].answered();
        broker.wait_until("the flood continues", async || floods[0].answered() > before).await;
        // Much longer than this takes on an idle machine, and much shorter than a blocked thread would take.
        assert!(longest < Duration::from_secs(2), "{what}: {longest:?}");
        broker.signal(Signal::TERM);
        assert!(broker.ended().await.success(), "{what}");
    }
}

/// How long the connection stays open from now on.
async fn time_to_close(client: &mut Client) -> Duration {
    let begun = Instant::now();
    assert!(client.is_closed_silently().await);
    begun.elapsed()
}

fn is_about_two_seconds(time: Duration) -> bool {
    (Duration::from_millis(1500)..Duration::from_secs(8)).contains(&time)
}

#[tokio::test]
async fn an_idle_connection_is_closed_whatever_it_carried() {
    for proof in ["written", "acked"] {
        let broker = Broker::proving(proof, &["--idle-timeout", "2s"]);
        let pool = Pool::small("d1");
        let mut after_run = broker.held_poll(&pool, "one").await;
        broker.post(&pool.body("r")).await;
        assert_eq!(after_run.answer().await.header("keep-alive"), Some("timeout=0"));
        let mut after_204 = broker.client().await;
        assert_eq!(
            after_204
                .ask(format!("GET {}?timeout=100ms HTTP/1.1\r\nhost: b\r\n\r\n", pool.path()))
                .await
                .status,
            204
        );
        let mut after_reply = broker.client().await;
        assert_eq!(after_reply.ask(CONNECT).await.status, 200);
        let (run, nothing, reply) = tokio::join!(
            time_to_close(&mut after_run),
            time_to_close(&mut after_204),
            time_to_close(&mut after_reply)
        );
        for (what, time) in [("run", run), ("204", nothing), ("reply", reply)] {
            assert!(is_about_two_seconds(time), "{proof}, after a {what}: {time:?}");
        }
        broker.wait_for_metric("pilotlight_connections{listener=\"public\",tls=\"false\"}", 0).await;
    }
}

#[tokio::test]
async fn a_reload_changes_the_idle_timeout() {
    let config = NamedTempFile::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.args(["--config", config.path().to_str().unwrap()]).env("RUST_LOG", "warn");
    let (broker, log) = Broker::logging(&mut command);
    let mut client = broker.client().await;
    assert_eq!(client.ask(CONNECT).await.header("keep-alive"), Some("timeout=70"));
    fs::write(config.path(), "idle-timeout = \"2s\"\n").unwrap();
    broker.signal(Signal::HUP);
    broker.wait_for_metric("pilotlight_config_reloads_total{result=\"done\"}", 1).await;
    assert_eq!(client.ask(CONNECT).await.header("keep-alive"), Some("timeout=0"));
    let time = time_to_close(&mut client).await;
    assert!(is_about_two_seconds(time), "{time:?}");
    assert_eq!(fs::read_to_string(log.path()).unwrap(), "");
}

#[tokio::test]
async fn a_connection_that_is_used_or_held_is_not_idle() {
    let broker = Broker::start(&["--idle-timeout", "1s"]);
    let pool = Pool::small("d1");
    let mut held = broker.held_poll(&Pool::small("held"), "held").await;
    let mut used = broker.client().await;
    for round in 0..8 {
        used.send(pool.poll("used")).await;
        broker.wait_for_waiters(2).await;
        broker.post(&pool.body("r")).await;
        assert_eq!(used.answer().await.status, 200, "round {round}");
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    // A POST that waits for longer than the idle timeout, on a connection that was idle before.
    used.send(post(&format!("{}?wait=1900ms", pool.path()), "x")).await;
    assert_eq!(used.answer().await.json()["reason"], "all_taken");
    assert!(held.is_held().await, "a held poll is not idle");
}

#[tokio::test]
async fn clients_see_a_timeout_five_seconds_shorter() {
    for (idle, announced) in [("75s", "timeout=70"), ("600s", "timeout=595"), ("6s", "timeout=1")] {
        let broker = Broker::start(&["--idle-timeout", idle]);
        let pool = Pool::small("d1");
        let mut client = broker.client().await;
        assert_eq!(client.ask(CONNECT).await.header("keep-alive"), Some(announced));
        assert_eq!(client.ask(post(&pool.path(), "x")).await.header("keep-alive"), Some(announced));
        let nothing =
            client.ask(format!("GET {}?timeout=50ms HTTP/1.1\r\nhost: b\r\n\r\n", pool.path())).await;
        assert_eq!((nothing.status, nothing.header("keep-alive")), (204, Some(announced)));
        let last = client.ask(CONNECT.replace("broker\r\n", "broker\r\nconnection: close\r\n")).await;
        assert_eq!((last.header("keep-alive"), last.header("connection")), (None, Some("close")));
    }
}

//! Owns the tests of the export of traces: which URLs lead to a collector, and how one that accepts no traces is reported.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use rustix::process::Signal;
use serde_json::Value;
use support::{Broker, PATIENCE, Pool, post};
use tempfile::NamedTempFile;

const FAILURES: &str = "pilotlight_otlp_failures_total";
/// The credentials in the collector's URL, which no output may show.
const USER: &str = "user:secret-of-ours@";

/// A request that a collector received.
struct Received {
    head: String,
    body: Vec<u8>,
}

impl Received {
    fn spans(&self) -> usize {
        let request = ExportTraceServiceRequest::decode(&*self.body).unwrap();
        request
            .resource_spans
            .iter()
            .flat_map(|spans| &spans.scope_spans)
            .map(|scope| scope.spans.len())
            .sum()
    }
}

/// A collector that answers every request with the same bytes. With no bytes, it never answers.
struct Collector {
    address: String,
    received: Receiver<Received>,
}

impl Collector {
    fn answering(answer: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, received) = sync_channel(1000);
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (sender, answer) = (sender.clone(), answer.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &sender, &*answer));
            }
        });
        Self { address, received }
    }

    fn next(&self) -> Received {
        self.received.recv_timeout(PATIENCE).expect("a request")
    }
}

fn serve(mut stream: TcpStream, sender: &SyncSender<Received>, answer: &dyn Fn() -> Vec<u8>) {
    let mut bytes = Vec::new();
    while let Some(request) = read(&mut stream, &mut bytes) {
        // The test may have ended.
        let _ = sender.try_send(request);
        stream.write_all(&answer()).unwrap();
    }
}

/// Reads the next request. `bytes` has what was read beyond the previous one. None at the end of the connection.
fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Received> {
    loop {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let whole = end.and_then(|end| {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            let end = end + 4;
            let all = end + length.parse::<usize>().unwrap();
            (bytes.len() >= all).then_some((head, end, all))
        });
        if let Some((head, end, all)) = whole {
            let body = bytes[end..all].to_vec();
            bytes.drain(..all);
            return Some(Received { head, body });
        }
        let mut buffer = [0; 16 * 1024];
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(more) => bytes.extend_from_slice(&buffer[..more]),
        }
    }
}

fn answer(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nlocation: /login\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn rejecting() -> Vec<u8> {
    let partial =
        ExportTracePartialSuccess { rejected_spans: 1, error_message: "too old\nforged".to_owned() };
    ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec()
}

/// A broker that exports ten times a second and logs to a file.
fn broker(url: &str, arguments: &[&str]) -> (Broker, NamedTempFile) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command
        .args(["--drain-window", "0s", "--otlp", url])
        .args(arguments)
        .env("RUST_LOG", "pilotlight::journal=info,warn")
        .env("OTEL_BSP_SCHEDULE_DELAY", "100");
    Broker::logging(&mut command)
}

/// The log lines about traces so far.
fn lines(log: &NamedTempFile) -> Vec<Value> {
    let text = fs::read_to_string(log.path()).unwrap();
    assert!(!text.contains("secret-of-ours"), "a password is in the log: {text}");
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["fields"]["collector"].is_string()).collect()
}

fn check(url: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pilotlight"))
        .args(["check", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--otlp", url])
        .output()
        .unwrap()
}

#[tokio::test]
async fn a_base_and_a_whole_url_lead_to_the_collector_and_the_end_exports_the_rest() {
    for (url, path) in [
        ("", "/v1/traces"),
        ("/", "/v1/traces"),
        ("/v1/traces", "/v1/traces"),
        ("/v1/traces/", "/v1/traces"),
        ("/otel", "/otel/v1/traces"),
        ("/otel/v1/traces", "/otel/v1/traces"),
    ] {
        let collector = Collector::answering(|| answer("200 OK", b""));
        let (mut broker, log) = broker(&format!("http://{USER}{}{url}", collector.address), &[]);
        broker.post(&Pool::small("d1").body("run_1")).await;
        broker.signal(Signal::TERM);
        assert!(broker.ended().await.success());
        let request = collector.next();
        assert!(request.head.starts_with(&format!("post {path} http/1.1\r\n")), "{url}: {}", request.head);
        assert!(request.head.contains("authorization: basic "), "{}", request.head);
        assert_eq!(request.spans(), 1);
        assert_eq!(lines(&log), Vec::<Value>::new(), "{url}");
    }
}

#[tokio::test]
async fn a_collector_that_accepts_no_traces_is_logged_once_and_counted() {
    for (status, body, why) in [
        ("404 Not Found", &b"no such page"[..], "404 Not Found"),
        ("401 Unauthorized", b"", "401 Unauthorized"),
        ("503 Service Unavailable", b"", "503 Service Unavailable"),
        ("302 Found", b"", "302 Found"),
        ("200 OK", b"<html>a login page</html>", "not as a collector"),
        ("200 OK", &rejecting(), "too old\\nforged"),
    ] {
        let body = body.to_vec();
        let collector = Collector::answering(move || answer(status, &body));
        let (broker, log) = broker(&format!("http://{USER}{}/x?key=secret-of-ours", collector.address), &[]);
        for number in 1..=3 {
            broker.post(&Pool::small("d1").body(&format!("run_{number}"))).await;
            broker.wait_for_metric(FAILURES, number).await;
        }
        let logged = lines(&log);
        assert_eq!(logged.len(), 1, "{logged:?}");
        let fields = &logged[0]["fields"];
        assert_eq!(fields["collector"], format!("http://{}/x/v1/traces", collector.address));
        assert!(fields["why"].as_str().unwrap().contains(why), "{fields}");
    }
}

#[tokio::test]
async fn a_refused_port_is_logged_and_so_is_the_collectors_return() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (down, log) = broker(&format!("http://{address}"), &[]);
    down.post(&Pool::small("d1").body("run_1")).await;
    down.wait_for_metric(FAILURES, 1).await;
    down.wait_until("a line", async || lines(&log).len() == 1).await;
    let logged = lines(&log);
    assert!(logged[0]["fields"]["why"].as_str().unwrap().contains("refused"), "{logged:?}");

    let fails = Arc::new(AtomicBool::new(true));
    let now = fails.clone();
    let collector = Collector::answering(move || {
        answer(if now.load(Ordering::Relaxed) { "404 Not Found" } else { "200 OK" }, b"")
    });
    let (broker, log) = broker(&format!("http://{}", collector.address), &[]);
    broker.post(&Pool::small("d1").body("run_1")).await;
    broker.wait_for_metric(FAILURES, 1).await;
    fails.store(false, Ordering::Relaxed);
    broker.post(&Pool::small("d1").body("run_2")).await;
    broker.wait_until("the recovery is logged", async || lines(&log).len() == 2).await;
    assert_eq!(lines(&log)[1]["level"], "INFO");
    assert_eq!(broker.metric(FAILURES).await, 1);
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_asked_with_the_whole_url() {
    let proxy = Collector::answering(|| answer("200 OK", b""));
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.args(["check", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"]);
    command.args(["--otlp", &format!("http://{USER}collector.invalid:4318/x?key=1")]);
    command.env("HTTP_PROXY", format!("http://us:er@{}", proxy.address)).env("NO_PROXY", "127.0.0.1");
    let Output { status, stdout, .. } = command.output().unwrap();
    assert!(status.success(), "{stdout:?}");
    let head = proxy.next().head;
    assert!(head.starts_with("post http://collector.invalid:4318/x/v1/traces?key=1 http/1.1\r\n"), "{head}");
    for header in
        ["host: collector.invalid:4318", "proxy-authorization: basic dxm6zxi=", "authorization: basic "]
    {
        assert!(head.contains(&format!("\r\n{header}")), "{head}");
    }
}

#[tokio::test]
async fn a_proxy_that_cannot_be_used_fails_exports_and_not_the_start() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.args([
        "--listen",
        "127.0.0.1:0",
        "--ops-listen",
        "127.0.0.1:0",
        "--otlp",
        "http://192.0.2.1:4318",
    ]);
    command.env("HTTP_PROXY", "https://127.0.0.1:1").env("OTEL_BSP_SCHEDULE_DELAY", "100");
    let broker = Broker::run(&mut command);
    broker.post(&Pool::small("d1").body("run_1")).await;
    broker.wait_for_metric(FAILURES, 1).await;
}

#[tokio::test]
async fn a_collector_that_never_answers_delays_neither_runs_nor_the_end() {
    let collector = Collector::answering(Vec::new);
    let (mut broker, log) = broker(&format!("http://{}", collector.address), &[]);
    let begun = Instant::now();
    for number in 1..=20 {
        broker.post(&Pool::small("d1").body(&format!("run_{number}"))).await;
    }
    collector.next();
    let ends = Instant::now();
    broker.signal(Signal::TERM);
    assert!(broker.ended().await.success());
    assert!(ends.elapsed() < Duration::from_secs(4), "{:?} after {:?}", ends.elapsed(), begun.elapsed());
    let logged = lines(&log);
    assert!(logged.last().unwrap()["fields"]["spans"].as_u64().unwrap() > 0, "{logged:?}");
}

#[tokio::test]
async fn spans_that_do_not_fit_into_the_queue_are_counted() {
    let collector = Collector::answering(Vec::new);
    let (broker, _log) = broker(&format!("http://{}", collector.address), &[]);
    let mut supervisor = broker.client().await;
    let request = post("/warm-start", &Pool::small("d1").body("run_1"));
    for _ in 0..14_000 {
        supervisor.ask(&request).await;
    }
    // Failed exports account for few of them: 512 in 5 s.
    broker.wait_until("the surplus is counted", async || broker.metric(FAILURES).await > 5000).await;
}

#[test]
fn check_tries_the_collector() {
    let collector = Collector::answering(|| answer("200 OK", b""));
    let Output { status, stdout, .. } = check(&format!("http://{USER}{}", collector.address));
    let output = String::from_utf8(stdout).unwrap();
    assert!(status.success() && !output.contains("secret-of-ours"), "{output}");
    let request = collector.next();
    assert!(request.head.starts_with("post /v1/traces http/1.1\r\n"), "{}", request.head);
    assert_eq!(request.spans(), 0);

    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let missing = Collector::answering(|| answer("404 Not Found", b""));
    let silent = Collector::answering(Vec::new);
    for (address, why) in
        [(&refused, "refused"), (&missing.address, "404 Not Found"), (&silent.address, "timed out")]
    {
        let begun = Instant::now();
        let Output { status, stderr, .. } = check(&format!("http://{USER}{address}"));
        let output = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{output}");
        assert!(
            output.contains(why) && output.contains(address.as_str()) && !output.contains("secret-of-ours"),
            "{output}"
        );
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    }
    for url in ["https://h:4318", "h:4318", "http://user:secret-of-ours@h:port", ""] {
        let Output { status, stderr, stdout } = check(url);
        let output = String::from_utf8([stdout, stderr].concat()).unwrap();
        assert_eq!(status.code(), Some(2), "{url}: {output}");
        assert!(!output.contains("secret-of-ours"), "{output}");
    }
}

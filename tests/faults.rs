//! Owns the tests of faults that no other file covers: logs, descriptors, queues, clocks, unsupported requests; and of
//! `docs/faults.md`, which may name only tests that exist.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]

mod support;

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, KeyPair};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::Value;
use support::client::Client;
use support::{Broker, Pool, post};
use tempfile::NamedTempFile;

/// A broker that logs at this level.
fn command(level: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command
        .args(["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--proof", "written"])
        .args(arguments)
        .env("RUST_LOG", level);
    command
}

/// A broker whose log is a file.
fn logging(level: &str, arguments: &[&str]) -> (Broker, NamedTempFile) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    Broker::logging(command.args(["--proof", "written"]).args(arguments).env("RUST_LOG", level))
}

/// The log, one document a line.
fn lines(log: &NamedTempFile) -> Vec<Value> {
    let text = fs::read_to_string(log.path()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("forged: {line:?}")))
        .collect()
}

#[tokio::test]
async fn refused_polls_are_a_line_a_second_in_the_log_and_aborted_ones_none() {
    let (broker, log) = logging("info", &[]);
    let pool = Pool::small("d1");
    // A thread of its own writes the log.
    broker.wait_until("the start of the failures is logged", async || lines(&log).len() == 2).await;
    let before = 2;
    for _ in 0..100 {
        drop(broker.held_poll(&pool, "one").await);
        broker.wait_for_waiters(0).await;
    }
    assert_eq!(lines(&log).len(), before);
    let begun = Instant::now();
    for _ in 0..50 {
        let answer = broker.client().await.ask(pool.poll("one").replace("cpu: 0.5", "cpu: NaN")).await;
        assert_eq!(answer.status, 400);
    }
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 2;
    broker.wait_until("a line is written", async || lines(&log).len() > before).await;
    let entries = lines(&log);
    assert!(entries.len() <= before + seconds, "{entries:?}");
    assert!(
        entries[before]["fields"]["why"].as_str().unwrap().contains("x-trigger-machine-cpu"),
        "{entries:?}"
    );
    assert_eq!(broker.metric("pilotlight_polls_total{end=\"refused\"}").await, 50);
}

#[tokio::test]
async fn a_proxy_that_names_no_client_is_logged_once_a_second() {
    let (broker, log) = logging("warn", &["--allow-poll", "127.0.0.1", "--behind-proxy", "127.0.0.1"]);
    let begun = Instant::now();
    for _ in 0..50 {
        let mut client = broker.client().await;
        let poll = Pool::small("d1").poll("one");
        client.send(poll.replace("accept:", "x-forwarded-for: \"{unreadable}\"\r\naccept:")).await;
        assert!(client.is_closed_silently().await);
    }
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 2;
    broker.wait_until("a line is written", async || !lines(&log).is_empty()).await;
    let entries = lines(&log);
    assert!(entries.len() <= seconds, "{entries:?}");
    assert_eq!(entries[0]["fields"]["proxy"], "127.0.0.1");
    assert!(entries[0]["fields"]["message"].as_str().unwrap().contains("X-Forwarded-For"), "{entries:?}");
    assert!(!fs::read_to_string(log.path()).unwrap().contains("unreadable"));
    assert_eq!(broker.metric("pilotlight_auth_failures_total{reason=\"no_address\"}").await, 50);
}

#[tokio::test]
async fn an_inferred_proxy_is_a_line_until_a_receipt() {
    let (broker, log) = logging("warn", &[]);
    let pool = Pool::small("d1");
    let dispatch = async || {
        let target = format!("{}?proof=received&redeliver=true", pool.path());
        broker.client().await.ask(post(&target, &pool.message("run").to_string())).await.json()
    };
    let reset = async || {
        let controller = broker.held_poll(&pool, "like haproxy").await;
        let resetting = async {
            controller.stream.readable().await.unwrap();
            controller.stream.set_zero_linger().unwrap();
            drop(controller);
        };
        let (answer, ()) = tokio::join!(dispatch(), resetting);
        assert_eq!(answer["reason"], "unknown", "{answer}");
    };
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        reset().await;
    }
    let entries = lines(&log);
    assert_eq!(entries.len(), 1, "the address is known: {entries:?}");
    assert_eq!(entries[0]["fields"]["address"], "127.0.0.1");
    let said = entries[0]["fields"]["message"].as_str().unwrap();
    assert!(said.contains("--behind-proxy") && said.contains("option forwardfor"), "{said}");
    let mut controller = broker.held_poll(&pool, "one").await;
    let (answer, _) = tokio::join!(dispatch(), controller.answer());
    assert_eq!(answer["proof"], "received", "{answer}");
    reset().await;
    broker.wait_until("the proxy is logged again", async || lines(&log).len() == 2).await;
}

#[tokio::test]
async fn no_client_can_write_lines_into_the_log() {
    let (broker, log) = logging("pilotlight=trace", &[]);
    let pool = Pool::small("d1");
    let printable = "\"}\\\\n{\"".repeat(30);
    for (run, status) in
        [("run_1\n{\"level\":\"ERROR\"}\u{1b}[31m", 400), (&*"x".repeat(257), 400), (&*printable, 200)]
    {
        assert_eq!(broker.post(&pool.body(run)).await.0, status, "{run:?}");
    }
    for name in ["one\u{1b}[31m", &"x".repeat(257), "\u{e9}"] {
        assert_eq!(broker.client().await.ask(pool.poll(name)).await.status, 400, "{name:?}");
    }
    assert_eq!(broker.operate("POST", "/retire?deployment=%0a%7b%7d%0a%1b%5b31m").await.0, 200);
    let text = fs::read_to_string(log.path()).unwrap();
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(text.lines().all(|line| line.len() < 2048), "{text}");
    assert!(lines(&log).iter().all(|line| line["timestamp"].is_string()), "{text}");
}

#[tokio::test]
async fn no_secret_is_in_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (secrets, bearers) =
        (file("secrets", "the secret of a platform\n"), file("bearers", "the bearer of them\n"));
    let (broker, log) =
        logging("trace", &["--token-secret-file", &secrets, "--dispatch-token-file", &bearers]);
    let token = format!(
        "{}.{}.{}",
        URL_SAFE_NO_PAD.encode("{\"alg\":\"HS256\"}"),
        URL_SAFE_NO_PAD.encode("{\"deployment\":\"d1\"}"),
        URL_SAFE_NO_PAD.encode("a signature of nobody")
    );
    let poll = Pool::small(&token).poll("one");
    assert_eq!(broker.client().await.ask(poll).await.status, 401);
    let _standing = broker.held_poll(&Pool::small("d1"), "one").await;
    for (bearer, status) in
        [("a bearer of strangers", 401), (token.as_str(), 403), ("the bearer of them", 200)]
    {
        let mut message = Pool::small("d1").message("run_1");
        message["extra"] = "the payload of one".into();
        let request = post("/warm-start", &format!("{{\"dequeuedMessage\":{message}}}")).replacen(
            "host: broker",
            &format!("host: broker\r\nauthorization: Bearer {bearer}"),
            1,
        );
        assert_eq!(broker.client().await.ask(request).await.status, status, "{bearer}");
    }
    file("secrets", "too short\n");
    broker.signal(Signal::HUP);
    broker.wait_for_metric("pilotlight_config_reloads_total{result=\"failed\"}", 1).await;
    let text = fs::read_to_string(log.path()).unwrap();
    let (_, signature) = token.rsplit_once('.').unwrap();
    for secret in [
        "the secret of a platform",
        "too short",
        "the bearer of them",
        "a bearer of strangers",
        signature,
        "the payload of one",
    ] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}

#[tokio::test]
async fn a_stderr_that_is_not_read_delays_no_dispatch() {
    let (_nobody_reads, stderr) = std::io::pipe().unwrap();
    let broker = Broker::run(command("debug", &["--threads", "1"]).stderr(stderr));
    let mut supervisor = broker.client().await;
    let pool = Pool::small("d1");
    // Each request logs a line; a pipe buffers 64 KiB.
    for number in 0..2000 {
        let answer = supervisor.ask(post("/warm-start", &pool.body(&format!("run_{number}")))).await;
        assert_eq!(answer.json()["reason"], "no_pool");
    }
}

#[tokio::test]
async fn a_history_that_cannot_be_written_holds_up_no_dispatch() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.db");
    let broker = Broker::start(&["--history", file.to_str().unwrap()]);
    let lock = rusqlite::Connection::open(&file).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let pool = Pool::small("d1");
    let mut supervisor = broker.client().await;
    for number in 0..500 {
        let begun = Instant::now();
        let answer = supervisor.ask(post("/warm-start", &pool.body(&format!("run_{number}")))).await;
        assert_eq!(answer.json()["reason"], "no_pool");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    assert_eq!(broker.operate("GET", "/runs/run_499").await.0, 404, "it is not written");
    lock.execute_batch("COMMIT").unwrap();
    let written = async || broker.operate("GET", "/runs/run_499").await.0 == 200;
    broker.wait_until("the queued rows are written", written).await;
}

#[tokio::test]
async fn out_of_descriptors_accepting_pauses_and_open_connections_are_served() {
    let broker = Broker::start(&["--threads", "1"]);
    let pool = Pool::small("d1");
    let mut controller = broker.held_poll(&pool, "one").await;
    let mut supervisor = broker.client().await;
    assert_eq!(supervisor.ask(post("/warm-start", &Pool::small("d2").body("r"))).await.status, 200);
    let pid = Pid::from_child(&broker.child);
    let open = fs::read_dir(format!("/proc/{}/fd", broker.child.id())).unwrap().count() as u64;
    let lowered = Rlimit { current: Some(open), maximum: getrlimit(Resource::Nofile).maximum };
    let had = prlimit(Some(pid), Resource::Nofile, lowered).unwrap();
    // They queue; a few may be accepted with descriptors that were freed by an operator's connection.
    let mut flood = Vec::new();
    for _ in 0..64 {
        flood.push(broker.client().await);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let answer = supervisor.ask(post("/warm-start", &pool.body("r"))).await;
    assert_eq!(answer.json()["didWarmStart"], true);
    assert_eq!(controller.answer().await.status, 200);
    prlimit(Some(pid), Resource::Nofile, had).unwrap();
    // Pauses of 10, 20, 40, … ms: eight of them in two seconds.
    let failed = broker.metric("pilotlight_connections_rejected_total{reason=\"no_fds\"}").await;
    assert!((4..=12).contains(&failed), "{failed} failed accepts in 2 s");
}

#[tokio::test]
async fn a_thundering_herd_fits_into_the_accept_queue() {
    const HERD: usize = 2000;
    let longest: usize = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    if longest < HERD || pilotlight::server::raise_open_files() < 2 * HERD as u64 {
        eprintln!("skipped: the queues of this system are too short for {HERD} connections at once");
        return;
    }
    let broker = Broker::start(&["--threads", "1"]);
    // The stopped broker accepts no connection, so all of them queue. A full queue drops a connection's first packet.
    broker.stop().await;
    let mut herd = Vec::new();
    for number in 0..HERD {
        let connecting = tokio::time::timeout(Duration::from_millis(900), broker.client());
        let mut client = connecting.await.unwrap_or_else(|_| panic!("connection {number} was not accepted"));
        client.send(Pool::small("d1").poll(&format!("c{number}"))).await;
        herd.push(client);
    }
    broker.signal(Signal::CONT);
    broker.wait_for_waiters(HERD as u64).await;
}

#[tokio::test]
async fn a_broker_that_was_stopped_offers_no_poll_whose_time_is_over() {
    let broker = Broker::start(&["--connection-timeout", "1s", "--threads", "1"]);
    let pool = Pool::small("d1");
    let mut old = broker.held_poll(&pool, "old").await;
    let mut supervisor = broker.client().await;
    broker.stop().await;
    supervisor.send(post("/warm-start", &pool.body("r"))).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    broker.signal(Signal::CONT);
    let said = supervisor.answer().await.json();
    assert_eq!((&said["didWarmStart"], &said["offers"]), (&false.into(), &0.into()), "{said}");
    assert!(old.is_closed_silently().await);
}

#[tokio::test]
async fn operators_routes_are_on_no_public_listener() {
    let broker = Broker::start(&["--dispatch-listen", "127.0.0.1:0"]);
    let _standing = broker.held_poll(&Pool::small("d1"), "one").await;
    for address in [broker.public, broker.dispatch] {
        for path in [
            "/",
            "/livez",
            "/readyz",
            "/metrics",
            "/pools",
            "/waiters",
            "/runs",
            "/runs/r",
            "/events",
            "/console.json",
            "/drain",
            "/retire?deployment=d1",
        ] {
            for method in ["GET", "POST"] {
                let request = format!("{method} {path} HTTP/1.1\r\nhost: b\r\ncontent-length: 0\r\n\r\n");
                let answer = Client::connect(address).await.ask(request).await;
                assert_eq!(
                    (answer.status, answer.problem().as_str()),
                    (404, "no-such-route"),
                    "{method} {path}"
                );
            }
        }
    }
    assert_eq!(broker.operate("GET", "/readyz").await.0, 200);
    assert_eq!(broker.waiters("").await, 1);
}

#[tokio::test]
async fn an_upgrade_is_ignored_and_the_request_is_served_as_it_is() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    for fields in [
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__",
    ] {
        let mut client = broker.client().await;
        let asked = client.ask(format!("GET /connect HTTP/1.1\r\nhost: b\r\n{fields}\r\n\r\n")).await;
        assert_eq!((asked.status, asked.header("upgrade")), (200, None));
        client.send(pool.poll("one").replacen("\r\n\r\n", &format!("\r\n{fields}\r\n\r\n"), 1)).await;
        broker.wait_for_waiters(1).await;
        assert_eq!(broker.post(&pool.body("r")).await.1["didWarmStart"], true);
        assert_eq!(client.answer().await.status, 200);
    }
}

#[tokio::test]
async fn nothing_listens_but_the_listeners() {
    let broker = Broker::start(&["--threads", "1"]);
    let process = format!("/proc/{}", broker.child.id());
    let descriptors = fs::read_dir(format!("{process}/fd")).unwrap();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let sockets: HashSet<String> = links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut ports = Vec::new();
    for (table, is_listening) in [("tcp", "0A"), ("tcp6", "0A"), ("udp", ""), ("udp6", "")] {
        let text = fs::read_to_string(format!("{process}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if sockets.contains(words[9]) && words[3].starts_with(is_listening) {
                ports.push(u16::from_str_radix(words[1].rsplit(':').next().unwrap(), 16).unwrap());
            }
        }
    }
    ports.sort_unstable();
    let mut expected = [broker.public.port(), broker.ops.port()];
    expected.sort_unstable();
    assert_eq!(ports, expected);
}

#[tokio::test]
async fn a_stalled_handshake_is_over_after_5_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let [cert, key] =
        [("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())].map(|(name, text)| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        });
    let broker = Broker::start(&["--tls-cert", &cert, "--tls-key", &key]);
    for begun_with in [b"".as_slice(), b"\x16\x03\x01\x00\xc8\x01"] {
        let begun = Instant::now();
        let mut client = broker.client().await;
        client.send(begun_with).await;
        assert!(client.is_closed_silently().await);
        let took = begun.elapsed();
        assert!((4500..8000).contains(&took.as_millis()), "{took:?}");
    }
    broker.wait_for_metric("pilotlight_connections_rejected_total{reason=\"tls\"}", 2).await;
}

#[tokio::test]
async fn a_deployments_token_may_be_longer_than_a_name() {
    let broker = Broker::start(&[]);
    let token = |padding: usize| {
        let claims = format!("{{\"deployment\":\"d1\",\"more\":\"{}\"}}", "x".repeat(padding));
        let [header, claims] =
            ["{\"alg\":\"HS256\"}", claims.as_str()].map(|part| URL_SAFE_NO_PAD.encode(part));
        format!("{header}.{claims}.c2ln")
    };
    let _standing = broker.held_poll(&Pool::small(&token(500)), "one").await;
    assert_eq!(broker.pools("deployment=d1").await["waiters"], 1);
    let answer = broker.client().await.ask(Pool::small(&token(4096)).poll("two")).await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-key"));
}

#[test]
fn every_test_that_the_table_names_is_there() {
    let table = fs::read_to_string("docs/faults.md").unwrap();
    let names = table.split('`').skip(1).step_by(2).filter_map(|name| name.split_once("::"));
    let mut wrong = Vec::new();
    let mut count = 0;
    let extension =
        |file: &str| Path::new(file).extension().and_then(|extension| extension.to_str()).map(str::to_owned);
    for (file, test) in names {
        let Some(kind) = extension(file).filter(|kind| ["rs", "mjs"].contains(&kind.as_str())) else {
            continue;
        };
        let of_the_root = ["src/", "bench/"].iter().any(|folder| file.starts_with(folder));
        let path = if of_the_root { file.to_owned() } else { format!("tests/{file}") };
        let text = fs::read_to_string(&path).unwrap_or_default();
        let sought = if kind == "rs" { format!("fn {test}(") } else { test.to_owned() };
        count += 1;
        if !text.contains(&sought) {
            wrong.push(format!("{path}::{test}"));
        }
    }
    assert!(count > 200 && wrong.is_empty(), "{count} names, {wrong:#?}");
}

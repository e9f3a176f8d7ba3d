//! Owns the tests of listening: host names, several addresses at once, Unix sockets and their files.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]

mod support;

use std::io::{BufRead, BufReader};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::client::{Answer, Client};
use support::{Broker, Pool, post};
use tempfile::TempDir;
use tokio::net::UnixStream;

const ABORTED: &str = "pilotlight_dispatches_total{outcome=\"aborted\",reason=\"none\"}";
/// Longer than 100 ms, after which an incomplete request is read by another path.
const BEYOND_BODY_GRACE: Duration = Duration::from_millis(200);

/// A broker with addresses of several kinds, killed when dropped.
struct Served {
    child: Child,
    greeting: Vec<String>,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.args(["--log-format", "text", "--drain-window", "0s"]).args(arguments).env("RUST_LOG", "error");
    command
}

impl Served {
    fn start(arguments: &[&str]) -> Self {
        let mut child = command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let greeting: Vec<String> = lines.take(5).collect();
        assert_eq!(greeting.len(), 5, "{greeting:?}");
        Self { child, greeting }
    }

    /// The addresses for controllers, from the greeting.
    fn public(&self) -> Vec<SocketAddr> {
        let urls = self.greeting[0].split(" and for ").next().unwrap().split("://").skip(1);
        urls.map(|url| url.split(',').next().unwrap().parse().unwrap()).collect()
    }

    fn end(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn refusal(arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = command(arguments).output().unwrap();
    assert!(!status.success(), "{arguments:?}");
    String::from_utf8(stderr).unwrap()
}

fn has_ipv6() -> bool {
    let has = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !has {
        eprintln!("skipped in part: this machine has no IPv6");
    }
    has
}

/// A port that is free for IPv4 and IPv6.
fn free_port() -> u16 {
    TcpListener::bind("[::]:0")
        .or_else(|_| TcpListener::bind("0.0.0.0:0"))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

async fn connects(address: &str) {
    let mut client = Client::connect(address.parse().unwrap()).await;
    assert_eq!(client.ask("GET /connect HTTP/1.1\r\nhost: b\r\n\r\n").await.status, 200, "{address}");
}

async fn over(path: &Path) -> Client<UnixStream> {
    Client::through(UnixStream::connect(path).await.unwrap())
}

struct Sockets(TempDir);

impl Sockets {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn flag(&self, name: &str) -> String {
        format!("unix:{}", self.path(name).display())
    }
}

#[tokio::test]
async fn a_host_name_is_every_local_address_that_it_resolves_to() {
    let port = free_port();
    let broker = Served::start(&["--listen", &format!("localhost:{port}"), "--ops-listen", "localhost:0"]);
    connects(&format!("127.0.0.1:{port}")).await;
    if has_ipv6() {
        connects(&format!("[::1]:{port}")).await;
        assert_eq!(broker.public().len(), 2, "{:?}", broker.greeting);
    }
    broker.end();
    let said = refusal(&["--listen", "nobody.invalid:7070"]);
    assert!(said.contains("--listen nobody.invalid:7070 cannot be resolved"), "{said}");
}

#[tokio::test]
async fn two_loopbacks_and_both_families_share_a_port() {
    if !has_ipv6() {
        return;
    }
    for pair in ["127.0.0.1:P,[::1]:P", "[::1]:P, 127.0.0.1:P", "0.0.0.0:P,[::]:P", "[::]:P,127.0.0.1:P"] {
        let port = free_port().to_string();
        let both = pair.replace('P', &port);
        let free = ["--ops-listen", "127.0.0.1:0", "--threads", "2", "--insecure-no-auth"];
        let broker = Served::start(&[&["--listen", &both], &free[..]].concat());
        // More connections than threads, so that each thread's socket gets some.
        for _ in 0..8 {
            connects(&format!("127.0.0.1:{port}")).await;
            connects(&format!("[::1]:{port}")).await;
        }
        let second = refusal(&["--listen", &format!("127.0.0.1:{port}"), "--ops-listen", "127.0.0.1:0"]);
        assert!(second.contains("cannot be bound"), "{second}");
        broker.end();
    }
}

#[tokio::test]
async fn a_port_alone_is_every_address_and_needs_the_same_guards() {
    let said = refusal(&["--listen", ":0", "--ops-listen", "127.0.0.1:0"]);
    assert!(said.contains("is not a loopback address"), "{said}");
    let guards = ["--ops-listen", "127.0.0.1:0", "--allow-poll", "127.0.0.1, ::1", "--allow-dispatch", "::1"];
    let broker = Served::start(&[&["--listen", ":0"], &guards[..]].concat());
    let port = broker.public()[0].port();
    connects(&format!("127.0.0.1:{port}")).await;
    if has_ipv6() {
        connects(&format!("[::1]:{port}")).await;
    }
}

#[tokio::test]
async fn unix_sockets_serve_supervisors_and_operators() {
    let sockets = Sockets::new();
    let (dispatch, ops) = (sockets.path("dispatch.sock"), sockets.path("ops.sock"));
    let flags =
        ["--dispatch-listen", &sockets.flag("dispatch.sock"), "--ops-listen", &sockets.flag("ops.sock")];
    // Clients of a Unix socket count as 127.0.0.1 in lists of addresses.
    let guards = ["--allow-dispatch", "10.0.0.0/8, 127.0.0.1", "--max-connections-per-source", "100"];
    let broker = Served::start(&[&["--listen", "127.0.0.1:0"], &flags[..], &guards].concat());
    for file in [&dispatch, &ops] {
        let file = std::fs::symlink_metadata(file).unwrap();
        assert_eq!((file.file_type().is_socket(), file.permissions().mode() & 0o777), (true, 0o660));
    }
    let look = async |target: &str| -> Answer {
        over(&ops).await.ask(format!("GET {target} HTTP/1.1\r\nhost: any.name\r\n\r\n")).await
    };
    let pool = Pool::small("d1");
    let mut controller = Client::connect(broker.public()[0]).await;
    controller.send(pool.poll("one")).await;
    while look("/pools").await.json()["waiters"] != 1 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut supervisor = over(&dispatch).await;
    // Bytes that follow a POST must not be taken for the end of its connection.
    let two = format!("{}{}", post("/warm-start", &pool.body("r1")), post("/warm-start", &pool.body("r2")));
    let (answer, run) = tokio::join!(supervisor.ask(two), controller.answer());
    let answer = answer.json();
    assert_eq!((&answer["didWarmStart"], &answer["proof"]), (&Value::from(true), &Value::from("received")));
    assert_eq!(run.status, 200);
    assert_eq!(supervisor.answer().await.json()["reason"], "all_taken");
    let refused = over(&dispatch).await.ask("GET /warm-start HTTP/1.1\r\nhost: b\r\n\r\n").await;
    assert_eq!(refused.status, 405, "polls are not served there");
    // Another thread writes the history.
    while look("/runs").await.json()["runs"].as_array().unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    broker.end();
    assert!(!dispatch.exists() && !ops.exists(), "the broker removes its socket files");
}

#[tokio::test]
async fn a_supervisor_that_closes_its_unix_socket_cancels_its_run() {
    let sockets = Sockets::new();
    let flag = sockets.flag("dispatch.sock");
    let broker = Broker::start(&["--dispatch-listen", "127.0.0.1:0", "--dispatch-listen", &flag]);
    let path = sockets.path("dispatch.sock");
    let waits = |time: &str| post(&format!("{}?wait={time}", Pool::small("d1").path()), "a run");
    for stray in ["", "\r\n"] {
        let before = broker.metric(ABORTED).await;
        let mut leaving = over(&path).await;
        leaving.send(waits("1500ms")).await;
        tokio::time::sleep(BEYOND_BODY_GRACE).await;
        leaving.send(stray).await;
        drop(leaving);
        broker.wait_for_metric(ABORTED, before + 1).await;
    }
    // Bytes alone do not end a connection.
    let mut staying = over(&path).await;
    staying.send(waits("500ms")).await;
    tokio::time::sleep(BEYOND_BODY_GRACE).await;
    staying.send(waits("0ms")).await;
    for _ in 0..2 {
        assert_eq!(staying.answer().await.json()["reason"], "no_pool");
    }
}

#[tokio::test]
async fn a_stale_socket_file_is_replaced_and_one_in_use_is_not() {
    let sockets = Sockets::new();
    let (path, flag) = (sockets.path("ops.sock"), sockets.flag("ops.sock"));
    let arguments = ["--listen", "127.0.0.1:0", "--ops-listen", &flag];
    let health = async || over(&path).await.ask("GET /livez HTTP/1.1\r\nhost: b\r\n\r\n").await.status;
    let mut killed = Served::start(&arguments);
    let said = refusal(&arguments);
    assert!(said.contains("--ops-listen unix:") && said.contains("in use"), "{said}");
    assert_eq!(health().await, 200, "the refused broker left the socket untouched");
    let check = command(&[&["check"], &arguments[..]].concat()).output().unwrap();
    assert!(String::from_utf8(check.stdout).unwrap().contains(&format!("in use:\n  --ops-listen {flag}\n")));

    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    assert!(path.exists());
    let check = command(&[&["check"], &arguments[..]].concat()).output().unwrap();
    assert!(
        String::from_utf8(check.stdout).unwrap().ends_with("OK: the broker can start with these settings.\n")
    );
    let second = Served::start(&arguments);
    assert_eq!(health().await, 200);

    // Another process's lock on the folder is waited for only briefly.
    let folder = std::fs::File::open(path.parent().unwrap()).unwrap();
    folder.lock().unwrap();
    assert!(
        refusal(&["--listen", "127.0.0.1:0", "--ops-listen", &sockets.flag("more.sock")]).contains("locked")
    );
    drop(folder);

    // After the file was replaced, it is no longer the broker's to remove.
    std::fs::remove_file(&path).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    second.end();
    assert!(path.exists(), "another process's file stays");
    drop(other);

    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    for what in [&arguments[..], &[&["check"], &arguments[..]].concat()] {
        assert!(refusal(what).contains("is not a socket"), "{what:?}");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    assert!(refusal(&["--listen", "127.0.0.1:0", "--ops-listen", "unix:/nowhere/x.sock"]).contains("folder"));
}

#[tokio::test]
async fn the_console_lists_every_address() {
    let broker = Broker::start(&["--listen", "127.0.0.2:0"]);
    let facts: Value = serde_json::from_str(&broker.operate("GET", "/console.json").await.1).unwrap();
    assert_eq!(facts["listen"], broker.public.to_string());
    assert_eq!(facts["listeners"].as_array().unwrap().len(), 2, "{facts}");
}

/// A connection to a socket that listens but is never served would be lost.
#[test]
fn check_binds_and_never_listens() {
    let sockets = Sockets::new();
    let traced = sockets.path("calls");
    let flags = ["--listen", "127.0.0.1:0,127.0.0.2:0", "--ops-listen", &sockets.flag("ops.sock")];
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=bind,listen", "-o"]).arg(&traced);
    strace.args([env!("CARGO_BIN_EXE_pilotlight"), "check"]).args(flags);
    match strace.output() {
        Ok(Output { status, .. }) if status.success() => {}
        cannot => return eprintln!("skipped: strace cannot trace here: {cannot:?}"),
    }
    let calls = std::fs::read_to_string(traced).unwrap();
    assert!(calls.matches("bind(").count() >= 2 && !calls.contains("listen("), "{calls}");
}

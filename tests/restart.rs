//! Owns the tests of sockets that a service manager keeps open between two brokers, and of its notifications.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::client::Client;
use support::{PATIENCE, Pool, post};

/// A socket that this process keeps open, for brokers that are started in sequence.
struct Held {
    socket: TcpListener,
    ops: SocketAddr,
}

impl Held {
    fn new() -> Self {
        let ops = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { socket: TcpListener::bind("127.0.0.1:0").unwrap(), ops }
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    fn command(&self, name: &str) -> Command {
        // As systemd does: descriptors from 3 on, and a variable with the id of the process that they are for.
        let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                script,
                "sh",
                env!("CARGO_BIN_EXE_pilotlight"),
                "--drain-window",
                "100ms",
                "--proof",
                "written",
            ])
            .args(["--ops-listen", &self.ops.to_string()])
            .env("LISTEN_FDNAMES", name)
            .env("RUST_LOG", "error")
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(self.socket.try_clone().unwrap())))
            .stdout(Stdio::null());
        command
    }

    async fn broker(&self) -> Child {
        let child = self.command("listen").spawn().unwrap();
        while self.metric("pilotlight_pools").await.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        child
    }

    async fn metric(&self, name: &str) -> Option<u64> {
        let stream = tokio::net::TcpStream::connect(self.ops).await.ok()?;
        let mut client = Client::over(stream);
        client.send("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        let text = String::from_utf8(client.try_answer().await?.body).unwrap();
        let line = text
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    async fn wait_for_waiters(&self, count: u64) {
        let reached = async {
            while self.metric("pilotlight_waiters").await != Some(count) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("never {count} waiters"));
    }
}

fn terminate(child: &mut Child) {
    kill_process(Pid::from_child(child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn no_connection_is_refused_between_two_brokers() {
    let held = Held::new();
    let pool = Pool::small("d1");
    let mut first = held.broker().await;
    let mut waiting = Client::connect(held.address()).await;
    waiting.send(pool.poll("one")).await;
    held.wait_for_waiters(1).await;
    terminate(&mut first);
    assert_eq!(waiting.answer().await.status, 307, "it is sent to where the next broker will be");

    // No broker runs: connections wait in the queue.
    let mut polling = Client::connect(held.address()).await;
    polling.send(pool.poll("one")).await;
    let mut posting = Client::connect(held.address()).await;
    posting.send(post("/warm-start", &Pool::small("d2").body("r"))).await;
    assert!(polling.is_held().await && posting.is_held().await);

    let mut second = held.broker().await;
    held.wait_for_waiters(1).await;
    assert_eq!(posting.answer().await.json()["reason"], "no_pool");
    let answer = Client::connect(held.address()).await.ask(post("/warm-start", &pool.body("r"))).await;
    assert_eq!(answer.json()["didWarmStart"], true);
    assert_eq!(polling.answer().await.status, 200);
    terminate(&mut second);
}

/// Two addresses with one name, and a Unix socket for the ops listener.
#[tokio::test]
async fn all_sockets_of_a_name_are_served_whatever_their_kind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ops.sock");
    let tcp = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.2:0").unwrap()];
    let unix = UnixListener::bind(&path).unwrap();
    let script = "exec 3<&0 4<&1 5<&2 </dev/null >/dev/null 2>/dev/null; export LISTEN_PID=$$ LISTEN_FDS=3; exec \"$@\"";
    let fd = |socket: std::os::fd::OwnedFd| Stdio::from(socket);
    let mut child = Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_pilotlight"), "--drain-window", "0s"])
        .env("LISTEN_FDNAMES", "listen:listen:ops-listen")
        .stdin(fd(tcp[0].try_clone().unwrap().into()))
        .stdout(fd(tcp[1].try_clone().unwrap().into()))
        .stderr(fd(unix.try_clone().unwrap().into()))
        .spawn()
        .unwrap();
    for socket in &tcp {
        let mut client = Client::connect(socket.local_addr().unwrap()).await;
        assert_eq!(client.ask("GET /connect HTTP/1.1\r\nhost: b\r\n\r\n").await.status, 200);
    }
    let mut operator = Client::through(tokio::net::UnixStream::connect(&path).await.unwrap());
    assert_eq!(operator.ask("GET /livez HTTP/1.1\r\nhost: b\r\n\r\n").await.status, 200);
    terminate(&mut child);
    assert!(path.exists(), "the manager's file stays");
}

#[test]
fn a_socket_of_an_unknown_name_is_refused() {
    let ended = Held::new().command("listne").stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success() && said.contains("listne") && said.contains("dispatch-listen"), "{said}");
}

#[test]
fn an_inherited_socket_is_validated_by_its_own_address() {
    let mut held = Held::new();
    held.socket = TcpListener::bind("0.0.0.0:0").unwrap();
    let ended = held.command("listen").stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success() && said.contains("is not a loopback address"), "{said}");
}

#[tokio::test]
async fn the_service_manager_is_notified_of_readiness_reload_and_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let held = Held::new();
    let mut child = held.command("listen").env("NOTIFY_SOCKET", &path).spawn().unwrap();
    assert_eq!(heard().trim(), "READY=1");
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    let reloading = heard();
    assert!(reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert_eq!(heard().trim(), "READY=1");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(heard().trim(), "STOPPING=1");
    assert!(child.wait().unwrap().success());
}

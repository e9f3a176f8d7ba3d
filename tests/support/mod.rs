//! Owns what end-to-end tests share: a real broker process, and clients that write their own bytes.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]

pub mod client;
pub mod cluster;
pub mod event_stream;
pub mod events;
pub mod fleet;
pub mod function;
pub mod invoke;
pub mod lab;
pub mod nats;
pub mod nats_client;
pub mod offers;
pub mod proxy;
pub mod relay;
pub mod replies;
pub mod scripted_broker;
#[path = "../reliability/src/fleet/session_bytes.rs"]
pub mod session_bytes;
pub mod ways;
pub mod websocket;
pub mod worker;

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client::Client;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::NamedTempFile;

/// The time limit for anything that should happen, long enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A broker in its own process, killed when dropped.
pub struct Broker {
    pub child: Child,
    pub public: SocketAddr,
    pub dispatch: SocketAddr,
    pub ops: SocketAddr,
}

impl Broker {
    /// Starts a broker on free ports and returns once it serves. It answers `true` once a run is `written`, so that a test
    /// can read from its controllers one after the other.
    pub fn start(arguments: &[&str]) -> Self {
        Self::proving("written", arguments)
    }

    /// Starts a broker that needs this proof to answer `true`.
    pub fn proving(proof: &str, arguments: &[&str]) -> Self {
        Self::listening(&["--listen", "127.0.0.1:0"], proof, arguments)
    }

    pub fn listening(listen: &[&str], proof: &str, arguments: &[&str]) -> Self {
        Self::run(
            Command::new(env!("CARGO_BIN_EXE_pilotlight"))
                .args(listen)
                .args(["--ops-listen", "127.0.0.1:0", "--proof", proof])
                .args(arguments)
                .env("RUST_LOG", "error"),
        )
    }

    /// Runs the broker that a command starts, and returns once it serves.
    pub fn run(command: &mut Command) -> Self {
        // With JSON the greeting would be a line of the log.
        let mut child = command.env("PILOTLIGHT_LOG_FORMAT", "text").stdout(Stdio::piped()).spawn().unwrap();
        // The greeting is printed when the addresses are bound; connections queue from then on.
        let mut greeting = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut address = |mark: &str| {
            let line = greeting
                .find(|line| line.contains(mark))
                .unwrap_or_else(|| panic!("no greeting: {command:?}"));
            let urls = line.split("://").skip(1);
            urls.map(|url| url.split(['/', ' ', '\'', ',']).next().unwrap().parse().unwrap())
                .collect::<Vec<SocketAddr>>()
        };
        let listeners = address("waits for controllers");
        let dispatch = address("dispatch:")[0];
        let here = |address: SocketAddr| {
            if address.ip().is_unspecified() {
                return SocketAddr::from(([127, 0, 0, 1], address.port()));
            }
            address
        };
        Self {
            child,
            public: here(listeners[0]),
            ops: listeners[listeners.len() - 1],
            dispatch: here(dispatch),
        }
    }

    /// Runs the broker that a command starts, with its log as JSON in a file, and returns once it serves. The command must
    /// not name addresses: with a JSON log there is no greeting on stdout from which to read the ports that the system
    /// chose.
    pub fn logging(command: &mut Command) -> (Self, NamedTempFile) {
        let log = NamedTempFile::new().unwrap();
        let [public, ops] = free_addresses();
        command
            .args(["--listen", &public.to_string(), "--ops-listen", &ops.to_string(), "--log-format", "json"])
            .stdout(Stdio::null())
            .stderr(log.reopen().unwrap());
        let broker = Self { child: command.spawn().unwrap(), public, dispatch: public, ops };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(ops).is_err() {
            assert!(Instant::now() < until, "no broker: {command:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        (broker, log)
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.public).await
    }

    /// A poll of a stock controller that the broker holds.
    pub async fn held_poll(&self, pool: &Pool, controller: &str) -> Client {
        let before = self.waiters("").await;
        let mut client = self.client().await;
        client.send(&pool.poll(controller)).await;
        self.wait_for_waiters(before + 1).await;
        client
    }

    /// Posts a run and returns the response.
    pub async fn post(&self, body: &str) -> (u16, Value) {
        let mut client = Client::connect(self.dispatch).await;
        client.send(&post("/warm-start", body)).await;
        let answer = client.answer().await;
        (answer.status, answer.json())
    }

    /// An operator's request.
    pub async fn operate(&self, method: &str, target: &str) -> (u16, String) {
        let mut client = Client::connect(self.ops).await;
        client.send(&format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
        let answer = client.answer().await;
        (answer.status, String::from_utf8(answer.body).unwrap())
    }

    pub async fn pools(&self, query: &str) -> Value {
        serde_json::from_str(&self.operate("GET", &format!("/pools?{query}")).await.1).unwrap()
    }

    pub async fn waiters(&self, query: &str) -> u64 {
        self.pools(query).await["waiters"].as_u64().unwrap()
    }

    pub async fn wait_for_waiters(&self, count: u64) {
        self.wait_until(&format!("{count} waiters"), async || self.waiters("").await == count).await;
    }

    pub async fn wait_for_metric(&self, name: &str, value: u64) {
        self.wait_until(&format!("{name} is {value}"), async || self.metric(name).await == value).await;
    }

    pub async fn wait_until(&self, what: &str, reached: impl AsyncFn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !reached().await {
            assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The value of one metric, which must be a whole number. The name includes the labels, as printed.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = self.operate("GET", "/metrics").await.1;
        let line =
            text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        let line = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Stops the process, and waits until it has stopped, because the signal takes effect later.
    pub async fn stop(&self) {
        self.signal(rustix::process::Signal::STOP);
        let stat = format!("/proc/{}/stat", self.child.id());
        let stopped = async || std::fs::read_to_string(&stat).unwrap().contains(") T ");
        self.wait_until("the broker is stopped", stopped).await;
    }

    /// Waits until the process exits without a signal from the test.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the broker does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

static SNAPSHOTS: AtomicU64 = AtomicU64::new(0);

/// Free ports on a loopback address that nobody else has, so that no other test gets them before they are used.
pub fn free_addresses<const COUNT: usize>() -> [SocketAddr; COUNT] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 64 | high & 63, low, NEXT.fetch_add(1, Ordering::Relaxed));
    // The sockets do not listen: a process that another thread starts inherits them until it runs its program, and would
    // accept the connection that shows a test that its server is there.
    let sockets = [(); COUNT].map(|()| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
        socket
    });
    sockets.map(|socket| socket.local_addr().unwrap().as_socket().unwrap())
}

/// A pool, with its parts as they are written in headers.
#[derive(Clone)]
pub struct Pool {
    pub deployment: String,
    pub version: String,
    pub cpu: String,
    pub memory: String,
}

impl Pool {
    pub fn new(deployment: &str, version: &str, cpu: &str, memory: &str) -> Self {
        let [deployment, version, cpu, memory] = [deployment, version, cpu, memory].map(str::to_owned);
        Self { deployment, version, cpu, memory }
    }

    pub fn small(deployment: &str) -> Self {
        Self::new(deployment, "20260821.3", "0.5", "0.5")
    }

    /// The long poll of a stock controller.
    pub fn poll(&self, controller: &str) -> String {
        let Self { deployment, version, cpu, memory } = self;
        format!(
            "GET /warm-start HTTP/1.1\r\nhost: broker\r\nconnection: keep-alive\r\n\
             x-trigger-workload-controller-id: {controller}\r\nx-trigger-deployment-id: {deployment}\r\n\
             x-trigger-deployment-version: {version}\r\nx-trigger-machine-cpu: {cpu}\r\n\
             x-trigger-machine-memory: {memory}\r\nx-trigger-worker-instance-name: test\r\n\
             accept: */*\r\nuser-agent: node\r\n\r\n"
        )
    }

    /// A valid run message for this pool.
    pub fn message(&self, run: &str) -> Value {
        let mut message: Value = serde_json::from_str(include_str!("../data/dequeued-message.json")).unwrap();
        message["deployment"]["friendlyId"] = self.deployment.as_str().into();
        message["backgroundWorker"]["version"] = self.version.as_str().into();
        message["run"]["friendlyId"] = run.into();
        // Each message has a snapshot of its own, so that two runs with one name are not taken for the same run.
        let snapshot = SNAPSHOTS.fetch_add(1, Ordering::Relaxed);
        message["snapshot"]["friendlyId"] = format!("snapshot_{snapshot}").into();
        message["run"]["machine"]["cpu"] = self.cpu.parse::<f64>().unwrap().into();
        message["run"]["machine"]["memory"] = self.memory.parse::<f64>().unwrap().into();
        message
    }

    /// A supervisor's POST body, with unusual white space, so that a change to the relayed bytes is noticed.
    pub fn body(&self, run: &str) -> String {
        format!("{{ \"dequeuedMessage\" : {} }}", self.message(run))
    }

    /// The same pool in the broker's own dialect.
    pub fn path(&self) -> String {
        format!("/v1/pools/{}/{}/{}/{}", self.deployment, self.version, self.cpu, self.memory)
    }
}

/// A POST with a JSON body.
pub fn post(target: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nhost: broker\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

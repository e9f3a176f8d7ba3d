//! Owns the testbed of clusters: brokers in processes of their own on one NATS server, and pools that all of them know.

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use rustix::process::Signal;
use serde_json::Value;

use super::client::{Answer, Client};
use super::nats::NatsServer;
use super::{Broker, PATIENCE, Pool};

/// Whether a broker is connected to NATS.
pub const CONNECTED: &str = "pilotlight_cluster_connected";
/// How many others a broker sees.
pub const SEEN: &str = "pilotlight_cluster_brokers";

/// Where each broker's public listener is, by its number; a broker that is started anew has other ports.
pub type Addresses = Arc<Mutex<Vec<std::net::SocketAddr>>>;

/// Brokers on one NATS server, numbered from 0.
pub struct Cluster {
    pub nats: NatsServer,
    pub brokers: Vec<Broker>,
    pub addresses: Addresses,
    arguments: Vec<String>,
}

impl Cluster {
    /// Starts brokers that answer `true` once a run is `written`, and returns when each sees all others. None, with a
    /// message, if this machine has no nats-server.
    pub async fn start(count: usize) -> Option<Self> {
        Self::with(count, "written", &[]).await
    }

    /// Starts brokers that need this proof.
    pub async fn with(count: usize, proof: &str, arguments: &[&str]) -> Option<Self> {
        let mut cluster = Self::empty(NatsServer::start("")?, proof, arguments);
        for _ in 0..count {
            cluster.join(&[]);
        }
        cluster.settle().await;
        Some(cluster)
    }

    /// A cluster without brokers yet.
    pub fn empty(nats: NatsServer, proof: &str, arguments: &[&str]) -> Self {
        let arguments = [&["--proof", proof], arguments].concat().into_iter().map(str::to_owned).collect();
        Self { nats, brokers: Vec::new(), addresses: Addresses::default(), arguments }
    }

    /// Starts one more broker, and returns its number once it serves.
    pub fn join(&mut self, arguments: &[&str]) -> usize {
        let broker = Broker::run(&mut self.command(&self.nats.url(), arguments));
        self.addresses.lock().push(broker.public);
        self.brokers.push(broker);
        self.brokers.len() - 1
    }

    /// The command of a broker of this cluster, which reaches NATS at this URL.
    pub fn command(&self, nats: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
        command
            .args(["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--nats", nats])
            .args(&self.arguments)
            .args(arguments)
            .env("RUST_LOG", "error");
        command
    }

    /// Waits until each broker sees all others.
    pub async fn settle(&self) {
        let all: Vec<usize> = (0..self.brokers.len()).collect();
        self.settle_among(&all).await;
    }

    /// Waits until each of these brokers is connected and sees the others of them, and no more.
    pub async fn settle_among(&self, brokers: &[usize]) {
        for &at in brokers {
            self.brokers[at].wait_for_metric(CONNECTED, 1).await;
            self.brokers[at].wait_for_metric(SEEN, brokers.len() as u64 - 1).await;
        }
    }

    /// Kills a broker, as a machine that loses its power.
    pub fn kill(&mut self, at: usize) {
        self.brokers[at].child.kill().unwrap();
        self.brokers[at].child.wait().unwrap();
    }

    /// Kills a broker, and returns when NATS has noticed. Nobody else may connect to NATS meanwhile.
    pub async fn kill_noticed(&mut self, at: usize) {
        let before = self.nats.clients().await;
        self.kill(at);
        until("NATS has noticed", async || self.nats.clients().await < before).await;
    }

    /// Starts a broker in the place of one that has ended. The new one has other ports.
    pub fn replace(&mut self, at: usize) {
        let broker = Broker::run(&mut self.command(&self.nats.url(), &[]));
        self.addresses.lock()[at] = broker.public;
        self.brokers[at] = broker;
    }

    /// Lets a stopped broker continue.
    pub fn resume(&self, at: usize) {
        self.brokers[at].signal(Signal::CONT);
    }

    /// The poll of a stock controller at one broker, of which all others know.
    pub async fn held_poll(&self, at: usize, pool: &Pool, controller: &str) -> Client {
        let client = self.brokers[at].held_poll(pool, controller).await;
        self.wait_until_known(pool).await;
        client
    }

    /// The native poll of a controller at one broker, of which all others know.
    pub async fn held_native_poll(&self, at: usize, pool: &Pool, controller: &str) -> Client {
        let client = native_poll(&self.brokers[at], pool, controller).await;
        self.wait_until_known(pool).await;
        client
    }

    /// Waits until every broker knows that somebody waits for this pool.
    pub async fn wait_until_known(&self, pool: &Pool) {
        for broker in &self.brokers {
            wait_until_known_at(broker, pool).await;
        }
    }

    /// The sum of a metric of all brokers.
    pub async fn metric(&self, name: &str) -> u64 {
        let mut sum = 0;
        for broker in &self.brokers {
            sum += broker.metric(name).await;
        }
        sum
    }

    /// The name of a broker in lists and in the history: the name of its host, and its first public port.
    pub fn name_of(&self, at: usize) -> String {
        format!("{}:{}", rustix::system::uname().nodename().to_str().unwrap(), self.brokers[at].public.port())
    }
}

/// Waits until a broker knows that somebody waits for this pool, at whatever broker.
pub async fn wait_until_known_at(broker: &Broker, pool: &Pool) {
    broker.wait_until("the pool is known", async || knows(broker, pool).await).await;
}

/// Waits until a broker knows nobody who waits for the pool's deployment.
pub async fn wait_until_forgotten_at(broker: &Broker, pool: &Pool) {
    broker.wait_until("the pool is forgotten", async || !knows(broker, pool).await).await;
}

/// Whether a broker knows of a waiter of the pool's deployment. It says so to a run of another version, which no controller
/// gets.
async fn knows(broker: &Broker, pool: &Pool) -> bool {
    let other = Pool { version: "another".to_owned(), ..pool.clone() };
    let answer = dispatch(broker, &other, "", "", b"").await.json();
    match answer["reason"].as_str() {
        Some("wrong_version") => true,
        Some("no_pool") => false,
        _ => panic!("{answer}"),
    }
}

/// A native poll that the broker holds.
pub async fn native_poll(broker: &Broker, pool: &Pool, controller: &str) -> Client {
    let before = broker.waiters("").await;
    let mut client = broker.client().await;
    client.send(native_get(pool, controller)).await;
    broker.wait_for_waiters(before + 1).await;
    client
}

pub fn native_get(pool: &Pool, controller: &str) -> String {
    format!("GET {} HTTP/1.1\r\nhost: b\r\npilotlight-controller: {controller}\r\n\r\n", pool.path())
}

/// A native POST. The run has no name if it is empty.
pub fn native_post(pool: &Pool, query: &str, run: &str, payload: &[u8]) -> Vec<u8> {
    let named = if run.is_empty() { String::new() } else { format!("pilotlight-run: {run}\r\n") };
    let (path, length) = (pool.path(), payload.len());
    let head = format!("POST {path}{query} HTTP/1.1\r\nhost: b\r\n{named}content-length: {length}\r\n\r\n");
    [head.as_bytes(), payload].concat()
}

/// Posts a native run to a broker.
pub async fn dispatch(broker: &Broker, pool: &Pool, query: &str, run: &str, payload: &[u8]) -> Answer {
    let mut supervisor = Client::connect(broker.dispatch).await;
    supervisor.ask(native_post(pool, query, run, payload)).await
}

/// A supervisor that has posted a native run and waits for the answer.
pub async fn posted(broker: &Broker, pool: &Pool, query: &str, run: &str, payload: &[u8]) -> Client {
    let mut supervisor = Client::connect(broker.dispatch).await;
    supervisor.send(native_post(pool, query, run, payload)).await;
    supervisor
}

/// How many offers have ended with this verdict.
pub async fn verdicts(broker: &Broker, verdict: &str) -> u64 {
    broker.metric(&format!("pilotlight_offers_total{{verdict=\"{verdict}\"}}")).await
}

/// An answer in short: whether it is a delivery, its proof or reason, and the number of offers.
pub fn outcome(answer: &Value) -> (bool, &str, u64) {
    let is_hit = answer["delivered"].as_bool().or(answer["didWarmStart"].as_bool()).unwrap();
    let word = answer["proof"].as_str().or(answer["reason"].as_str()).unwrap();
    (is_hit, word, answer["offers"].as_u64().unwrap())
}

/// Waits until a condition holds, for at most the patience of all tests.
pub async fn until(what: &str, reached: impl AsyncFn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !reached().await {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

//! Owns the brokers of a measured cluster and their nats-server, and the supervisors that post to them one run at a time.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use pilotlight_bench::client::Client;
use pilotlight_bench::implementation::Implementation;
use pilotlight_bench::nats::{NatsServer, wait_until_joined};
use pilotlight_bench::requests::{dispatch_request, set_snapshot_number};
use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::server::Server;

use super::times::Times;

/// How long brokers may take to find each other.
const JOIN_TIME: Duration = Duration::from_secs(20);

/// Brokers that answer as one.
pub(super) struct Brokers {
    pub(super) nats: NatsServer,
    pub(super) servers: Vec<Server>,
}

impl Brokers {
    /// Starts them, and returns once each sees all others.
    pub(super) fn start(count: usize, proof: &'static str) -> anyhow::Result<Self> {
        let nats = NatsServer::start(Ipv4Addr::LOCALHOST)?;
        let arguments = ["--nats".to_owned(), nats.url(Ipv4Addr::LOCALHOST)];
        let implementation = Implementation::pilotlight(proof)?.with(&arguments);
        let servers = (0..count)
            .map(|_| Server::start_unpinned(&implementation))
            .collect::<anyhow::Result<Vec<Server>>>()?;
        let brokers = Self { nats, servers };
        block_on_local(brokers.wait_until_joined())?;
        Ok(brokers)
    }

    pub(super) async fn wait_until_joined(&self) -> anyhow::Result<()> {
        let ops: Option<Vec<SocketAddr>> = self.servers.iter().map(|server| server.ops).collect();
        wait_until_joined(&ops.context("a broker has no ops listener")?, JOIN_TIME).await
    }

    pub(super) fn address(&self, broker: usize) -> SocketAddr {
        self.servers[broker].address
    }
}

/// The answer to a POST.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) millis: f64,
    pub(super) is_hit: bool,
}

/// One supervisor: it posts to one broker, always the same pool, on a kept connection.
pub(super) struct Supervisor {
    client: Client,
    request: Vec<u8>,
}

impl Supervisor {
    pub(super) async fn connect(broker: SocketAddr, pool: usize) -> anyhow::Result<Self> {
        Ok(Self { client: Client::connect(broker).await?, request: dispatch_request(pool) })
    }

    pub(super) async fn post(&mut self) -> anyhow::Result<Answer> {
        thread_local!(static RUNS: Cell<u64> = const { Cell::new(0) });
        RUNS.set(RUNS.get() + 1);
        set_snapshot_number(&mut self.request, RUNS.get());
        let begun = Instant::now();
        self.client.send(&self.request).await?;
        let answer = self.client.response().await?;
        let millis = begun.elapsed().as_secs_f64() * 1000.0;
        ensure!(answer.status == 200 && !answer.closes, "a POST was answered {}", answer.status);
        let is_hit = memchr::memmem::find(answer.body, b"\"didWarmStart\":true").is_some();
        Ok(Answer { millis, is_hit })
    }

    /// Posts so many runs one after the other; an error if one is not answered as expected.
    pub(super) async fn post_all(&mut self, count: usize, expect_hit: bool) -> anyhow::Result<Times> {
        let mut times = Times::default();
        for number in 0..count {
            let answer = self.post().await?;
            ensure!(answer.is_hit == expect_hit, "POST {number} of {count}: the answer is {}", answer.is_hit);
            times.record(answer.millis);
        }
        Ok(times)
    }
}

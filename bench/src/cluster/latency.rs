//! Owns the latencies of one round: hits and misses at one broker and through another, without faults and with them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use pilotlight_bench::client::Client;
use pilotlight_bench::implementation::Implementation;
use pilotlight_bench::requests::poll_request;
use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::server::Server;

use super::brokers::{Brokers, Supervisor};
use super::faults::{self, KilledOwner, SilentOwner};
use super::times::Times;
use crate::load::{CountedReceipts, settling_time};

/// Every kind is measured in blocks of so many POSTs, which alternate.
const BLOCK: usize = 250;
const BLOCKS: usize = 8;
/// The controllers of a pool.
const WAITERS: usize = 50;
/// How often a row says that a waiter is there that has just been taken.
const STALE_ROWS: usize = 200;
/// How long its controller is away after a run.
const ABSENCE: Duration = Duration::from_millis(15);
/// Pools: with waiters at the first broker, at the second, with one waiter at the second, without any.
const LOCAL: usize = 0;
const REMOTE: usize = 1;
const SINGLE: usize = 2;
const EMPTY: usize = 9;

/// The figures of one round, in milliseconds.
#[derive(Debug, Clone)]
pub(super) struct Round {
    local_hit: Times,
    forwarded_hit: Times,
    /// Of a broker that is in no cluster.
    lone_miss: Times,
    miss_everywhere: Times,
    /// Of runs that were forwarded to a broker whose waiter had just been taken.
    stale_row: Times,
    silent: SilentOwner,
    killed: KilledOwner,
}

/// Measures one round with new brokers, one of which is killed at the end.
pub(super) fn measure(proof: &'static str) -> anyhow::Result<Round> {
    let mut brokers = Brokers::start(3, proof)?;
    let lone = Server::start_unpinned(&Implementation::pilotlight(proof)?)?;
    block_on_local(async {
        let receipts = CountedReceipts::new()?;
        receipts.start_controllers(brokers.address(0), LOCAL, WAITERS);
        receipts.start_controllers(brokers.address(1), REMOTE, WAITERS);
        tokio::task::spawn_local(poll_with_pauses(brokers.address(1)));
        tokio::time::sleep(settling_time(2 * WAITERS) + Duration::from_millis(200)).await;
        let mut local_hit = Supervisor::connect(brokers.address(0), LOCAL).await?;
        let mut forwarded_hit = Supervisor::connect(brokers.address(0), REMOTE).await?;
        let mut lone_miss = Supervisor::connect(lone.address, EMPTY).await?;
        let mut miss_everywhere = Supervisor::connect(brokers.address(0), EMPTY).await?;
        let mut times: [Times; 4] = Default::default();
        for _ in 0..BLOCKS {
            times[0].append(local_hit.post_all(BLOCK, true).await?);
            times[1].append(forwarded_hit.post_all(BLOCK, true).await?);
            times[2].append(lone_miss.post_all(BLOCK, false).await?);
            times[3].append(miss_everywhere.post_all(BLOCK, false).await?);
        }
        let stale_row = stale_rows(&brokers).await?;
        let silent = faults::silence(&brokers, &receipts).await?;
        let killed = faults::kill(&mut brokers, &receipts).await?;
        receipts.check()?;
        let [local_hit, forwarded_hit, lone_miss, miss_everywhere] = times;
        Ok(Round { local_hit, forwarded_hit, lone_miss, miss_everywhere, stale_row, silent, killed })
    })
}

/// Takes the only waiter of a pool at its own broker, and posts to another one at once, which has not heard of it yet.
async fn stale_rows(brokers: &Brokers) -> anyhow::Result<Times> {
    let mut owner = Supervisor::connect(brokers.address(1), SINGLE).await?;
    let mut origin = Supervisor::connect(brokers.address(0), SINGLE).await?;
    let mut times = Times::default();
    for _ in 0..STALE_ROWS {
        ensure!(owner.post().await?.is_hit, "the only waiter of a pool was not there");
        let answer = origin.post().await?;
        ensure!(!answer.is_hit, "a waiter was taken twice");
        times.record(answer.millis);
        // Until the controller is back, and known to be.
        tokio::time::sleep(3 * ABSENCE).await;
    }
    Ok(times)
}

/// The controller of [`stale_rows`] waits, and after each run is away for some time.
async fn poll_with_pauses(broker: SocketAddr) -> anyhow::Result<()> {
    loop {
        let mut client = Client::connect(broker).await?;
        client.send(&poll_request(SINGLE, 0)).await?;
        client.response().await?;
        drop(client);
        tokio::time::sleep(ABSENCE).await;
    }
}

impl Round {
    pub(super) fn text(&self) -> String {
        format!(
            "  hit at its own broker:               {}\n  hit through another broker:          {}\n  \
             miss of a broker in no cluster:      {}\n  miss everywhere:                     {}\n  \
             miss of a waiter that is just taken: {}\n{}{}",
            self.local_hit.text(),
            self.forwarded_hit.text(),
            self.lone_miss.text(),
            self.miss_everywhere.text(),
            self.stale_row.text(),
            self.silent.text(),
            self.killed.text(),
        )
    }
}

/// The best figure of all rounds for each target.
pub(super) fn best_of(rounds: &[Round]) -> String {
    let best = |figure: fn(&Round) -> f64| rounds.iter().map(figure).fold(f64::NAN, f64::min);
    let hit = best(|round| round.forwarded_hit.percentile(50.0) - round.local_hit.percentile(50.0));
    let miss = best(|round| round.miss_everywhere.percentile(99.0) - round.lone_miss.percentile(99.0));
    let stale = best(|round| round.stale_row.percentile(99.0) - round.lone_miss.percentile(99.0));
    let killed = best(|round| round.killed.added());
    format!(
        "best of {} rounds\n  a hit through another broker, p50: {hit:+.3} ms (at most +1.5)\n  \
         a miss everywhere, p99:            {miss:+.3} ms (at most +5)\n  \
         a waiter that is just taken, p99:  {stale:+.3} ms (at most +5)\n  \
         after an owner was killed, max:    {killed:+.3} ms (below +5)\n",
        rounds.len()
    )
}

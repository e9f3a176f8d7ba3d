//! Owns the churn: controllers that connect, poll and abort repeatedly, and the memory that this leaves in use.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pilotlight_bench::client::Client;
use pilotlight_bench::requests::poll_request;
use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::scrape::Scrape;
use pilotlight_bench::server::Server;
use pilotlight_bench::stdout::print;

/// The memory after a churn.
#[derive(Debug, Clone)]
pub(crate) struct ChurnResult {
    /// Polls so far, and the server's resident bytes then.
    pub(crate) samples: Vec<(f64, f64)>,
    /// The server's number of waiters at the end, if it has such a metric.
    pub(crate) waiters: Option<u64>,
}

impl ChurnResult {
    /// Bytes that each poll left behind, over the second half: the first fills the allocator's pages.
    pub(crate) fn slope(&self) -> f64 {
        let half = &self.samples[self.samples.len() / 2..];
        let count = half.iter().map(|_| 1.0).sum::<f64>();
        let mean = |of: fn(&(f64, f64)) -> f64| half.iter().map(of).sum::<f64>() / count;
        let (x, y) = (mean(|sample| sample.0), mean(|sample| sample.1));
        let covariance: f64 = half.iter().map(|sample| (sample.0 - x) * (sample.1 - y)).sum();
        covariance / half.iter().map(|sample| (sample.0 - x).powi(2)).sum::<f64>().max(1.0)
    }
}

/// How many polls are open at once.
const AT_ONCE: usize = 64;

/// Aborts `polls` polls, and prints the progress.
pub(crate) fn churn(server: &Server, polls: usize) -> anyhow::Result<ChurnResult> {
    let left = Rc::new(Cell::new(polls));
    let mut samples = Vec::new();
    block_on_local(async {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|number| {
                let (left, address) = (left.clone(), server.address);
                tokio::task::spawn_local(async move {
                    let poll = poll_request(number % 10, number);
                    while left.get() > 0 {
                        left.set(left.get() - 1);
                        let mut client = Client::connect(address).await?;
                        client.send(&poll).await?;
                        // Long enough that most are held when they end.
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        drop(client);
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        let mut said = Instant::now();
        while left.get() > 0 {
            let done = f64::from(u32::try_from(polls - left.get())?);
            samples.push((done, bytes(server.resident()?)));
            if said.elapsed() > Duration::from_secs(10) {
                said = Instant::now();
                print(&format!("  churn: {done:.0} of {polls}\n"));
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        for worker in workers {
            worker.await??;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        samples.push((bytes(polls as u64), bytes(server.resident()?)));
        let waiters = waiter_count(server).await;
        Ok(ChurnResult { samples, waiters })
    })
}

/// The number of waiters by pilotlight's metrics.
pub(super) async fn waiter_count(server: &Server) -> Option<u64> {
    waiters(server.ops?).await.ok()
}

/// The same, by the metrics at this address.
pub(crate) async fn waiters(ops: SocketAddr) -> anyhow::Result<u64> {
    Ok(Scrape::fetch(ops).await?.count("pilotlight_waiters"))
}

#[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
pub(crate) fn bytes(bytes: u64) -> f64 {
    bytes as f64
}

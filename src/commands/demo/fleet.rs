//! Owns the demo's controllers: each polls, receives a run, pauses in place of work, and polls again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, StatusCode};

use super::client;
use super::ledger::Ledger;
use crate::commands::client::Client;

/// The version, cpu and memory of the pools, as they are written in headers.
pub(super) const POOLS: [(&str, &str, &str); 4] = [
    ("20260821.3", "0.5", "0.5"),
    ("20260821.3", "1", "2"),
    ("20260821.4", "0.50", "0.50"),
    ("20260821.4", "1", "2.0"),
];

/// How long a run takes, and how long a controller waits after a failed poll.
const PAUSE: Duration = Duration::from_millis(50);

/// The broker at which this controller waits. Each pool waits at few brokers, so that most runs have to find it from another one.
pub(super) fn broker_of(number: usize, brokers: usize) -> usize {
    let (pool, round) = (number % POOLS.len(), number / POOLS.len());
    (pool + POOLS.len() * (round % brokers.div_ceil(POOLS.len()))) % brokers
}

/// One controller, which polls its broker (by number and address) until it is cancelled.
pub(super) async fn controller(
    (place, broker): (usize, SocketAddr),
    number: usize,
    timeout: Duration,
    deployment: Arc<str>,
    ledger: Arc<Ledger>,
) {
    let mut connection = client::connection(broker);
    loop {
        // As in the stock client, a timer of the client's own ends an idle poll: it drops the connection and polls on a new one.
        let Ok(poll) = poll(connection.client(), number, &deployment) else { return };
        match tokio::time::timeout(timeout, connection.send(poll)).await {
            Ok(Ok(answer)) if answer.status() == StatusCode::OK => {
                if let Some(run) = run_of(answer.body()) {
                    ledger.received(&run, place);
                }
                tokio::time::sleep(PAUSE).await;
            }
            Ok(_) => tokio::time::sleep(PAUSE).await,
            Err(_) => {}
        }
    }
}

fn poll(client: &Client, number: usize, deployment: &str) -> hyper::http::Result<Request<Full<Bytes>>> {
    let (version, cpu, memory) = POOLS[number % POOLS.len()];
    client
        .request(Method::GET, "/warm-start")
        .header("x-trigger-workload-controller-id", format!("controller_demo_{number}"))
        .header("x-trigger-deployment-id", deployment)
        .header("x-trigger-deployment-version", version)
        .header("x-trigger-machine-cpu", cpu)
        .header("x-trigger-machine-memory", memory)
        .header("x-trigger-worker-instance-name", "demo")
        .body(Full::default())
}

fn run_of(message: &Bytes) -> Option<String> {
    let message: serde_json::Value = serde_json::from_slice(message).ok()?;
    message["run"]["friendlyId"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_broker_has_controllers_and_no_pool_is_everywhere() {
        for brokers in 2..=32 {
            let mut places = vec![Vec::new(); POOLS.len()];
            for number in 0..200 {
                places[number % POOLS.len()].push(broker_of(number, brokers));
            }
            let all: std::collections::BTreeSet<_> = places.iter().flatten().collect();
            assert_eq!(all.len(), brokers, "{brokers}");
            for pool in &mut places {
                pool.sort_unstable();
                pool.dedup();
                assert!(
                    pool.len() <= brokers.div_ceil(POOLS.len()) && pool.len() < brokers,
                    "{brokers}: {pool:?}"
                );
            }
        }
    }
}

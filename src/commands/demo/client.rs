//! Owns what the demo asks its brokers before the first run.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;

use crate::commands::client::{Client, KeptConnection};

/// A connection to one of the demo's brokers, which is not open yet.
pub(super) fn connection(broker: SocketAddr) -> KeptConnection {
    KeptConnection::new(Client::plain(broker.into()))
}

/// Waits until this many controllers wait at all these brokers together.
pub(super) async fn wait_for_waiters(
    ops: &[SocketAddr],
    count: usize,
    timeout: Duration,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        let mut waiters = 0;
        for &broker in ops {
            let pools: serde_json::Value = serde_json::from_slice(&get(broker, "/pools").await?)?;
            waiters += pools["waiters"].as_u64().unwrap_or_default();
        }
        if waiters >= count as u64 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("only {waiters} of {count} controllers wait after {}", humantime::format_duration(timeout));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until each of these brokers sees all others.
pub(super) async fn wait_for_each_other(ops: &[SocketAddr], timeout: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + timeout;
    for &broker in ops.iter().filter(|_| ops.len() > 1) {
        loop {
            let metrics = get(broker, "/metrics").await?;
            let seen = String::from_utf8_lossy(&metrics)
                .lines()
                .find_map(|line| line.strip_prefix("pilotlight_cluster_brokers ")?.parse::<usize>().ok());
            if seen.is_some_and(|seen| seen + 1 >= ops.len()) {
                break;
            }
            if Instant::now() > deadline {
                bail!(
                    "the brokers have not found each other within {}: does nats-server run where --nats says?",
                    humantime::format_duration(timeout)
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(())
}

async fn get(ops: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    let answer = connection(ops).get(path).await.context("the broker does not answer")?;
    Ok(answer.into_body())
}

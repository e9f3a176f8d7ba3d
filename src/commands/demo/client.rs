//! Owns the demo's HTTP client: one connection, one request at a time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// One connection, which is opened again after it was closed.
pub(super) struct Client {
    address: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, sender: None }
    }

    /// Sends a request and reads the whole response. Dropping the future closes the connection.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut sender = match self.sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connect().await?,
        };
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        self.sender = Some(sender);
        Ok((status, body))
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        #[expect(clippy::disallowed_methods, reason = "ends with its sender")]
        tokio::spawn(async move {
            // An error also reaches the sender, which reports it.
            let _ = connection.await;
        });
        Ok(sender)
    }
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
    let request = Request::get(path).header("host", ops.to_string()).body(Full::default())?;
    let (_, body) = Client::new(ops).send(request).await.context("the broker does not answer")?;
    Ok(body)
}

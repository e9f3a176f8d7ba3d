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

/// Waits until this many controllers wait.
pub(super) async fn wait_for_waiters(ops: SocketAddr, count: usize, timeout: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + timeout;
    let mut client = Client::new(ops);
    loop {
        let request = Request::get("/pools").header("host", ops.to_string()).body(Full::default())?;
        let (_, body) = client.send(request).await.context("the broker does not answer")?;
        let pools: serde_json::Value = serde_json::from_slice(&body)?;
        let waiters = pools["waiters"].as_u64().unwrap_or_default();
        if waiters >= count as u64 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("only {waiters} of {count} controllers wait after {}", humantime::format_duration(timeout));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

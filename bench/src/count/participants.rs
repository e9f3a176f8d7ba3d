//! Owns who takes part while requests are counted: a supervisor, an operator, and a crowd of controllers.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::client::Client;

/// How many controllers wait while requests are counted, so that a pool is neither opened nor closed by each of them.
pub(super) const CROWD: usize = 20;
/// The pool of the crowd.
pub(super) const POOL: usize = 0;

/// A client pauses before what the broker might otherwise see earlier in one run and later in another. The broker needs less
/// time than this under valgrind to handle what came before.
pub(super) const PAUSE: Duration = Duration::from_millis(5);

/// Waits until one of the connections can be read from, and returns its index.
pub(super) async fn first_readable<'a, I>(streams: impl Fn() -> I) -> usize
where
    I: Iterator<Item = &'a TcpStream>,
{
    poll_fn(|context| {
        let first = streams().position(|stream| stream.poll_read_ready(context).is_ready());
        first.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Posts requests, each as a new run.
pub(super) struct Supervisor<const POOLS: usize> {
    client: Client,
    requests: [Vec<u8>; POOLS],
    /// Makes a request a new run with this number.
    set_number: fn(&mut [u8], u64),
    sent: u64,
}

impl<const POOLS: usize> Supervisor<POOLS> {
    pub(super) async fn connect(
        address: SocketAddr,
        requests: [Vec<u8>; POOLS],
        set_number: fn(&mut [u8], u64),
    ) -> anyhow::Result<Self> {
        Ok(Self { client: Client::connect(address).await?, requests, set_number, sent: 0 })
    }

    pub(super) async fn post(&mut self, pool: usize) -> anyhow::Result<()> {
        let request = &mut self.requests[pool];
        (self.set_number)(request, self.sent);
        self.sent += 1;
        self.client.send(request).await
    }

    pub(super) async fn expect(&mut self, answer: &[u8]) -> anyhow::Result<()> {
        let body = self.client.response().await?.body;
        ensure!(
            memchr::memmem::find(body, answer).is_some(),
            "not expected: {}",
            String::from_utf8_lossy(body)
        );
        Ok(())
    }
}

/// A connection to the ops listener, which another thread serves than those that are counted.
pub(super) struct Operator(pub(super) Client);

impl Operator {
    pub(super) async fn wait_for_waiters(&mut self, expected: usize) -> anyhow::Result<()> {
        loop {
            self.0.send(b"GET /pools HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
            let pools: Value = serde_json::from_slice(self.0.response().await?.body)?;
            if pools["waiters"] == expected {
                return Ok(());
            }
        }
    }
}

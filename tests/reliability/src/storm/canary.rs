//! Owns the canary: a controller that is held during the whole storm and has to receive its run at the end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};

use pilotlight_bench::requests::{dispatch_request, poll_request};

/// A pool that no request of the storm names.
const POOL: usize = 9_999;
/// The broker may end a poll of this age; then the canary polls again.
const MIN_POLL_AGE: Duration = Duration::from_secs(290);
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Canary {
    waiting: JoinHandle<anyhow::Result<(Vec<u8>, u32)>>,
    since: Instant,
}

impl Canary {
    pub(super) async fn start(address: SocketAddr) -> anyhow::Result<Self> {
        let waiting = spawn_local(wait(address));
        // Its poll has to be held before the storm begins.
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(Self { waiting, since: Instant::now() })
    }

    /// Posts its run and checks that it arrives.
    pub(super) async fn post_its_run(self, address: SocketAddr) -> anyhow::Result<String> {
        ensure!(!self.waiting.is_finished(), "the canary's poll has ended: {:?}", self.waiting.await?);
        let post = dispatch_request(POOL);
        let mut supervisor = TcpStream::connect(address).await?;
        supervisor.write_all(&post).await?;
        let mut answer = vec![0; 4096];
        let length = tokio::time::timeout(DELIVERY_TIMEOUT, supervisor.read(&mut answer)).await??;
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        ensure!(answer.contains("\"didWarmStart\":true"), "the canary was not offered its run: {answer}");
        let (run, polls) = tokio::time::timeout(DELIVERY_TIMEOUT, self.waiting).await???;
        let body = &post[memchr::memmem::find(&post, b":{").context("a message")? + 1..post.len() - 1];
        ensure!(run.ends_with(body), "the canary received another run: {}", run.escape_ascii());
        Ok(format!("was held for {} s with {polls} polls and got its run", self.since.elapsed().as_secs()))
    }
}

/// Polls until the run arrives. Polls again if a poll has expired; any other end is an error.
async fn wait(address: SocketAddr) -> anyhow::Result<(Vec<u8>, u32)> {
    for polls in 1.. {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&poll_request(POOL, POOL)).await?;
        let mut run = Vec::new();
        while stream.read_buf(&mut run).await? > 0 {
            if memchr::memmem::find(&run, b"\"placementTags\":").is_some() && run.ends_with(b"}") {
                return Ok((run, polls));
            }
        }
        ensure!(
            begun.elapsed() > MIN_POLL_AGE,
            "the canary's connection was closed after {:?}: {}",
            begun.elapsed(),
            run.escape_ascii()
        );
    }
    bail!("the canary has polled too often")
}

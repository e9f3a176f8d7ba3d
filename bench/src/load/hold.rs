//! Owns the crowd: very many controllers that only wait, the cost of each, and the speed of dispatches meanwhile.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use pilotlight_bench::implementation::Implementation;
use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::server::{Server, slab};
use pilotlight_bench::stdout::print;

use super::churn::{bytes, waiter_count};
use super::closed::dispatch;
use super::controller::settling_time;
use super::held::{WaitKind, open_waiters};
use super::measurement::Measurement;
use super::shape::LoadShape;

/// The cost of held connections.
#[derive(Debug, Clone)]
pub(crate) struct HoldResult {
    pub(crate) count: usize,
    /// The server's resident bytes per connection.
    pub(crate) user: f64,
    /// The kernel's slab per connection, both ends of it.
    pub(crate) kernel: f64,
    /// Resident bytes before the first one, and ten seconds after all have closed at once.
    pub(crate) idle: f64,
    pub(crate) after_close: f64,
}

/// Holds `count` waiters of a kind; with `settle`, also measures the memory after their end.
pub(crate) fn hold(
    server: &Server,
    kind: WaitKind,
    count: usize,
    settle: bool,
) -> anyhow::Result<HoldResult> {
    block_on_local(async {
        // A few first, so that one-time allocations are not counted.
        drop(open_waiters(kind, server.address, 0..10).await?);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (idle, slab_before) = (server.resident()?, slab()?);
        let crowd = open_waiters(kind, server.address, 0..count).await?;
        tokio::time::sleep(settling_time(count)).await;
        if let Some(waiting) = waiter_count(server).await {
            ensure!(waiting == count as u64, "{waiting} of {count} wait");
        }
        let (resident, slab_now) = (server.resident()?, slab()?);
        let each = |now: u64, before: u64| bytes(now.saturating_sub(before)) / bytes(count as u64);
        let (user, kernel) = (each(resident, idle), each(slab_now, slab_before));
        drop(crowd);
        let mut after_close = resident;
        if settle {
            tokio::time::sleep(Duration::from_secs(10)).await;
            after_close = server.resident()?;
        }
        Ok(HoldResult { count, user, kernel, idle: bytes(idle), after_close: bytes(after_close) })
    })
}

/// The result of a crowd that is larger than one process's limit of descriptors.
#[derive(Debug, Clone)]
pub(crate) struct CrowdResult {
    pub(crate) held: usize,
    /// Dispatches on each of the brokers in turn, while the polls on all brokers are held.
    pub(crate) figures: Vec<Measurement>,
}

/// Holds `each` polls on each of `brokers` brokers, from one process per broker, and dispatches on each of them in turn.
pub(crate) fn crowd(
    implementation: &Implementation,
    brokers: usize,
    each: usize,
    seconds: f64,
) -> anyhow::Result<CrowdResult> {
    let mut standing = Vec::new();
    for _ in 0..brokers {
        let server = Server::start(implementation)?;
        let holder = Holder::start(server.address, WaitKind::Poll, each, false)?;
        standing.push((server, holder));
    }
    let mut held = 0;
    let mut figures = Vec::new();
    for (server, _) in &standing {
        let standing = block_on_local(async { waiter_count(server).await.context("no count of waiters") })?;
        print(&format!("  {standing} held by one broker\n"));
        held += standing;
        let shape = LoadShape { supervisors: 10, ..LoadShape::standard(seconds) };
        figures.push(dispatch(server, &shape)?);
    }
    for (_, holder) in standing {
        holder.end()?;
    }
    Ok(CrowdResult { held: usize::try_from(held)?, figures })
}

/// A process that holds waiters.
pub(crate) struct Holder(Child);

impl Holder {
    /// Starts it, and returns when all of them wait, or their polls are sent.
    pub(crate) fn start(
        address: SocketAddr,
        kind: WaitKind,
        count: usize,
        at_once: bool,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["keep", &address.to_string(), &count.to_string(), "--kind", kind.name()]);
        command.args(at_once.then_some("--at-once"));
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().context("no output from the holder")?).read_line(&mut line)?;
        Ok(Self(holder))
    }

    /// Closes its input, and waits for its end.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        drop(self.0.stdin.take());
        self.0.wait()?;
        Ok(())
    }
}

/// The process that holds waiters until its input is closed.
pub(crate) fn keep(address: SocketAddr, kind: WaitKind, count: usize, at_once: bool) -> anyhow::Result<()> {
    let crowd = block_on_local(async {
        let mut crowd = Vec::with_capacity(count);
        for number in 0..count {
            crowd.extend(open_waiters(kind, address, number..number + 1).await?);
            // Connections that are opened at the same time get their keepalive probes at the same time; more than this
            // overflow loopback's queue.
            if !at_once && number % 8 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        print("held\n");
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
        Ok(crowd)
    })?;
    drop(crowd);
    Ok(())
}

//! Owns what a broker that has waiters costs others when it falls silent, and when it is killed.

use std::time::{Duration, Instant};

use anyhow::ensure;
use rustix::process::{Pid, Signal, kill_process};

use super::brokers::{Brokers, Supervisor};
use super::times::Times;
use crate::load::{CountedReceipts, settling_time};

/// The waiters of a pool at the broker that fails, which is preferred because it has more, and at another one.
const WAITERS: [(usize, usize); 2] = [(1, 40), (2, 20)];
/// Pools: for the silent broker, for the runs beside it, for the killed broker.
const SILENT: usize = 3;
const BESIDE: usize = 4;
const KILLED: usize = 5;
const POSTS: usize = 500;
/// Longer than a silent broker's rows are shown.
const SILENCE: Duration = Duration::from_secs(5);
const PACE: Duration = Duration::from_millis(5);
/// A POST that takes so much longer than usual has waited for the silent broker, in milliseconds.
const NOTICEABLE: f64 = 50.0;

/// Runs for which a silent broker has a waiter, and so has another one.
#[derive(Debug, Clone)]
pub(super) struct SilentOwner {
    before: Times,
    during: Times,
    misses: usize,
    /// Runs of another pool, for which only the other broker has waiters.
    beside: Times,
}

/// Stops the second broker for some time, and posts to the first one meanwhile.
pub(super) async fn silence(brokers: &Brokers, receipts: &CountedReceipts) -> anyhow::Result<SilentOwner> {
    for (broker, count) in WAITERS {
        receipts.start_controllers(brokers.address(broker), SILENT, count);
    }
    receipts.start_controllers(brokers.address(2), BESIDE, 20);
    tokio::time::sleep(settling_time(80) + Duration::from_millis(200)).await;
    let before = Supervisor::connect(brokers.address(0), SILENT).await?.post_all(POSTS, true).await?;
    let signal = |signal| kill_process(Pid::from_child(&brokers.servers[1].child), signal);
    signal(Signal::STOP)?;
    let address = brokers.address(0);
    let beside = tokio::task::spawn_local(async move {
        let mut supervisor = Supervisor::connect(address, BESIDE).await?;
        anyhow::Ok(post_for(&mut supervisor, SILENCE).await?.0)
    });
    let mut supervisor = Supervisor::connect(address, SILENT).await?;
    let (during, misses) = post_for(&mut supervisor, SILENCE).await?;
    signal(Signal::CONT)?;
    let beside = beside.await??;
    brokers.wait_until_joined().await?;
    Ok(SilentOwner { before, during, misses, beside })
}

/// Posts for some time. Returns also how many runs no controller got.
async fn post_for(supervisor: &mut Supervisor, time: Duration) -> anyhow::Result<(Times, usize)> {
    let (begun, mut times, mut misses) = (Instant::now(), Times::default(), 0);
    while begun.elapsed() < time {
        let answer = supervisor.post().await?;
        times.record(answer.millis);
        misses += usize::from(!answer.is_hit);
        tokio::time::sleep(PACE).await;
    }
    Ok((times, misses))
}

impl SilentOwner {
    pub(super) fn text(&self) -> String {
        let waited = self.during.above(self.before.percentile(50.0) + NOTICEABLE);
        format!(
            "  before an owner falls silent:        {}\n  while it is silent:                  {}, {} without a controller; \
             waited for it {waited:.0?} ms\n  other runs meanwhile:                {}\n",
            self.before.text(),
            self.during.text(),
            self.misses,
            self.beside.text(),
        )
    }
}

/// Runs for which a killed broker had a waiter, and so has another one.
#[derive(Debug, Clone)]
pub(super) struct KilledOwner {
    before: Times,
    after: Times,
}

/// Kills the second broker while nothing is under way, and posts to the first one at once.
pub(super) async fn kill(brokers: &mut Brokers, receipts: &CountedReceipts) -> anyhow::Result<KilledOwner> {
    for (broker, count) in WAITERS {
        receipts.start_controllers(brokers.address(broker), KILLED, count);
    }
    tokio::time::sleep(settling_time(60) + Duration::from_millis(200)).await;
    let mut supervisor = Supervisor::connect(brokers.address(0), KILLED).await?;
    let before = supervisor.post_all(POSTS, true).await?;
    brokers.servers[1].child.kill()?;
    // It is dead once it has been waited for; a run that is forwarded before may still reach its socket.
    brokers.servers[1].child.wait()?;
    let after = supervisor.post_all(POSTS, true).await?;
    ensure!(after.count() == POSTS, "not every run was answered");
    Ok(KilledOwner { before, after })
}

impl KilledOwner {
    /// What the slowest POST after the broker's death took beyond the usual.
    pub(super) fn added(&self) -> f64 {
        self.after.percentile(100.0) - self.before.percentile(50.0)
    }

    pub(super) fn text(&self) -> String {
        format!(
            "  before an owner is killed:           {}\n  after it:                            {}\n",
            self.before.text(),
            self.after.text()
        )
    }
}

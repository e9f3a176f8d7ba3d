//! Owns the load: what it is made of, what is counted, and the ways to put it on a server.

mod churn;
mod closed;
mod controller;
mod hold;
mod open;
pub(crate) mod peer;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use hdrhistogram::Histogram;
use tokio::task::LocalSet;

use crate::server::{Server, own_cpu};

pub(crate) use churn::{Churned, bytes, churn};
pub(crate) use closed::{dispatch, go_on, health};
pub(crate) use hold::{Crowd, Held, crowd, hold, keep};
pub(crate) use open::open;
pub(crate) use peer::{message, poll};

/// What the load is made of.
#[derive(Debug, Clone, Args)]
pub(crate) struct Shape {
    #[arg(long, default_value_t = 500)]
    pub(crate) controllers: usize,
    #[arg(long, default_value_t = 50)]
    pub(crate) supervisors: usize,
    #[arg(long, default_value_t = 10)]
    pub(crate) pools: usize,
    /// Seconds that are counted, after one and a half that are not
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
}

impl Shape {
    /// The load of the published comparisons, for so many seconds.
    pub(crate) fn usual(seconds: f64) -> Self {
        Self { controllers: 500, supervisors: 50, pools: 10, seconds }
    }
}

/// What one measurement found; times in microseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) rate: f64,
    /// The server's CPU per dispatch.
    pub(crate) cpu: f64,
    /// This program's CPU per dispatch.
    pub(crate) own_cpu: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) misses: u64,
    /// Runs that were answered 429, which count as no dispatch.
    pub(crate) refused: Refused,
}

/// Refusals: how many a second, and microseconds from the POST to the answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refused {
    pub(crate) rate: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Figures {
    /// A line for people.
    pub(crate) fn line(&self, name: &str) -> String {
        let Self { rate, cpu, own_cpu, p50, p99, p999, misses, refused } = self;
        let refused = match refused.rate {
            0.0 => String::new(),
            rate => format!("  refused {rate:.0}/s"),
        };
        format!(
            "{name:<22} {rate:>7.0}/s  {cpu:>6.1} µs CPU each (load {own_cpu:.1})  p50 {p50:.0} µs  p99 {p99:.0} µs  \
             p99.9 {p999:.0} µs  misses {misses}{refused}\n"
        )
    }
}

/// What supervisors were told and controllers received.
struct Tally {
    took: Histogram<u64>,
    refused: Histogram<u64>,
    hits: u64,
    misses: u64,
    receipts: u64,
    wrong: u64,
    counting: bool,
    over: bool,
}

impl Tally {
    fn new() -> anyhow::Result<Shared> {
        // Tenths of a microsecond, up to a minute.
        let took = Histogram::new_with_bounds(1, 600_000_000, 3)?;
        let refused = took.clone();
        let tally =
            Self { took, refused, hits: 0, misses: 0, receipts: 0, wrong: 0, counting: false, over: false };
        Ok(Rc::new(RefCell::new(tally)))
    }

    fn answered(&mut self, hit: bool, since: Instant) {
        self.hits += u64::from(hit);
        self.misses += u64::from(!hit);
        if self.counting {
            self.took.saturating_record(tenths(since));
        }
    }

    fn refused(&mut self, since: Instant) {
        if self.counting {
            self.refused.saturating_record(tenths(since));
        }
    }
}

/// Tenths of a microsecond that have passed.
fn tenths(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos() / 100).unwrap_or(u64::MAX)
}

/// In microseconds, what so many percent of all stay below.
fn at(times: &Histogram<u64>, percent: f64) -> f64 {
    f64::from(u32::try_from(times.value_at_percentile(percent)).unwrap_or(u32::MAX)) / 10.0
}

type Shared = Rc<RefCell<Tally>>;

/// Before anything is counted.
const WARM_UP: Duration = Duration::from_millis(1500);

/// Runs a measurement's tasks on this thread.
pub(crate) fn on_this_thread<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, work)
}

/// Counts for a while what a load that runs already does to a server.
async fn observe(server: &Server, tally: &Shared, seconds: f64) -> anyhow::Result<Figures> {
    tokio::time::sleep(WARM_UP).await;
    let (cpu, own, begun) = (server.cpu()?, own_cpu()?, Instant::now());
    tally.borrow_mut().counting = true;
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let mut tally = tally.borrow_mut();
    tally.counting = false;
    tally.over = true;
    let (took, cpu, own) =
        (begun.elapsed().as_secs_f64(), server.cpu()?.saturating_sub(cpu), own_cpu()?.saturating_sub(own));
    let dispatches = f64::from(u32::try_from(tally.took.len())?);
    ensure!(dispatches > 0.0, "nothing was answered");
    let Tally { took: times, refused, .. } = &*tally;
    Ok(Figures {
        rate: dispatches / took,
        cpu: cpu.as_secs_f64() * 1e6 / dispatches,
        own_cpu: own.as_secs_f64() * 1e6 / dispatches,
        p50: at(times, 50.0),
        p99: at(times, 99.0),
        p999: at(times, 99.9),
        misses: tally.misses,
        refused: Refused {
            rate: f64::from(u32::try_from(refused.len())?) / took,
            p50: at(refused, 50.0),
            p99: at(refused, 99.0),
        },
    })
}

/// The median; not a number if there is none.
pub(crate) fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Every run that was answered `true` arrived once, in the right pool.
fn check(tally: &Shared) -> anyhow::Result<()> {
    let Tally { hits, receipts, wrong, .. } = *tally.borrow();
    ensure!(wrong == 0, "{wrong} runs went to the wrong pool");
    ensure!(hits == receipts, "{hits} answered true, {receipts} received");
    Ok(())
}

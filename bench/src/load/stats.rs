//! Owns the statistics of a load: the responses to supervisors, the receipts of controllers, and the figures computed from
//! them.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use pilotlight_bench::nats::NatsServer;
use pilotlight_bench::server::{Server, own_cpu};

use super::measurement::{Measurement, Refused};

/// The responses to supervisors, and the receipts of controllers.
pub(super) struct LoadStats {
    took: Histogram<u64>,
    refused: Histogram<u64>,
    /// From a POST to its run's arrival, where supervisors note when they post.
    arrived: Histogram<u64>,
    /// When each supervisor has posted its last run.
    posted: Vec<Instant>,
    pub(super) hits: u64,
    misses: u64,
    /// Of the hits, those while counting.
    counted_hits: u64,
    pub(super) receipts: u64,
    pub(super) wrong: u64,
    counting: bool,
    pub(super) over: bool,
}

impl LoadStats {
    pub(super) fn new() -> anyhow::Result<Shared> {
        // Tenths of a microsecond, up to a minute.
        let took = Histogram::new_with_bounds(1, 600_000_000, 3)?;
        let tally = Self {
            refused: took.clone(),
            arrived: took.clone(),
            posted: Vec::new(),
            took,
            hits: 0,
            misses: 0,
            counted_hits: 0,
            receipts: 0,
            wrong: 0,
            counting: false,
            over: false,
        };
        Ok(Rc::new(RefCell::new(tally)))
    }

    pub(super) fn answered(&mut self, hit: bool, since: Instant) {
        self.hits += u64::from(hit);
        self.misses += u64::from(!hit);
        if self.counting {
            self.counted_hits += u64::from(hit);
            self.took.saturating_record(tenths(since));
        }
    }

    /// Notes that this supervisor posts a run now.
    pub(super) fn posts(&mut self, supervisor: usize) {
        let now = Instant::now();
        if self.posted.len() <= supervisor {
            self.posted.resize(supervisor + 1, now);
        }
        self.posted[supervisor] = now;
    }

    /// Notes the arrival of the run that a supervisor has posted last.
    pub(super) fn arrived(&mut self, supervisor: usize, is_right: bool) {
        self.receipts += 1;
        self.wrong += u64::from(!is_right);
        if let Some(&posted) = self.posted.get(supervisor).filter(|_| self.counting) {
            self.arrived.saturating_record(tenths(posted));
        }
    }

    pub(super) fn refused(&mut self, since: Instant) {
        if self.counting {
            self.refused.saturating_record(tenths(since));
        }
    }
}

/// Tenths of a microsecond that have passed.
fn tenths(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos() / 100).unwrap_or(u64::MAX)
}

/// A percentile of the times, in microseconds.
fn percentile(times: &Histogram<u64>, percent: f64) -> f64 {
    f64::from(u32::try_from(times.value_at_percentile(percent)).unwrap_or(u32::MAX)) / 10.0
}

pub(super) type Shared = Rc<RefCell<LoadStats>>;

/// The time before counting starts.
const WARM_UP: Duration = Duration::from_millis(1500);

/// The processes whose CPU time is measured.
pub(crate) struct Measured<'a> {
    pub(crate) servers: &'a [&'a Server],
    pub(crate) nats: Option<&'a NatsServer>,
}

impl Measured<'_> {
    fn cpu(&self) -> anyhow::Result<[Duration; 3]> {
        let servers = self.servers.iter().map(|server| server.cpu()).sum::<anyhow::Result<Duration>>()?;
        Ok([servers, self.nats.map_or(Ok(Duration::ZERO), NatsServer::cpu)?, own_cpu()?])
    }
}

/// Measures servers for a while, under a load that is running already.
pub(super) async fn measure_for(
    measured: &Measured<'_>,
    tally: &Shared,
    seconds: f64,
) -> anyhow::Result<Measurement> {
    tokio::time::sleep(WARM_UP).await;
    let (cpu_before, begun) = (measured.cpu()?, Instant::now());
    tally.borrow_mut().counting = true;
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let mut tally = tally.borrow_mut();
    tally.counting = false;
    tally.over = true;
    let (took, cpu_now) = (begun.elapsed().as_secs_f64(), measured.cpu()?);
    let dispatches = f64::from(u32::try_from(tally.took.len())?);
    let each = |now: Duration, before| now.saturating_sub(before).as_secs_f64() * 1e6 / dispatches;
    ensure!(dispatches > 0.0, "no request was answered");
    let LoadStats { took: times, refused, arrived, .. } = &*tally;
    Ok(Measurement {
        rate: dispatches / took,
        cpu: each(cpu_now[0], cpu_before[0]),
        nats_cpu: each(cpu_now[1], cpu_before[1]),
        own_cpu: each(cpu_now[2], cpu_before[2]),
        p50: percentile(times, 50.0),
        p99: percentile(times, 99.0),
        p999: percentile(times, 99.9),
        arrival_p50: percentile(arrived, 50.0),
        arrival_p99: percentile(arrived, 99.0),
        misses: tally.misses,
        surplus: 0,
        hit_share: f64::from(u32::try_from(tally.counted_hits)?) / dispatches,
        refused: Refused {
            rate: f64::from(u32::try_from(refused.len())?) / took,
            p50: percentile(refused, 50.0),
            p99: percentile(refused, 99.0),
        },
    })
}

/// Checks that every run that was answered `true` arrived once, in the right pool.
pub(super) fn check_receipts(tally: &Shared) -> anyhow::Result<()> {
    let LoadStats { hits, receipts, wrong, .. } = *tally.borrow();
    ensure!(wrong == 0, "{wrong} runs went to the wrong pool");
    ensure!(hits == receipts, "{hits} answered true, {receipts} received");
    Ok(())
}

/// The same where an answer of another broker may come too late: its run is offered again, or answered `false`. Returns how
/// many runs arrived beyond those that were answered `true`.
pub(super) fn check_forwarded_receipts(tally: &Shared) -> anyhow::Result<u64> {
    let LoadStats { hits, receipts, wrong, .. } = *tally.borrow();
    ensure!(wrong == 0, "{wrong} runs went to the wrong pool");
    receipts.checked_sub(hits).with_context(|| format!("{hits} answered true, {receipts} received"))
}

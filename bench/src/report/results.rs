//! Owns the results of all measurements, and medians over their rounds.

use std::time::Duration;

use super::counted::Counted;
use crate::load::{ChurnResult, CrowdResult, HoldResult, Measurement, median};

/// The rounds of one subject, in the same order as those of all subjects.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) rounds: Vec<Measurement>,
}

/// All results.
pub(super) struct Results {
    pub(super) closed: Vec<Series>,
    pub(super) fresh: Vec<Series>,
    pub(super) open: Vec<Series>,
    pub(super) health: Vec<Series>,
    /// 500 waiters in 10 pools, and many waiters in many pools.
    pub(super) growth: Vec<Series>,
    /// Unpinned, with one thread and with two.
    pub(super) threads: Vec<Series>,
    pub(super) held: Vec<(&'static str, Vec<HoldResult>)>,
    pub(super) churned: Vec<(&'static str, ChurnResult)>,
    pub(super) beyond: Option<CrowdResult>,
    pub(super) sessions: SessionResults,
    pub(super) ready: Duration,
    pub(super) binary: u64,
    pub(super) allocations: String,
    pub(super) calls: Option<String>,
    /// Only in a full report.
    pub(super) counted: Option<Counted>,
}

/// The results of sessions: WebSockets and streams of events.
pub(super) struct SessionResults {
    /// By load, with its description.
    pub(super) loads: Vec<(&'static str, Vec<Series>)>,
    /// By subject, in rounds.
    pub(super) held: Vec<(&'static str, Vec<HoldResult>)>,
}

/// The median over a series' rounds; NaN if there is no such series.
pub(super) fn median_of(series: Option<&Series>, of: impl Fn(&Measurement) -> f64) -> f64 {
    median(series.map(|series| series.rounds.iter().map(of).collect()).unwrap_or_default())
}

/// The median of the ratios within each round.
pub(super) fn median_ratio(
    series: Option<&Series>,
    base: Option<&Series>,
    of: impl Fn(&Measurement) -> f64,
) -> f64 {
    let (Some(series), Some(base)) = (series, base) else { return f64::NAN };
    median(series.rounds.iter().zip(&base.rounds).map(|(one, other)| of(one) / of(other)).collect())
}

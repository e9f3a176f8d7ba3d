//! Owns the figures of one measurement, and their line on the terminal.

/// The result of one measurement; times are in microseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measurement {
    pub(crate) rate: f64,
    /// The server's CPU per dispatch; that of all servers together if there are several.
    pub(crate) cpu: f64,
    /// That of nats-server, if there is one.
    pub(crate) nats_cpu: f64,
    /// This program's CPU per dispatch.
    pub(crate) own_cpu: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    /// From the POST to the run's arrival; 0 where that is not measured.
    pub(crate) arrival_p50: f64,
    pub(crate) arrival_p99: f64,
    pub(crate) misses: u64,
    /// The share of dispatches that are hits; 0 where nothing is dispatched.
    pub(crate) hit_share: f64,
    /// Runs that arrived though no answer says so, or more than once.
    pub(crate) surplus: u64,
    /// Runs that were answered 429, which are not counted as dispatches.
    pub(crate) refused: Refused,
}

/// Refusals: the number per second, and microseconds from the POST to the response.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refused {
    pub(crate) rate: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Measurement {
    /// The result as a line of text.
    pub(crate) fn line(&self, name: &str) -> String {
        let Self { rate, cpu, own_cpu, p50, p99, p999, misses, refused, .. } = self;
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

/// The median; NaN for no values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

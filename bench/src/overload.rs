//! Owns the measurement of overload: the peak rate, then twice as many runs, without and with a limit.

use clap::Args;
use pilotlight_bench::implementation::Implementation;
use pilotlight_bench::server::Server;
use pilotlight_bench::stdout::print;

use crate::load::{self, LoadShape, Measurement};

#[derive(Debug, Clone, Args)]
pub(crate) struct OverloadOptions {
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How many controllers wait: more than POSTs can be in flight, so that no run misses
    #[arg(long, default_value_t = 1000)]
    controllers: usize,
    /// How many POSTs may be in flight at once; each supervisor waits for its response, as real ones do
    #[arg(long, default_value_t = 200)]
    supervisors: usize,
    /// The rate of runs, as a multiple of the peak
    #[arg(long, default_value_t = 2.0)]
    load: f64,
    /// The limit of POSTs a second, as a share of the peak
    #[arg(long, default_value_t = 0.5)]
    limit: f64,
}

/// Each round measures its own peak, because the peak of a busy machine varies.
pub(crate) fn measure(implementation: &Implementation, options: &OverloadOptions) -> anyhow::Result<()> {
    let OverloadOptions { rounds, seconds, controllers, supervisors, .. } = *options;
    let shape = LoadShape { controllers, supervisors, ..LoadShape::standard(seconds) };
    let (mut kept, mut kept_limited, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let peak = load::dispatch(&Server::start(implementation)?, &shape)?;
        let (due, limit) = (peak.rate * options.load, peak.rate * options.limit);
        let limited = implementation.clone().with(&["--max-post-rate".to_owned(), format!("{limit:.0}")]);
        let without = load::open(&Server::start(implementation)?, &shape, due)?;
        let with = load::open(&Server::start(&limited)?, &shape, due)?;
        print(&format!(
            "peak {:.0}/s, {due:.0}/s are due\n  no limit:      {}  limit {limit:>6.0}/s: {}  refused after p50 {:.0} µs, p99 \
             {:.0} µs\n",
            peak.rate,
            without.line("all are taken"),
            with.line("the surplus is refused"),
            with.refused.p50,
            with.refused.p99,
        ));
        kept.push(hits(&without, seconds) / peak.rate);
        kept_limited.push(hits(&with, seconds) / limit);
        refused.push(with.refused.p99);
    }
    print(&format!(
        "medians of {rounds} rounds: {:.1} % of the peak, {:.1} % of the limit, refused after p99 {:.0} µs\n",
        100.0 * load::median(kept),
        100.0 * load::median(kept_limited),
        load::median(refused),
    ));
    Ok(())
}

/// Runs that were delivered, per second. All misses are subtracted, including those during the warm-up.
fn hits(figures: &Measurement, seconds: f64) -> f64 {
    figures.rate - f64::from(u32::try_from(figures.misses).unwrap_or(u32::MAX)) / seconds
}

//! Owns what a broker does with more runs than it can take: the peak, then twice as many, without and with a limit.

use clap::Args;

use crate::load::{self, Figures, Shape};
use crate::server::Server;
use crate::subject::Subject;

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How many POSTs may be under way at once
    #[arg(long, default_value_t = 200)]
    supervisors: usize,
    /// The runs that come, as a multiple of the peak
    #[arg(long, default_value_t = 2.0)]
    load: f64,
    /// The limit of POSTs a second, as a share of the peak
    #[arg(long, default_value_t = 0.8)]
    limit: f64,
}

/// Each round finds its own peak, because that of a busy machine moves.
pub(crate) fn measure(subject: &Subject, options: &Options) -> anyhow::Result<()> {
    let shape = Shape { supervisors: options.supervisors, ..Shape::usual(options.seconds) };
    let (mut kept, mut kept_limited, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let peak = load::dispatch(&Server::start(subject)?, &shape)?;
        let offered = peak.rate * options.load;
        let limit = peak.rate * options.limit;
        let limited = subject.clone().with(&["--max-post-rate".to_owned(), format!("{limit:.0}")]);
        let without = load::open(&Server::start(subject)?, &shape, offered)?;
        let with = load::open(&Server::start(&limited)?, &shape, offered)?;
        let Figures { refused: told, .. } = &with;
        crate::say(&format!(
            "peak {:>6.0}/s   offered {offered:>6.0}/s: {:>6.0}/s started   with a limit of {limit:.0}/s: {:>6.0}/s \
             started, {:.0}/s refused within p50 {:.0} µs, p99 {:.0} µs   misses {}\n",
            peak.rate,
            without.rate,
            with.rate,
            told.rate,
            told.p50,
            told.p99,
            without.misses + with.misses,
        ));
        kept.push(without.rate / peak.rate);
        kept_limited.push(with.rate / limit);
        refused.push(told.p99);
    }
    crate::say(&format!(
        "medians of {} rounds: {:.1} % of the peak, {:.1} % of the limit, refused within p99 {:.0} µs\n",
        options.rounds,
        100.0 * load::middle(kept),
        100.0 * load::middle(kept_limited),
        load::middle(refused),
    ));
    Ok(())
}

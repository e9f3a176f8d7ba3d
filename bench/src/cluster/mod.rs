//! Owns the measurements of a cluster: what a run costs that another broker's waiter takes, in time and in CPU time.

mod brokers;
mod cpu;
mod faults;
mod latency;
mod times;

use clap::Args;
use pilotlight_bench::stdout::print;

use latency::Round;

#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterOptions {
    /// Rounds of the latencies, of which the best counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Rounds of the CPU time, of which the median counts
    #[arg(long, default_value_t = 5)]
    cpu_rounds: usize,
    /// Seconds of each round of the CPU time
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Only this part
    #[arg(long)]
    only: Option<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Latency,
    Cpu,
}

/// Prints all figures, with what each should be.
pub(crate) fn measure(proof: &'static str, options: &ClusterOptions) -> anyhow::Result<()> {
    if options.only != Some(Part::Cpu) {
        let rounds: Vec<Round> = (1..=options.rounds)
            .map(|number| {
                let round = latency::measure(proof)?;
                print(&format!("round {number}, proof {proof}\n{}", round.text()));
                Ok(round)
            })
            .collect::<anyhow::Result<_>>()?;
        print(&latency::best_of(&rounds));
    }
    if options.only != Some(Part::Latency) {
        cpu::compare(options.cpu_rounds, options.seconds)?;
    }
    Ok(())
}

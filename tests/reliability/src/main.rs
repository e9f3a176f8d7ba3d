//! Owns the command line of the reliability tests: which of them runs, and on what.

mod broker;
mod chaos;
mod cluster;
mod cluster_chaos;
mod cluster_crowd;
mod fleet;
mod mixed;
mod namespace;
mod oracle;
mod rolling_restart;
mod scheduling;
mod soak;
mod storm;
mod supervisors;

use clap::{Parser, Subcommand};

/// Long randomized tests of a running pilotlight.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    test: Test,
}

#[derive(Subcommand)]
enum Test {
    /// Injects faults of every kind at random; an oracle accounts for every run
    Chaos(chaos::ChaosOptions),
    /// Keeps a large fleet of controllers busy for long: whether memory grows, and whether a run is lost
    Soak(soak::SoakOptions),
    /// Sends requests of every kind, many of them malformed; afterwards the broker has to work and to have released what it used
    Storm(storm::StormOptions),
    /// One pool whose controllers wait in every way, of which a third dies in the second half; an oracle accounts for every run
    Mixed(mixed::MixedOptions),
    /// Faults of brokers, NATS and controllers of a cluster at random; an oracle accounts for every run
    ClusterChaos(cluster_chaos::ClusterChaosOptions),
    /// A hundred thousand controllers of one pool at six brokers, and runs posted to any of them
    ClusterCrowd(cluster_crowd::ClusterCrowdOptions),
    /// Drains and restarts each broker of a cluster in turn, behind a balancer, under stock controllers
    RollingRestart(rolling_restart::RollingRestartOptions),
    /// Controllers in a process of their own, started by `chaos` and `soak`
    #[command(hide = true)]
    Fleet(fleet::FleetOptions),
}

fn main() -> anyhow::Result<()> {
    pilotlight::server::raise_open_files();
    match Cli::parse().test {
        Test::Chaos(options) => chaos::run(&options),
        Test::Soak(options) => soak::run(&options),
        Test::Storm(shape) => storm::run(&shape),
        Test::Mixed(options) => mixed::run(&options),
        Test::ClusterChaos(options) => cluster_chaos::run(&options),
        Test::ClusterCrowd(options) => cluster_crowd::run(&options),
        Test::RollingRestart(options) => rolling_restart::run(&options),
        Test::Fleet(options) => fleet::run(options),
    }
}

//! Owns the bench's command line: which measurement runs, against what.

mod allocations;
mod json;
mod load;
mod lock;
mod observability_cost;
mod overload;
mod report;

use std::net::SocketAddr;

use anyhow::Context;
use clap::{Parser, Subcommand};
use pilotlight_bench::implementation::{Implementation, PEERS};
use pilotlight_bench::server::Server;
use pilotlight_bench::stdout::print;

use load::LoadShape;

/// What pilotlight is measured with.
#[derive(Parser)]
struct Cli {
    /// The server: pilotlight, or a peer by name
    #[arg(long, global = true, default_value = "pilotlight")]
    against: String,
    /// What pilotlight's `true` needs; with `received` every run takes a new connection
    #[arg(long, global = true, default_value = "written")]
    proof: String,
    /// Makes a peer end each connection with its run
    #[arg(long, global = true)]
    fresh: bool,
    #[command(subcommand)]
    measure: Measure,
}

#[derive(Subcommand)]
enum Measure {
    /// What reading one POST's body costs, by parser
    Json,
    /// Dispatches in closed loops: how many a second, how long each, what CPU
    Dispatch {
        #[command(flatten)]
        shape: LoadShape,
        /// Further arguments for the server
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Dispatches at a fixed rate, each one's time counted from when it was due
    Open {
        #[command(flatten)]
        shape: LoadShape,
        /// Runs a second
        #[arg(long, default_value_t = 10_000.0)]
        rate: f64,
        /// Further arguments for the server
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Twice the load that a broker can take: how many runs are started all the same, how soon the others are refused
    Overload(overload::OverloadOptions),
    /// What a held connection costs in bytes
    Hold {
        #[arg(long, default_value_t = 19_000)]
        count: usize,
    },
    /// Polls that connect and abort, and what they leave in memory
    Churn {
        #[arg(long, default_value_t = 100_000)]
        polls: usize,
    },
    /// The health route in a closed loop
    Health {
        #[command(flatten)]
        shape: LoadShape,
    },
    /// More held polls than one table of descriptors has room for, on several brokers
    Crowd {
        #[arg(long, default_value_t = 6)]
        brokers: usize,
        #[arg(long, default_value_t = 16_700)]
        each: usize,
    },
    /// Allocations per dispatch, by size
    Allocations,
    /// How long the core's lock is held at most, by what it is held for, in the holder's CPU time
    Lock(lock::LockOptions),
    /// What a history, scrapes and slow readers of events cost
    Watch {
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
        /// Runs a second; without it, as fast as it goes
        #[arg(long)]
        rate: Option<f64>,
    },
    /// Everything, beside the peers: writes REPORT.md and its plots
    Report {
        /// All rounds, in under half an hour; without it, an impression in under three minutes
        #[arg(long)]
        full: bool,
    },
    /// Holds polls until its input ends: the other end of `crowd`
    #[command(hide = true)]
    Keep { address: SocketAddr, count: usize },
    /// The load of `dispatch` on a server that stands already: the other end of `allocations`
    #[command(hide = true)]
    Load { address: SocketAddr },
}

fn main() -> anyhow::Result<()> {
    pilotlight::server::raise_open_files();
    let cli = Cli::parse();
    match &cli.measure {
        Measure::Json => json::compare(),
        Measure::Dispatch { shape, arguments } => {
            let server = Server::start(&implementation(&cli)?.with(arguments))?;
            print(&load::dispatch(&server, shape)?.line(&cli.against));
        }
        Measure::Open { shape, rate, arguments } => {
            let server = Server::start(&implementation(&cli)?.with(arguments))?;
            print(&load::open(&server, shape, *rate)?.line(&cli.against));
        }
        Measure::Overload(options) => overload::measure(&implementation(&cli)?, options)?,
        Measure::Hold { count } => {
            print(&format!("{:?}\n", load::hold(&Server::start(&implementation(&cli)?)?, *count, true)?));
        }
        Measure::Churn { polls } => {
            let churned = load::churn(&Server::start(&implementation(&cli)?)?, *polls)?;
            print(&format!("{:?}\n{:.3} bytes left by each poll\n", churned, churned.slope()));
        }
        Measure::Health { shape } => {
            print(&load::health(&Server::start(&implementation(&cli)?)?, shape)?.line(&cli.against));
        }
        Measure::Crowd { brokers, each } => {
            print(&format!("{:?}\n", load::crowd(&implementation(&cli)?, *brokers, *each, 2.0)?));
        }
        Measure::Allocations => print(&allocations::count()?.text()),
        Measure::Lock(options) => lock::measure(options),
        Measure::Watch { rounds, seconds, rate } => observability_cost::compare(*rounds, *seconds, *rate)?,
        Measure::Report { full } => report::write(*full)?,
        Measure::Keep { address, count } => load::keep(*address, *count)?,
        Measure::Load { address } => allocations::load(*address)?,
    }
    Ok(())
}

fn implementation(cli: &Cli) -> anyhow::Result<Implementation> {
    if cli.against == "pilotlight" {
        let proof = ["written", "acked", "received"].into_iter().find(|&proof| proof == cli.proof);
        return Implementation::pilotlight(proof.context("a proof is written, acked or received")?);
    }
    let name = PEERS.into_iter().find(|&name| name == cli.against);
    Implementation::peer(name.with_context(|| format!("a peer is one of {}", PEERS.join(", ")))?, cli.fresh)
}

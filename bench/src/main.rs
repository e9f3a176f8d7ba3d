//! Owns the bench's command line: which measurement runs, and against which server.

mod allocations;
mod allocator;
mod cluster;
mod contention;
mod http1;
mod json;
mod lambda;
mod latencies;
mod load;
mod lock;
mod memory;
mod observability_cost;
mod overload;
mod own_broker;
mod report;
mod stream;
mod usage;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};
use pilotlight_bench::count;
use pilotlight_bench::implementation::{Implementation, PEERS, SESSION_PEERS};
use pilotlight_bench::server::Server;
use pilotlight_bench::stdout::print;

use load::{LoadShape, WaitKind};

/// The benchmarks of pilotlight.
#[derive(Parser)]
struct Cli {
    /// The server: pilotlight, or a peer by name
    #[arg(long, global = true, default_value = "pilotlight")]
    against: String,
    /// The proof that pilotlight needs to answer `true`; with `received` every run takes a new connection
    #[arg(long, global = true, default_value = "written")]
    proof: String,
    /// Makes a peer close each connection after its run
    #[arg(long, global = true)]
    fresh: bool,
    #[command(subcommand)]
    measure: Measure,
}

#[derive(Subcommand)]
enum Measure {
    /// The cost of parsing the body of a POST, by parser
    Json,
    /// Dispatches in closed loops: number per second, latency, CPU time
    Dispatch {
        #[command(flatten)]
        shape: LoadShape,
        /// Further arguments for the server
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Dispatches at a fixed rate, each timed from when it was due
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
    /// Twice the load that a broker can take: how many runs are still delivered, and how soon the others are refused
    Overload(overload::OverloadOptions),
    /// The memory of a held connection
    Hold {
        #[arg(long, value_enum, default_value_t = WaitKind::Poll)]
        kind: WaitKind,
        #[arg(long, default_value_t = 19_000)]
        count: usize,
    },
    /// Polls that are aborted, and the memory that they leave in use
    Churn {
        #[arg(long, default_value_t = 100_000)]
        polls: usize,
    },
    /// The health route in a closed loop
    Health {
        #[command(flatten)]
        shape: LoadShape,
    },
    /// Runs that are pushed to WebSockets and streams of events and acknowledged, beside Bun.serve and Node with `ws`; and the
    /// memory of those that only wait
    Websocket(report::SessionScope),
    /// Answers that are streamed token by token through pilotlight, beside proxies in Bun, Go and Rust; and the memory of those that
    /// are open, large, or not read
    Stream(stream::StreamScope),
    /// Functions of AWS Lambda that are invoked through pilotlight, beside AWS's emulator and plain HTTP servers in the same language
    Lambda(lambda::LambdaScope),
    /// More held polls than the descriptors of one process allow, on several brokers
    Crowd {
        #[arg(long, default_value_t = 6)]
        brokers: usize,
        #[arg(long, default_value_t = 16_700)]
        each: usize,
    },
    /// Runs that one broker forwards to another: latencies, also around an owner's silence and death, and CPU time
    Cluster(cluster::ClusterOptions),
    /// Instructions, allocations, clock reads and system calls per request of each kind, under valgrind and strace
    Count {
        /// The broker; without it, the one in the folder of this program
        #[arg(long)]
        program: Option<PathBuf>,
    },
    /// Allocations per dispatch, by size
    Allocations,
    /// What the memory of held connections consists of: live blocks by size, and what the allocator keeps beyond them
    Memory(memory::MemoryOptions),
    /// The longest time that the core's lock is held, by operation, in CPU time
    Lock(lock::LockOptions),
    /// The cost of a history, of scrapes and of slow readers of events
    Watch {
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
        /// Runs a second; without it, a closed loop as fast as possible
        #[arg(long)]
        rate: Option<f64>,
    },
    /// Measures everything, compared with the peers: writes REPORT.md and its plots
    Report {
        /// All rounds, in under half an hour; without it, a rough measurement in under five minutes
        #[arg(long)]
        full: bool,
    },
    /// Holds waiters until its input is closed: the client process of `crowd`
    #[command(hide = true)]
    Keep {
        address: SocketAddr,
        count: usize,
        #[arg(long, value_enum, default_value_t = WaitKind::Poll)]
        kind: WaitKind,
        /// As fast as connections can be opened
        #[arg(long)]
        at_once: bool,
    },
    /// The stub or the workers of `stream`, until its input is closed
    #[command(hide = true)]
    StreamOrigin(stream::OriginOptions),
    /// The load of `dispatch` on a server that is running already: the client process of `allocations`
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
        Measure::Hold { kind, count } => {
            let server = Server::start(&implementation(&cli)?)?;
            print(&format!("{:?}\n", load::hold(&server, *kind, *count, true)?));
        }
        Measure::Churn { polls } => {
            let churned = load::churn(&Server::start(&implementation(&cli)?)?, *polls)?;
            print(&format!("{:?}\n{:.3} bytes left by each poll\n", churned, churned.slope()));
        }
        Measure::Health { shape } => {
            print(&load::health(&Server::start(&implementation(&cli)?)?, shape)?.line(&cli.against));
        }
        Measure::Websocket(scope) => report::sessions(scope)?,
        Measure::Stream(scope) => report::streams(scope)?,
        Measure::Lambda(scope) => report::lambda(scope)?,
        Measure::Crowd { brokers, each } => {
            print(&format!("{:?}\n", load::crowd(&implementation(&cli)?, *brokers, *each, 2.0)?));
        }
        Measure::Cluster(options) => cluster::measure(known_proof(&cli)?, options)?,
        Measure::Count { program } => {
            let built = Implementation::pilotlight("written")?.program;
            print(&count::count_as_table(program.as_ref().unwrap_or(&built))?);
        }
        Measure::Allocations => print(&allocations::count()?.text()),
        Measure::Memory(options) => memory::measure(options)?,
        Measure::Lock(options) => lock::measure(options)?,
        Measure::Watch { rounds, seconds, rate } => observability_cost::compare(*rounds, *seconds, *rate)?,
        Measure::Report { full } => report::write(*full)?,
        Measure::Keep { address, count, kind, at_once } => load::keep(*address, *kind, *count, *at_once)?,
        Measure::StreamOrigin(options) => stream::run_origin(options)?,
        Measure::Load { address } => allocations::load(*address)?,
    }
    Ok(())
}

fn implementation(cli: &Cli) -> anyhow::Result<Implementation> {
    if cli.against == "pilotlight" {
        return Implementation::pilotlight(known_proof(cli)?);
    }
    let peers = [&PEERS[..], &SESSION_PEERS].concat();
    let name = peers.iter().find(|&&name| name == cli.against);
    Implementation::peer(name.with_context(|| format!("a peer is one of {}", peers.join(", ")))?, cli.fresh)
}

fn known_proof(cli: &Cli) -> anyhow::Result<&'static str> {
    let proof = ["written", "acked", "received"].into_iter().find(|&proof| proof == cli.proof);
    proof.context("a proof is written, acked or received")
}

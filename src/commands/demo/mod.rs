//! Owns `pilotlight demo`: a broker, a simulated fleet and a supervisor in one process, and what came of it.

mod client;
mod fleet;
mod ledger;
mod supervisor;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::{Endpoint, Listeners, Settings};
use crate::server::{Inherited, Server, Signal, raise_open_files};
use ledger::Ledger;

/// What the demo runs.
#[derive(Debug, Clone, Args)]
pub(super) struct Options {
    /// Simulated controllers
    #[arg(long, value_name = "N", default_value_t = 200)]
    controllers: usize,
    /// Runs posted each second
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// How long
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Print the console's address first
    #[arg(long)]
    open_console: bool,
}

/// The last runs get so long to arrive.
const LAST_RECEIPTS: Duration = Duration::from_secs(2);
/// Every controller gets so long to stand in its pool before the first run is posted.
const WARM_UP: Duration = Duration::from_secs(10);

pub(super) fn demo(settings: &Settings, options: &Options) -> anyhow::Result<ExitCode> {
    let free_port = Endpoint::Ip(([127, 0, 0, 1], 0).into());
    let settings = Settings {
        listen: vec![free_port.clone().into()],
        dispatch_listen: Vec::new(),
        ops_listen: vec![free_port.into()],
        drain_window: Duration::ZERO,
        ..settings.clone()
    };
    let listeners = settings.check()?;
    let open_files = raise_open_files();
    super::runtime()?.block_on(async {
        let server = Server::bind(&settings, &listeners, open_files, Inherited::default())?;
        let Listeners { public, ops, .. } = server.listeners();
        let address = |all: &[Endpoint]| all.first().and_then(Endpoint::ip).context("it listens nowhere");
        let addresses = Addresses { public: address(&public)?, ops: address(&ops)? };
        let (end, signals) = mpsc::channel(1);
        let ledger = Arc::new(Ledger::default());
        let story = async {
            let told = play(&addresses, &settings, options, &ledger).await;
            // The server may have failed by itself; its own error says so.
            let _ = end.send(Signal::End).await;
            told
        };
        let (served, told) = tokio::join!(server.run(signals), story);
        served?;
        told?;
        sum_up(&ledger, options)
    })
}

/// Where the broker of the demo listens.
struct Addresses {
    public: SocketAddr,
    ops: SocketAddr,
}

async fn play(
    addresses: &Addresses,
    settings: &Settings,
    options: &Options,
    ledger: &Arc<Ledger>,
) -> anyhow::Result<()> {
    if options.open_console {
        super::print(&format!("console: http://{}/\n", addresses.ops));
    }
    super::print(&format!(
        "broker: http://{} · operators: http://{} · {} controllers · {} runs a second · {}\n",
        addresses.public,
        addresses.ops,
        options.controllers,
        options.rate,
        humantime::format_duration(options.duration)
    ));
    let mut tasks = JoinSet::new();
    for number in 0..options.controllers {
        tasks.spawn(fleet::controller(addresses.public, number, settings.connection_timeout, ledger.clone()));
    }
    client::wait_for_waiters(addresses.ops, options.controllers, WARM_UP).await?;
    let begun = Instant::now();
    let posts = supervisor::post_at_rate(addresses.public, options.rate, options.duration, ledger.clone());
    tokio::select! {
        () = posts => {}
        never = report(ledger, begun) => match never {},
    }
    ledger.settled(LAST_RECEIPTS).await;
    if std::io::stdout().is_terminal() {
        super::print("\n");
    }
    tasks.shutdown().await;
    Ok(())
}

/// A live line on a terminal, plain lines elsewhere.
async fn report(ledger: &Ledger, begun: Instant) -> std::convert::Infallible {
    let (start, end) = if std::io::stdout().is_terminal() { ("\r\x1b[K", "") } else { ("", "\n") };
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let seconds = begun.elapsed().as_secs();
        let _ = write!(std::io::stdout(), "{start}{seconds:>4} s   {}{end}", ledger.sum());
        let _ = std::io::stdout().flush();
    }
}

fn sum_up(ledger: &Ledger, options: &Options) -> anyhow::Result<ExitCode> {
    let sum = ledger.sum();
    super::print(&format!("\n{sum}\n"));
    let nothing_ran = sum.runs == 0 && !options.duration.is_zero();
    if sum.lost > 0 || sum.duplicates > 0 || nothing_ran {
        anyhow::bail!("{} lost, {} received twice, of {} runs", sum.lost, sum.duplicates, sum.runs);
    }
    Ok(ExitCode::SUCCESS)
}

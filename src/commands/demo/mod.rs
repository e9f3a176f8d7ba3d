//! Owns `pilotlight demo`: a broker, simulated controllers and a supervisor in one process, and a summary of their runs.

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

use super::process;
use crate::config::{Endpoint, ListenerSettings, Listeners, ProcessSettings, Settings};
use crate::server::{InheritedSockets, Server, Signal, raise_open_files};
use ledger::Ledger;

/// The arguments of the demo.
#[derive(Debug, Clone, Args)]
pub(super) struct Options {
    /// How many controllers to simulate
    #[arg(long, value_name = "N", default_value_t = 200)]
    controllers: usize,
    /// How many runs to post per second
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// How long to post runs
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Print the console's URL first
    #[arg(long)]
    open_console: bool,
}

/// How long to wait for the last runs to arrive.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait for all controllers to poll before the first run is posted.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn demo(settings: &Settings, options: &Options) -> anyhow::Result<ExitCode> {
    let free_port = Endpoint::Ip(([127, 0, 0, 1], 0).into());
    let settings = Settings {
        listeners: ListenerSettings {
            listen: vec![free_port.clone().into()],
            dispatch_listen: Vec::new(),
            ops_listen: vec![free_port.into()],
            ..settings.listeners.clone()
        },
        process: ProcessSettings { drain_window: Duration::ZERO, ..settings.process.clone() },
        ..settings.clone()
    };
    let listeners = settings.validate()?;
    let open_files = raise_open_files();
    process::runtime()?.block_on(async {
        let server = Server::bind(&settings, &listeners, open_files, InheritedSockets::default())?;
        let Listeners { public, ops, .. } = server.listeners();
        let address = |all: &[Endpoint]| {
            all.first().and_then(Endpoint::ip).context("the demo's broker has no TCP address")
        };
        let addresses = Addresses { public: address(&public)?, ops: address(&ops)? };
        let (end, signals) = mpsc::channel(1);
        let ledger = Arc::new(Ledger::default());
        let demo = async {
            let played = play(&addresses, &settings, options, &ledger).await;
            // If the server has failed already, nothing receives this; its own error is returned below.
            let _ = end.send(Signal::End).await;
            played
        };
        let (served, played) = tokio::join!(server.run(signals), demo);
        served?;
        played?;
        summarize(&ledger, options)
    })
}

/// The addresses of the demo's broker.
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
        process::print(&format!("console: http://{}/\n", addresses.ops));
    }
    process::print(&format!(
        "broker: http://{} · operators: http://{} · {} controllers · {} runs a second · {}\n",
        addresses.public,
        addresses.ops,
        options.controllers,
        options.rate,
        humantime::format_duration(options.duration)
    ));
    let mut tasks = JoinSet::new();
    for number in 0..options.controllers {
        tasks.spawn(fleet::controller(
            addresses.public,
            number,
            settings.waiting.connection_timeout,
            ledger.clone(),
        ));
    }
    client::wait_for_waiters(addresses.ops, options.controllers, WARM_UP_TIMEOUT).await?;
    let begun = Instant::now();
    let posting = supervisor::post_at_rate(addresses.public, options.rate, options.duration, ledger.clone());
    tokio::select! {
        () = posting => {}
        never = report(ledger, begun) => match never {},
    }
    ledger.wait_for_receipts(RECEIPT_TIMEOUT).await;
    if std::io::stdout().is_terminal() {
        process::print("\n");
    }
    tasks.shutdown().await;
    Ok(())
}

/// Prints the figures every second: one live line on a terminal, a line each elsewhere.
async fn report(ledger: &Ledger, begun: Instant) -> std::convert::Infallible {
    let (start, end) = if std::io::stdout().is_terminal() { ("\r\x1b[K", "") } else { ("", "\n") };
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let seconds = begun.elapsed().as_secs();
        let _ = write!(std::io::stdout(), "{start}{seconds:>4} s   {}{end}", ledger.summary());
        let _ = std::io::stdout().flush();
    }
}

fn summarize(ledger: &Ledger, options: &Options) -> anyhow::Result<ExitCode> {
    let summary = ledger.summary();
    process::print(&format!("\n{summary}\n"));
    let nothing_ran = summary.runs == 0 && !options.duration.is_zero();
    if summary.lost > 0 || summary.duplicates > 0 || nothing_ran {
        anyhow::bail!(
            "{} lost, {} received twice, of {} runs",
            summary.lost,
            summary.duplicates,
            summary.runs
        );
    }
    Ok(ExitCode::SUCCESS)
}

//! Owns `pilotlight demo`: brokers, simulated controllers and a supervisor in one process, and a summary of their runs.

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
use clap::builder::RangedU64ValueParser;
use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::process;
use crate::config::{
    ConfigError, Endpoint, ListenerSettings, Listeners, ProcessSettings, RecordSettings, Settings,
};
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
    /// How many brokers to run, as one cluster; more than one need --nats
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=32))]
    brokers: usize,
    /// Print the console's URL first
    #[arg(long)]
    open_console: bool,
}

/// How long to wait for the last runs to arrive.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait for the brokers to find each other, and for all controllers to poll, before the first run is posted.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn demo(settings: &Settings, options: &Options) -> anyhow::Result<ExitCode> {
    if options.brokers > 1 && settings.cluster.nats.is_empty() {
        return Err(ConfigError::Invalid(format!(
            "--brokers {} needs --nats, over which the brokers find each other: start `nats-server`, and add --nats \
             nats://127.0.0.1:4222",
            options.brokers
        ))
        .into());
    }
    let settings = with_free_ports(settings);
    let listeners = settings.validate()?;
    let open_files = raise_open_files();
    process::runtime()?.block_on(async {
        let (mut brokers, mut running, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..options.brokers {
            let settings = if number == 0 { settings.clone() } else { without_history(&settings) };
            let server = Server::bind(&settings, &listeners, open_files, InheritedSockets::default())?;
            brokers.push(Addresses::of(&server)?);
            let (end, signals) = mpsc::channel(1);
            running.push(server.run(signals));
            ends.push(end);
        }
        let ledger = Arc::new(Ledger::new(options.brokers));
        let demo = async {
            let played = play(&brokers, &settings, options, &ledger).await;
            for end in ends {
                // If a server has failed already, nothing receives this; its own error is returned below.
                let _ = end.send(Signal::End).await;
            }
            played
        };
        let (served, played) = tokio::join!(join_all(running), demo);
        served.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        played?;
        summarize(&ledger, options)
    })
}

fn with_free_ports(settings: &Settings) -> Settings {
    let free_port = Endpoint::Ip(([127, 0, 0, 1], 0).into());
    Settings {
        listeners: ListenerSettings {
            listen: vec![free_port.clone().into()],
            dispatch_listen: Vec::new(),
            ops_listen: vec![free_port.into()],
            ..settings.listeners.clone()
        },
        process: ProcessSettings { drain_window: Duration::ZERO, ..settings.process.clone() },
        ..settings.clone()
    }
}

/// One file has the history of one broker: the first.
fn without_history(settings: &Settings) -> Settings {
    Settings { records: RecordSettings { history: None, ..settings.records.clone() }, ..settings.clone() }
}

/// The addresses of one of the demo's brokers.
#[derive(Debug, Clone, Copy)]
struct Addresses {
    public: SocketAddr,
    ops: SocketAddr,
}

impl Addresses {
    fn of(server: &Server) -> anyhow::Result<Self> {
        let Listeners { public, ops, .. } = server.listeners();
        let address = |all: &[Endpoint]| {
            all.first().and_then(Endpoint::ip).context("the demo's broker has no TCP address")
        };
        Ok(Self { public: address(&public)?, ops: address(&ops)? })
    }
}

async fn play(
    brokers: &[Addresses],
    settings: &Settings,
    options: &Options,
    ledger: &Arc<Ledger>,
) -> anyhow::Result<()> {
    greet(brokers, options);
    let ops: Vec<_> = brokers.iter().map(|broker| broker.ops).collect();
    client::wait_for_each_other(&ops, WARM_UP_TIMEOUT).await?;
    let public: Arc<[SocketAddr]> = brokers.iter().map(|broker| broker.public).collect();
    // Demos that share NATS must not get each other's runs.
    let deployment: Arc<str> = match brokers.len() {
        1 => "deployment_demo".into(),
        _ => format!("deployment_demo_{:08x}", fastrand::u32(..)).into(),
    };
    let mut tasks = JoinSet::new();
    for number in 0..options.controllers {
        let (ledger, deployment) = (ledger.clone(), deployment.clone());
        let broker = fleet::broker_of(number, public.len());
        let timeout = settings.waiting.connection_timeout;
        tasks.spawn(fleet::controller((broker, public[broker]), number, timeout, deployment, ledger));
    }
    client::wait_for_waiters(&ops, options.controllers, WARM_UP_TIMEOUT).await?;
    let begun = Instant::now();
    let supervisor = supervisor::Supervisor::new(public, deployment, ledger.clone());
    tokio::select! {
        () = supervisor.post_at_rate(options.rate, options.duration) => {}
        never = report(ledger, begun) => match never {},
    }
    ledger.wait_for_receipts(RECEIPT_TIMEOUT).await;
    if std::io::stdout().is_terminal() {
        process::print("\n");
    }
    tasks.shutdown().await;
    Ok(())
}

fn greet(brokers: &[Addresses], options: &Options) {
    if let (true, Some(first)) = (options.open_console, brokers.first()) {
        process::print(&format!("console: http://{}/\n", first.ops));
    }
    let load = format!(
        "{} controllers · {} runs a second · {}\n",
        options.controllers,
        options.rate,
        humantime::format_duration(options.duration)
    );
    if let [Addresses { public, ops }] = brokers {
        process::print(&format!("broker: http://{public} · operators: http://{ops} · {load}"));
        return;
    }
    for (number, Addresses { public, ops }) in brokers.iter().enumerate() {
        process::print(&format!("broker {}: http://{public} · operators: http://{ops}\n", number + 1));
    }
    process::print(&format!("{} brokers · {load}", brokers.len()));
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

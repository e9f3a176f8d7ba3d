//! Owns the chaos test: random faults from a seed, during a load of which every run is accounted for.

mod counters;
mod inject;
mod schedule;
pub(crate) mod testbed;

use pilotlight_bench::stdout::print;
use std::fmt::Write;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use tokio::time::{Instant, sleep_until};

use crate::broker::{BrokerOptions, RestartableBroker};
use crate::fleet::{self, Transports, unix_micros};
use crate::oracle::{Affected, Oracle, Rules};
use crate::scheduling::watch_scheduling;
use crate::supervisors::Supervisors;
use inject::inject;
use pilotlight_bench::runtime::block_on_local;
use schedule::{Phase, restarts_until, schedule};
use testbed::{Leftover, Testbed};

/// Options of the chaos test.
#[derive(Debug, Clone, Args)]
pub(crate) struct ChaosOptions {
    #[arg(long = "for", default_value = "10m", value_parser = humantime::parse_duration)]
    length: Duration,
    /// The same seed injects the same faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 400)]
    controllers: usize,
    /// Processes that the controllers live in
    #[arg(long, default_value_t = 8)]
    fleets: usize,
    #[command(flatten)]
    transports: Transports,
    #[arg(long, default_value_t = 10)]
    pools: usize,
    /// Runs a second
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// The broker's limit of open files, which one of the faults exhausts
    #[arg(long, default_value_t = 1500)]
    files: u64,
    /// Further arguments for the broker
    #[arg(last = true)]
    arguments: Vec<String>,
}

const SUPERVISORS: u32 = 32;
/// The poll timeout that /connect returns, in milliseconds.
const TIMEOUT: u64 = 20_000;
/// The broker's default budget, and how much longer a busy machine may take, in microseconds.
const BUDGET: u64 = 2_000_000;
const MARGIN: u64 = 1_500_000;
/// The share of runs that are posted in the native dialect.
const NATIVE: f64 = 0.3;
/// A run is judged this long after its POST, in microseconds. Controllers that paused reading have read by then.
const RIPE: u64 = 8_000_000;

/// Runs the test; an error if any invariant was violated.
pub(crate) fn run(options: &ChaosOptions) -> anyhow::Result<()> {
    let mut arguments = options.arguments.clone();
    for (flag, value) in [("--drain-window", "2s"), ("--proof", "received")] {
        if !arguments.iter().any(|argument| argument.starts_with(flag)) {
            arguments.extend([flag.to_owned(), value.to_owned()]);
        }
    }
    let broker =
        RestartableBroker::start(BrokerOptions { files: Some(options.files), timeout: TIMEOUT, arguments })?;
    let phases = schedule(options.seed, options.length, options.fleets);
    print(&format!(
        "seed {}: {} phases, {} controllers in {} processes, {} runs a second\n",
        options.seed,
        phases.len(),
        options.controllers,
        options.fleets,
        options.rate
    ));
    block_on_local(async {
        let desk = Supervisors::new(vec![broker.address], options.pools, NATIVE, options.seed);
        let model = fleet::FleetOptions {
            brokers: vec![broker.address],
            serial: 0,
            count: options.controllers / options.fleets,
            pools: options.pools,
            timeout: TIMEOUT,
            aborts: 0.0,
            silent: 0.0,
            native: 0.0,
            transports: options.transports,
            seed: options.seed,
        };
        let oracle =
            Oracle::new(Rules { budget: BUDGET, margin: MARGIN, timeout: TIMEOUT * 1000, is_cluster: false });
        let stage = Testbed::new(desk, broker, oracle, model);
        let watched = stage.clone();
        tokio::task::spawn_local(watch_scheduling(move |from| watched.disturbed(Affected::Harness, from)));
        stage.supervisors.start(SUPERVISORS, options.rate);
        let (before, after) = run_phases(&stage, &phases, options.fleets as u64).await?;
        match after.check(&before) {
            Ok(story) => print(&format!("{story}\n")),
            Err(story) => stage.oracle.borrow_mut().fail("I10", &story),
        }
        print_summary(&stage)
    })
}

/// Runs all phases. Returns the broker's idle resources after the last restart and at the end.
async fn run_phases(
    stage: &Rc<Testbed>,
    phases: &[Phase],
    fleets: u64,
) -> anyhow::Result<(Leftover, Leftover)> {
    let begun = Instant::now();
    stage.start_fleets(fleets)?;
    stage.check_quiet().await;
    let warm = usize::try_from(restarts_until(phases.len() as u64))?.min(phases.len() - 2);
    let mut before = None;
    for (number, phase) in phases.iter().enumerate() {
        run_faults(stage, phase, begun).await?;
        stage.supervisors.pause();
        stage.check_quiet().await;
        stage.check_alive()?;
        stage.oracle.borrow_mut().settle(unix_micros().saturating_sub(RIPE));
        print_progress(stage, &format!("phase {} of {}", number + 1, phases.len()), begun);
        if number == warm {
            before = Some(stage.stop_fleets().await?);
            stage.start_fleets(fleets)?;
            stage.check_quiet().await;
        }
    }
    let after = stage.stop_fleets().await?;
    stage.collect();
    stage.oracle.borrow_mut().finish();
    Ok((before.unwrap_or(after), after))
}

/// Injects the faults of one phase; returns when the last of them is over.
async fn run_faults(stage: &Rc<Testbed>, phase: &Phase, begun: Instant) -> anyhow::Result<()> {
    let start = Instant::now();
    stage.supervisors.resume();
    let mut faults = Vec::new();
    for (at, fault) in &phase.faults {
        sleep_until(start + *at).await;
        print(&format!("{:>8.3} s  {fault:?}\n", begun.elapsed().as_secs_f64()));
        faults.push(tokio::task::spawn_local(inject(stage.clone(), *fault)));
        stage.collect();
    }
    sleep_until(start + phase.length).await;
    for fault in faults {
        fault.await??;
    }
    stage.fleets.resume_all();
    Ok(())
}

/// Prints the counts so far, and new failures.
fn print_progress(stage: &Testbed, what: &str, begun: Instant) {
    let mut oracle = stage.oracle.borrow_mut();
    let tally = &oracle.totals;
    print(&format!(
        "{:>8.3} s  {what}: {} posts, {} hits, {} receipts, {} duplicates, {} failures\n",
        begun.elapsed().as_secs_f64(),
        tally.posts,
        tally.hits,
        tally.receipts,
        tally.duplicates,
        oracle.failed()
    ));
    oracle.take_messages().iter().for_each(|failure| print(&format!("  FAILED {failure}\n")));
}

fn print_summary(stage: &Testbed) -> anyhow::Result<()> {
    let mut oracle = stage.oracle.borrow_mut();
    let panics = stage.broker.borrow().log.panics.load(Ordering::Relaxed);
    let lines = stage.broker.borrow().log.lines.load(Ordering::Relaxed);
    for _ in 0..panics {
        oracle.fail("panic", "the broker's stderr reports a panic");
    }
    let mut text = String::new();
    for failure in oracle.take_messages() {
        let _ = writeln!(text, "  FAILED {failure}");
    }
    let list = |counts: Vec<(String, u64)>| {
        counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    };
    let injected = stage.injected.borrow().iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
    let tally = &oracle.totals;
    let misses = tally.misses.iter().map(|(reason, count)| (reason.to_string(), *count)).collect();
    let failures = oracle.failures.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    let _ = writeln!(text, "faults: {}", list(injected));
    let _ = writeln!(
        text,
        "runs: {} posts, {} hits, {} refused, {} without an answer; longest answer {} ms",
        tally.posts,
        tally.hits,
        tally.refused,
        tally.unanswered,
        tally.longest / 1000
    );
    let _ = writeln!(text, "misses: {}; lines in the broker's log: {lines}", list(misses));
    let _ = writeln!(
        text,
        "receipts: {}, of which {} duplicates and {} of runs answered false, each explained; {} hits unknowable, as \
         their process was killed",
        tally.receipts, tally.duplicates, tally.read_though_false, tally.unknowable
    );
    let by = stage.received.borrow().iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    let _ = writeln!(text, "received by: {}", list(by));
    let failed = oracle.failed();
    let _ = writeln!(text, "failures: {failed} {}", list(failures));
    print(&text);
    ensure!(failed == 0, "{failed} failures");
    Ok(())
}

//! Owns the test of a pool whose controllers wait in every way: each run is received once, also while a third of them dies.

use std::fmt::Write;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use tokio::time::sleep;

use crate::broker::{BrokerOptions, RestartableBroker};
use crate::chaos::testbed::Testbed;
use crate::fleet::{Action, FleetOptions, Hit, Instruction, REPLACEMENT_DELAY, Transports};
use crate::oracle::{Affected, Oracle, Rules};
use crate::scheduling::watch_scheduling;
use crate::supervisors::{SendMode, Supervisors};
use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::stdout::print;

/// Options of the test.
#[derive(Debug, Clone, Args)]
pub(crate) struct MixedOptions {
    /// Runs of each half: first nobody dies, then a third of all controllers
    #[arg(long, default_value_t = 10_000)]
    runs: u64,
    /// The same seed kills the same controllers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Processes that the controllers live in
    #[arg(long, default_value_t = 6)]
    fleets: usize,
    /// Controllers of each: a third polls, a third waits over a WebSocket, a third over an event stream
    #[arg(long, default_value_t = 24)]
    controllers: usize,
    /// Supervisors, which post one run after the other
    #[arg(long, default_value_t = 16)]
    supervisors: usize,
    /// Further arguments for the broker
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// The poll timeout that /connect returns, in milliseconds.
const TIMEOUT: u64 = 20_000;
/// The broker's default budget, and how much longer a busy machine may take, in microseconds.
const BUDGET: u64 = 2_000_000;
const MARGIN: u64 = 1_500_000;
/// The share of runs that are posted in the native dialect, and so offered once.
const NATIVE: f64 = 0.5;
const THIRD: f64 = 1.0 / 3.0;
/// The ways in which single controllers die, or fall silent.
const DEATHS: [Action; 5] =
    [Action::Reset, Action::Close, Action::CloseOnRun, Action::ResetAfterRun, Action::PauseReading];

/// Runs the test; an error if any invariant was violated.
pub(crate) fn run(options: &MixedOptions) -> anyhow::Result<()> {
    // The oldest has the next run, so that every waiter has its turn.
    let ours = ["--proof", "received", "--pick", "oldest"].map(str::to_owned);
    let arguments = [&ours[..], &options.arguments[..]].concat();
    let broker = RestartableBroker::start(BrokerOptions { files: None, timeout: TIMEOUT, arguments })?;
    let model = FleetOptions {
        brokers: vec![broker.address],
        serial: 0,
        count: options.controllers,
        pools: 1,
        timeout: TIMEOUT,
        aborts: 0.0,
        silent: 0.0,
        native: 0.5,
        transports: Transports { websockets: THIRD, streams: THIRD },
        seed: options.seed,
    };
    let rules = Rules { budget: BUDGET, margin: MARGIN, timeout: TIMEOUT * 1000, is_cluster: false };
    block_on_local(async {
        let supervisors = Supervisors::new(vec![broker.address], 1, NATIVE, options.seed);
        let stage = Testbed::new(supervisors, broker, Oracle::new(rules), model);
        let watched = stage.clone();
        tokio::task::spawn_local(watch_scheduling(move |from| watched.disturbed(Affected::Harness, from)));
        stage.start_fleets(options.fleets as u64)?;
        check_waiters(&stage, options.fleets).await?;
        let calm = half(&stage, options, 0).await?;
        ensure!(calm == 0, "{calm} runs missed, though nobody died");
        ensure!(
            stage.received.borrow().len() == 3,
            "runs were received by {:?} alone",
            stage.received.borrow()
        );
        check_waiters(&stage, options.fleets).await?;
        let deaths = plan(options);
        let waiters: usize = deaths.iter().map(|(_, death)| death.most_waiters(&stage)).sum();
        let controllers: usize = deaths.iter().map(|(_, death)| death.controllers(options)).sum();
        let missed = half(&stage, options, options.runs).await?;
        ensure!(missed <= waiters as u64, "{missed} runs missed, and at most {waiters} waiters died");
        check_waiters(&stage, options.fleets).await?;
        stage.stop_fleets().await?;
        stage.collect();
        stage.oracle.borrow_mut().finish();
        let all = options.fleets * options.controllers;
        print(&format!("{controllers} of {all} controllers died; {missed} runs missed\n"));
        summary(&stage)
    })
}

/// A death, once this many runs were posted.
#[derive(Debug, Clone, Copy)]
enum Death {
    /// SIGKILL, then a new process.
    Process(usize),
    /// One controller of this process, in this way.
    Controller(usize, Action),
}

impl Death {
    fn controllers(self, options: &MixedOptions) -> usize {
        match self {
            Self::Process(_) => options.controllers,
            Self::Controller(..) => 1,
        }
    }

    /// At most how many waiters die.
    fn most_waiters(self, stage: &Testbed) -> usize {
        match self {
            Self::Process(_) => stage.fleets.model().waiters(),
            Self::Controller(..) => 8,
        }
    }
}

/// When who dies in the second half: a sixth of the processes, and of each a third of its controllers one by one.
fn plan(options: &MixedOptions) -> Vec<(u64, Death)> {
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let mut deaths = Vec::new();
    // The last runs find whoever has come back.
    let last = options.runs - options.runs / 10;
    for fleet in 0..options.fleets {
        if fleet % 6 == 0 {
            deaths.push((options.runs + rng.u64(..last), Death::Process(fleet)));
        }
        for number in 0..options.controllers.div_ceil(3) {
            let action = DEATHS[number % DEATHS.len()];
            deaths.push((options.runs + rng.u64(..last), Death::Controller(fleet, action)));
        }
    }
    deaths.sort_by_key(|(at, _)| *at);
    deaths
}

/// Posts the runs of one half, the first of which has the number after `before`. Returns how many were not received.
async fn half(stage: &Rc<Testbed>, options: &MixedOptions, before: u64) -> anyhow::Result<u64> {
    let begun = std::time::Instant::now();
    let missed_before = missed(stage);
    let mut supervisors = Vec::new();
    for _ in 0..options.supervisors {
        let (stage, end) = (stage.clone(), before + options.runs);
        supervisors.push(tokio::task::spawn_local(async move {
            let mut kept = None;
            while stage.supervisors.last_run() < end {
                let run = stage.supervisors.next_run();
                stage.supervisors.post(&mut kept, 0, run, SendMode::Whole).await;
            }
        }));
    }
    let mut dying = Vec::new();
    if before > 0 {
        for (at, death) in plan(options) {
            while stage.supervisors.last_run() < at {
                sleep(Duration::from_millis(1)).await;
            }
            dying.push(tokio::task::spawn_local(die(stage.clone(), death)));
            stage.collect();
        }
    }
    for task in supervisors {
        task.await?;
    }
    for task in dying {
        task.await??;
    }
    stage.check_quiet().await;
    stage.check_alive()?;
    let missed = missed(stage) - missed_before;
    let took = begun.elapsed().as_secs_f64();
    print(&format!(
        "{} runs in {took:.1} s, {missed} missed, by {:?}\n",
        options.runs,
        stage.received.borrow()
    ));
    Ok(missed)
}

async fn die(stage: Rc<Testbed>, death: Death) -> anyhow::Result<()> {
    match death {
        Death::Controller(fleet, action) => {
            stage.fleets.instruct(fleet, Instruction { action, count: 1, millis: PAUSE_MS });
            sleep(Duration::from_millis(PAUSE_MS)).await;
            Ok(())
        }
        Death::Process(fleet) => {
            let Some(Hit { serial, from }) = stage.fleets.kill(fleet) else { return Ok(()) };
            stage.disturbed(Affected::Killed(serial), from);
            stage.fleet_killed(serial);
            sleep(REPLACEMENT_DELAY).await;
            stage.fleets.replace(fleet)
        }
    }
}

/// How long a silent controller is silent: longer than the broker waits for its proof.
const PAUSE_MS: u64 = 1500;

/// POSTs whose answer is no delivery.
fn missed(stage: &Testbed) -> u64 {
    let totals = &stage.oracle.borrow().totals;
    totals.posts - totals.hits
}

/// The broker counts the waiters of each transport that the controllers have.
async fn check_waiters(stage: &Testbed, fleets: usize) -> anyhow::Result<()> {
    stage.check_quiet().await;
    for transport in ["poll", "websocket", "sse"] {
        let expected = stage.fleets.model().waiters_by(transport) * fleets;
        let begun = std::time::Instant::now();
        loop {
            let scrape = stage.broker.borrow().ops;
            let scrape = pilotlight_bench::scrape::Scrape::fetch(scrape).await?;
            let counted = scrape.count(&format!("pilotlight_waiters{{transport=\"{transport}\"}}"));
            if counted == expected as u64 {
                break;
            }
            ensure!(begun.elapsed() < COME_BACK, "{counted} waiters by {transport}, expected {expected}");
            sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// All who died are back within this time.
const COME_BACK: Duration = Duration::from_secs(25);

fn summary(stage: &Testbed) -> anyhow::Result<()> {
    let mut oracle = stage.oracle.borrow_mut();
    for _ in 0..stage.broker.borrow().log.panics.load(Ordering::Relaxed) {
        oracle.fail("panic", "the broker's stderr reports a panic");
    }
    let mut text = String::new();
    for failure in oracle.take_messages() {
        let _ = writeln!(text, "  FAILED {failure}");
    }
    let totals = &oracle.totals;
    let _ = writeln!(
        text,
        "{} posts, {} hits, misses {:?}; {} receipts, of which {} duplicates and {} of runs answered false, each \
         explained; {} hits unknowable",
        totals.posts,
        totals.hits,
        totals.misses,
        totals.receipts,
        totals.duplicates,
        totals.read_though_false,
        totals.unknowable
    );
    print(&text);
    let failed = oracle.failed();
    ensure!(failed == 0, "{failed} failures");
    Ok(())
}

//! Owns the chaos test of a cluster: random faults of brokers, NATS and controllers from a seed, and every run accounted for.

mod inject;
mod schedule;
mod testbed;

use pilotlight_bench::nats::NatsServer;
use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::scrape::Scrape;
use pilotlight_bench::stdout::print;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use tokio::time::{Instant, sleep, sleep_until};

use crate::broker::BrokerOptions;
use crate::cluster::Cluster;
use crate::fleet;
use crate::namespace;
use crate::oracle::{Affected, Oracle, Rules};
use crate::scheduling::watch_scheduling;
use crate::supervisors::Supervisors;
use inject::inject;
use schedule::{Targets, schedule};
use testbed::Testbed;

/// Options of the chaos test of a cluster.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterChaosOptions {
    #[arg(long = "for", default_value = "60s", value_parser = humantime::parse_duration)]
    length: Duration,
    /// The same seed injects the same faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 3)]
    brokers: usize,
    #[arg(long, default_value_t = 300)]
    controllers: usize,
    /// Processes that the controllers live in
    #[arg(long, default_value_t = 6)]
    fleets: usize,
    #[arg(long, default_value_t = 10)]
    pools: usize,
    /// Runs a second
    #[arg(long, default_value_t = 150.0)]
    rate: f64,
    /// This program is alone in a network namespace, where it can drop packets
    #[arg(long, hide = true)]
    in_namespace: bool,
    /// Further arguments for the brokers
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Each is at one broker; a broker that does not answer stops its own supervisors for up to ten seconds.
const SUPERVISORS: u32 = 60;
/// The poll timeout that /connect returns, in milliseconds.
const TIMEOUT: u64 = 20_000;
const RULES: Rules =
    Rules { budget: 2_000_000, margin: 1_500_000, timeout: TIMEOUT * 1000, is_cluster: true };
/// The share of runs that are posted in the native dialect, and of controllers that wait in it.
const NATIVE_RUNS: f64 = 0.5;
const NATIVE_CONTROLLERS: f64 = 0.4;

/// Runs the test; an error if any invariant was violated.
pub(crate) fn run(options: &ClusterChaosOptions) -> anyhow::Result<()> {
    NatsServer::program()?;
    if !options.in_namespace {
        match namespace::obstacle() {
            None => return Err(namespace::run_again("--in-namespace")),
            Some(obstacle) => print(&format!("no partitions: {obstacle}\n")),
        }
    }
    let mut arguments = options.arguments.clone();
    arguments.extend(["--drain-window", "2s", "--proof", "received"].map(str::to_owned));
    let broker = BrokerOptions { files: None, timeout: TIMEOUT, arguments };
    let cluster = Cluster::start(options.brokers, &broker, options.in_namespace)?;
    let addresses = cluster.addresses();
    let model = fleet::FleetOptions {
        brokers: addresses.clone(),
        serial: 0,
        count: options.controllers / options.fleets,
        pools: options.pools,
        timeout: TIMEOUT,
        aborts: 0.0,
        silent: 0.0,
        native: NATIVE_CONTROLLERS,
        transports: fleet::Transports::default(),
        seed: options.seed,
    };
    block_on_local(async {
        cluster.wait_until_joined().await?;
        let supervisors = Supervisors::new(addresses, options.pools, NATIVE_RUNS, options.seed);
        let testbed = Testbed::new(cluster, supervisors, Oracle::new(RULES), model);
        let watched = testbed.clone();
        tokio::task::spawn_local(watch_scheduling(move |from| watched.disturbed(Affected::Harness, from)));
        for _ in 0..options.fleets {
            testbed.fleets.start()?;
        }
        sleep(Duration::from_secs(1)).await;
        testbed.supervisors.start(SUPERVISORS, options.rate);
        inject_all(&testbed, options).await?;
        testbed.check_recovery().await?;
        finish(&testbed).await
    })
}

async fn inject_all(testbed: &Rc<Testbed>, options: &ClusterChaosOptions) -> anyhow::Result<()> {
    let targets =
        Targets { brokers: options.brokers, fleets: options.fleets, can_cut_off: options.in_namespace };
    let begun = Instant::now();
    testbed.supervisors.resume();
    let mut faults = Vec::new();
    for (at, fault) in schedule(options.seed, options.length, targets) {
        while begun.elapsed() < at {
            sleep_until((begun + at).min(Instant::now() + Duration::from_secs(1))).await;
            testbed.collect();
        }
        print(&format!("{:>8.3} s  {fault:?}\n", begun.elapsed().as_secs_f64()));
        faults.push(tokio::task::spawn_local(inject(testbed.clone(), fault)));
    }
    sleep_until(begun + options.length).await;
    for fault in faults {
        fault.await??;
        testbed.collect();
    }
    testbed.supervisors.pause();
    // A POST to a broker that never answers ends by itself.
    while testbed.supervisors.in_flight.get() > 0 {
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Waits for the last receipts, judges all runs and prints the counts.
async fn finish(testbed: &Testbed) -> anyhow::Result<()> {
    sleep(Duration::from_secs(2)).await;
    testbed.collect();
    let mut forwards = Vec::new();
    for ops in testbed.cluster.ops() {
        const NAME: &str = "pilotlight_cluster_forwards_total{outcome=\"";
        let scrape = Scrape::fetch(ops).await?;
        let counts = scrape.labels(NAME).into_iter().map(|outcome| {
            let count = scrape.count(&format!("{NAME}{outcome}\""));
            (outcome, count)
        });
        forwards.push(counts.filter(|(_, count)| *count > 0).collect::<Vec<_>>());
    }
    let mut oracle = testbed.oracle.borrow_mut();
    for broker in &testbed.cluster.brokers {
        for _ in 0..broker.borrow().log.panics.load(Ordering::Relaxed) {
            oracle.fail("panic", "a broker's stderr reports a panic");
        }
    }
    oracle.finish();
    oracle.take_messages().iter().for_each(|failure| print(&format!("  FAILED {failure}\n")));
    let totals = &oracle.totals;
    let failed = oracle.failed();
    print(&format!(
        "faults: {:?}\nruns: {} posts, {} hits, misses {:?}, {} refused, {} without an answer; longest answer {} ms\n\
         receipts: {}; {} duplicates at failing controllers or during a fault, {} after an offer without an answer, {} of runs \
         posted twice at once; {} of runs answered false; {} hits unknowable, as their controller was killed\n\
         forwards of the last processes: {forwards:?}\nfailures: {failed} {:?}\n",
        testbed.injected.borrow(),
        totals.posts,
        totals.hits,
        totals.misses,
        totals.refused,
        totals.unanswered,
        totals.longest / 1000,
        totals.receipts,
        totals.duplicates,
        totals.unanswered_offers,
        totals.posted_twice,
        totals.read_though_false,
        totals.unknowable,
        oracle.failures,
    ));
    ensure!(failed == 0, "{failed} failures");
    ensure!(totals.hits * 2 > totals.posts, "hardly any run was delivered");
    Ok(())
}

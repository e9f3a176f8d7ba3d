//! Owns the rolling restart: each broker of a cluster is drained and started again in turn, under a balancer and stock
//! controllers, and no run, no controller and next to no hit may be lost.

mod balancer;
mod controller;
mod ledger;

use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::scrape::Scrape;
use pilotlight_bench::stdout::print;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::broker::BrokerOptions;
use crate::cluster::Cluster;
use crate::fleet::unix_micros;
use crate::oracle::{Affected, Disturbance, Oracle, Rules};
use crate::supervisors::Supervisors;
use controller::Controllers;
use ledger::{Ledger, Served};

/// Options of the rolling restart.
#[derive(Debug, Clone, Args)]
pub(crate) struct RollingRestartOptions {
    #[arg(long, default_value_t = 3)]
    brokers: usize,
    #[arg(long, default_value_t = 200)]
    controllers: usize,
    #[arg(long, default_value_t = 10)]
    pools: usize,
    /// Runs a second
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// How long a broker takes to say goodbye to its waiters
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    drain_window: Duration,
    /// How long the load goes on before, between and after the restarts
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    between: Duration,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Further arguments for the brokers
    #[arg(last = true)]
    arguments: Vec<String>,
}

const SUPERVISORS: u32 = 16;
/// The poll timeout that /connect returns, in milliseconds.
const TIMEOUT: u64 = 20_000;
const RULES: Rules =
    Rules { budget: 2_000_000, margin: 1_500_000, timeout: TIMEOUT * 1000, is_cluster: true };
/// The least share of hits among the runs for which some broker held a free waiter.
const LEAST_HITS: f64 = 0.99;
/// A broker exits within its drain window and this time.
const EXIT_TIME: Duration = Duration::from_secs(20);
/// Time for the last responses and receipts to arrive.
const LAST_RESPONSES: Duration = Duration::from_secs(3);

struct Testbed {
    cluster: Cluster,
    supervisors: Rc<Supervisors>,
    ledger: Rc<Ledger>,
    /// The outcomes of forwards, of all brokers' processes that have ended or are read at the end.
    forwards: BTreeMap<String, u64>,
}

/// Runs the test; an error if a run or a controller was lost, or too many runs missed.
pub(crate) fn run(options: &RollingRestartOptions) -> anyhow::Result<()> {
    let window = format!("{}ms", options.drain_window.as_millis());
    let mut arguments = options.arguments.clone();
    arguments.extend(["--drain-window".to_owned(), window]);
    let cluster =
        Cluster::start(options.brokers, &BrokerOptions { files: None, timeout: TIMEOUT, arguments }, false)?;
    block_on_local(async {
        cluster.wait_until_joined().await?;
        let backends = cluster.addresses().into_iter().zip(cluster.ops()).collect();
        let address = balancer::start(backends).await?;
        let ledger = Rc::new(Ledger::new(Oracle::new(RULES)));
        let controllers = Rc::new(Controllers {
            address,
            poll_timeout: Duration::from_millis(TIMEOUT),
            pools: options.pools,
            ledger: ledger.clone(),
        });
        for number in 0..options.controllers {
            tokio::task::spawn_local(controller::run(controllers.clone(), number));
        }
        sleep(Duration::from_secs(1)).await;
        let supervisors = Supervisors::new(vec![address], options.pools, 0.0, options.seed);
        supervisors.start(SUPERVISORS, options.rate);
        supervisors.resume();
        let mut testbed = Testbed { cluster, supervisors, ledger, forwards: BTreeMap::new() };
        testbed.restart_all(options).await?;
        testbed.print_summary(options)
    })
}

impl Testbed {
    async fn restart_all(&mut self, options: &RollingRestartOptions) -> anyhow::Result<()> {
        self.load_for(options.between).await;
        for broker in 0..options.brokers {
            let begun = Instant::now();
            self.restart(broker, options.drain_window + EXIT_TIME).await?;
            self.cluster.wait_until_joined().await?;
            let took = begun.elapsed().as_secs_f64();
            let Served { possible, hits } = self.ledger.served();
            print(&format!(
                "broker {broker} is back after {took:.1} s; so far {hits} hits of {possible} possible\n"
            ));
            self.load_for(options.between).await;
        }
        self.supervisors.pause();
        self.load_for(LAST_RESPONSES).await;
        for broker in 0..options.brokers {
            self.count_forwards(broker).await;
        }
        Ok(())
    }

    /// Drains a broker with SIGTERM, and starts a new one once it has exited.
    async fn restart(&mut self, broker: usize, patience: Duration) -> anyhow::Result<()> {
        self.count_forwards(broker).await;
        let (begun, from) = (Instant::now(), unix_micros());
        self.cluster.brokers[broker].borrow().signal(Signal::TERM);
        while self.cluster.brokers[broker].borrow_mut().is_running() {
            ensure!(begun.elapsed() < patience, "broker {broker} does not exit after SIGTERM");
            self.load_for(Duration::from_millis(50)).await;
        }
        self.cluster.brokers[broker].borrow_mut().restart()?;
        // The supervisors' one address is the balancer's, so a POST cannot be assigned to a broker.
        let disturbance = Disturbance { affected: Affected::Broker(0), from, to: unix_micros() };
        self.ledger.oracle.borrow_mut().disturbed(disturbance);
        Ok(())
    }

    async fn load_for(&self, time: Duration) {
        sleep(time).await;
        for post in self.supervisors.posts.take() {
            self.ledger.record_post(post);
        }
    }

    /// Adds what a broker's process has counted, which is gone after its end.
    async fn count_forwards(&mut self, broker: usize) {
        const NAME: &str = "pilotlight_cluster_forwards_total{outcome=\"";
        let ops = self.cluster.brokers[broker].borrow().ops;
        let Ok(scrape) = Scrape::fetch(ops).await else { return };
        for outcome in scrape.labels(NAME) {
            let count = scrape.count(&format!("{NAME}{outcome}\""));
            *self.forwards.entry(outcome).or_default() += count;
        }
    }

    fn print_summary(&self, options: &RollingRestartOptions) -> anyhow::Result<()> {
        let mut oracle = self.ledger.oracle.borrow_mut();
        oracle.finish();
        let Served { possible, hits } = self.ledger.served();
        let totals = oracle.totals.clone();
        let lost = oracle.failed();
        let misses: u64 = totals.misses.values().sum();
        let exits = self.ledger.exits.borrow();
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let share = hits as f64 / possible.max(1) as f64;
        print(&format!(
            "{} runs at {}/s through {} brokers, each restarted once: {hits} hits, {misses} misses {:?}, {} POSTs without an \
             answer, {} refused; {} receipts, {} of runs answered false, {} more than proved; longest answer {} ms\n\
             {possible} were posted while a broker held a free waiter: {:.3} % hits (at least {:.0} %)\n\
             {} redirects were followed, {} connections ended without a response, {} controllers exited; {lost} lost {:?}\n\
             forwards, of processes that were not killed in the meantime: {:?}\n",
            totals.posts,
            options.rate,
            options.brokers,
            totals.misses,
            totals.unanswered,
            totals.refused,
            totals.receipts,
            totals.read_though_false,
            totals.duplicates + totals.unanswered_offers,
            totals.longest / 1000,
            share * 100.0,
            LEAST_HITS * 100.0,
            self.ledger.redirects.get(),
            self.ledger.cuts.get(),
            exits.len(),
            oracle.failures,
            self.forwards,
        ));
        exits.iter().take(20).for_each(|exit| print(&format!("  EXITED {exit}\n")));
        oracle.take_messages().iter().for_each(|failure| print(&format!("  FAILED {failure}\n")));
        ensure!(lost == 0, "{lost} lost");
        ensure!(exits.is_empty(), "controllers exited: {}", exits.join("; "));
        ensure!(totals_are_sound(totals.posts, possible), "too few runs were posted, or could be served");
        ensure!(share >= LEAST_HITS, "{hits} hits of {possible} possible ones");
        Ok(())
    }
}

/// Without runs, or without waiters, nothing would be shown.
fn totals_are_sound(posts: u64, possible: u64) -> bool {
    posts > 0 && possible * 10 >= posts * 9
}

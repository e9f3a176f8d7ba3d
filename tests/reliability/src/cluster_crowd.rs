//! Owns the crowd of a cluster: very many controllers of one pool at several brokers, and runs posted to any of them.

use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::scrape::Scrape;
use pilotlight_bench::stdout::print;
use std::rc::Rc;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use hdrhistogram::Histogram;
use tokio::time::{Instant, sleep};

use crate::broker::BrokerOptions;
use crate::cluster::Cluster;
use crate::fleet::{FleetOptions, FleetProcess, ReportQueue, Transports};
use crate::oracle::{Oracle, Rules};
use crate::supervisors::{Post, SendMode, Supervisors};

/// Options of the crowd.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterCrowdOptions {
    #[arg(long, default_value_t = 100_000)]
    waiters: usize,
    /// Brokers with waiters, each of which has a process of controllers; one more broker has none
    #[arg(long, default_value_t = 6)]
    brokers: usize,
    /// Runs that are posted to the brokers in turn, and then to the broker without waiters
    #[arg(long, default_value_t = 6000)]
    runs: usize,
    /// POSTs in flight
    #[arg(long, default_value_t = 16)]
    supervisors: usize,
    /// Further arguments for the brokers
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// The poll timeout that /connect returns, in milliseconds: nobody ends a poll during the test.
const TIMEOUT: u64 = 290_000;
const RULES: Rules =
    Rules { budget: 2_000_000, margin: 1_500_000, timeout: TIMEOUT * 1000, is_cluster: true };
/// All polls are held within this time.
const HOLD_TIME: Duration = Duration::from_secs(180);
/// How long the idle crowd is watched.
const IDLE_TIME: Duration = Duration::from_secs(10);

struct Crowd {
    cluster: Cluster,
    supervisors: Rc<Supervisors>,
    reports: ReportQueue,
    oracle: Oracle,
}

/// Runs the test; an error if a run was not delivered, or not once.
pub(crate) fn run(options: &ClusterCrowdOptions) -> anyhow::Result<()> {
    let mut arguments = options.arguments.clone();
    arguments.extend(["--max-waiters-per-pool", "20000", "--proof", "received"].map(str::to_owned));
    let broker = BrokerOptions { files: None, timeout: TIMEOUT, arguments };
    let cluster = Cluster::start(options.brokers + 1, &broker, false)?;
    block_on_local(async {
        cluster.wait_until_joined().await?;
        let supervisors = Supervisors::new(cluster.addresses(), 1, 0.0, 1);
        let reports = ReportQueue::default();
        let mut crowd = Crowd { cluster, supervisors, reports, oracle: Oracle::new(RULES) };
        let empty = crowd.resident()?;
        let begun = Instant::now();
        let fleets = crowd.start_fleets(options).await?;
        print(&format!("{} polls are held after {:.0} s\n", options.waiters, begun.elapsed().as_secs_f64()));
        crowd.print_memory(&empty).await?;
        crowd.watch_idle().await?;
        crowd.dispatch("to the brokers in turn", options, |run| run % options.brokers).await?;
        crowd.dispatch("to a broker without waiters", options, |_| options.brokers).await?;
        drop(fleets);
        crowd.finish(options)
    })
}

impl Crowd {
    /// Starts a process of controllers for each broker, and waits until all polls are held.
    async fn start_fleets(&mut self, options: &ClusterCrowdOptions) -> anyhow::Result<Vec<FleetProcess>> {
        let mut fleets = Vec::new();
        for (broker, address) in self.cluster.addresses().into_iter().take(options.brokers).enumerate() {
            let count = (options.waiters + broker) / options.brokers;
            let serial = broker as u64 + 1;
            let fleet = FleetOptions {
                brokers: vec![address],
                serial,
                count,
                pools: 1,
                timeout: TIMEOUT,
                aborts: 0.0,
                silent: 0.0,
                native: 0.0,
                transports: Transports::default(),
                seed: serial,
            };
            fleets.push(FleetProcess::start(&fleet, &self.reports)?);
            let begun = Instant::now();
            while self.waiters(broker).await < count as u64 {
                ensure!(begun.elapsed() < HOLD_TIME, "broker {broker} does not hold {count} polls");
                sleep(Duration::from_millis(200)).await;
                self.collect();
            }
        }
        Ok(fleets)
    }

    async fn waiters(&self, broker: usize) -> u64 {
        let ops = self.cluster.brokers[broker].borrow().ops;
        Scrape::fetch(ops).await.map_or(0, |scrape| scrape.count("pilotlight_waiters"))
    }

    fn resident(&self) -> anyhow::Result<Vec<u64>> {
        self.cluster.brokers.iter().map(|broker| broker.borrow().resident()).collect()
    }

    async fn print_memory(&self, empty: &[u64]) -> anyhow::Result<()> {
        for (broker, (resident, empty)) in self.resident()?.into_iter().zip(empty).enumerate() {
            let waiters = self.waiters(broker).await;
            let each = resident.saturating_sub(*empty) / waiters.max(1);
            print(&format!(
                "  broker {broker}: {waiters} waiters, {} KiB resident ({} before), {each} B each\n",
                resident / 1024,
                empty / 1024
            ));
        }
        Ok(())
    }

    /// What the brokers tell each other, and what it costs, while nothing changes.
    async fn watch_idle(&self) -> anyhow::Result<()> {
        let (cpu, nats_cpu) = self.cpu()?;
        let traffic = self.cluster.nats.borrow().traffic()?;
        sleep(IDLE_TIME).await;
        let (cpu_now, nats_cpu_now) = self.cpu()?;
        let traffic = self.cluster.nats.borrow().traffic()?.since(&traffic);
        let seconds = IDLE_TIME.as_secs_f64();
        let percent = |now: Duration, before| now.saturating_sub(before).as_secs_f64() / seconds * 100.0;
        print(&format!(
            "while nothing happens for {seconds:.0} s: {} messages to nats-server, {} from it, {} B; all brokers take {:.1} % of a \
             core, nats-server {:.1} %\n",
            traffic.messages_in,
            traffic.messages_out,
            traffic.bytes_out,
            percent(cpu_now, cpu),
            percent(nats_cpu_now, nats_cpu),
        ));
        Ok(())
    }

    fn cpu(&self) -> anyhow::Result<(Duration, Duration)> {
        let brokers = self.cluster.brokers.iter().map(|broker| broker.borrow().cpu());
        Ok((brokers.sum::<anyhow::Result<Duration>>()?, self.cluster.nats.borrow().cpu()?))
    }

    /// Posts runs to the brokers that `choose` picks; every one has to be delivered.
    async fn dispatch(
        &mut self,
        what: &str,
        options: &ClusterCrowdOptions,
        choose: impl Fn(usize) -> usize,
    ) -> anyhow::Result<()> {
        let (begun, (cpu, nats_cpu)) = (Instant::now(), self.cpu()?);
        let traffic = self.cluster.nats.borrow().traffic()?;
        let brokers: Rc<[usize]> = (0..options.runs).map(choose).collect();
        let next = Rc::new(std::cell::Cell::new(0));
        let workers: Vec<_> = (0..options.supervisors)
            .map(|_| {
                let (supervisors, brokers, next) = (self.supervisors.clone(), brokers.clone(), next.clone());
                tokio::task::spawn_local(async move {
                    let mut kept: Vec<_> = supervisors.brokers.iter().map(|_| None).collect();
                    while let Some(&broker) = brokers.get(next.replace(next.get() + 1)) {
                        let run = supervisors.next_run();
                        supervisors.post(&mut kept[broker], broker, run, SendMode::Whole).await;
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await?;
        }
        let took = begun.elapsed().as_secs_f64();
        let (cpu_now, nats_cpu_now) = self.cpu()?;
        let traffic = self.cluster.nats.borrow().traffic()?.since(&traffic);
        let posts = self.supervisors.posts.take();
        let runs = f64::from(u32::try_from(posts.len())?);
        let each = |now: Duration, before| now.saturating_sub(before).as_secs_f64() * 1e6 / runs;
        let not_delivered: Vec<&Post> = posts.iter().filter(|post| !post.is_hit()).collect();
        print(&format!(
            "{} runs {what}: {:.0}/s, {}, {} not delivered; {:.0} µs CPU of the brokers each, {:.0} µs of nats-server, {} messages \
             to nats-server\n",
            posts.len(),
            runs / took,
            times(&posts)?,
            not_delivered.len(),
            each(cpu_now, cpu),
            each(nats_cpu_now, nats_cpu),
            traffic.messages_in,
        ));
        for post in not_delivered.iter().take(10) {
            print(&format!("  FAILED run {} at broker {}: {:?}\n", post.run, post.broker, post.outcome));
        }
        ensure!(posts.len() == options.runs, "{} of {} runs were posted", posts.len(), options.runs);
        ensure!(not_delivered.is_empty(), "{} runs were not delivered", not_delivered.len());
        for post in posts {
            self.oracle.record_post(post);
        }
        // The last receipts are on their way, and the controllers come back.
        sleep(Duration::from_secs(1)).await;
        self.collect();
        Ok(())
    }

    fn collect(&mut self) {
        self.reports.take().into_iter().for_each(|report| self.oracle.record_report(report));
    }

    fn finish(mut self, options: &ClusterCrowdOptions) -> anyhow::Result<()> {
        self.collect();
        self.oracle.finish();
        self.oracle.take_messages().iter().for_each(|failure| print(&format!("  FAILED {failure}\n")));
        let failed = self.oracle.failed();
        print(&format!(
            "{} receipts; failures: {failed} {:?}\n",
            self.oracle.totals.receipts, self.oracle.failures
        ));
        ensure!(failed == 0, "{failed} failures");
        ensure!(self.oracle.totals.receipts == 2 * options.runs as u64, "not each run was received once");
        Ok(())
    }
}

fn times(posts: &[Post]) -> anyhow::Result<String> {
    let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
    for post in posts {
        times.saturating_record(post.done - post.whole);
    }
    let at =
        |percent| f64::from(u32::try_from(times.value_at_percentile(percent)).unwrap_or(u32::MAX)) / 1000.0;
    Ok(format!("p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", at(50.0), at(99.0), at(100.0)))
}

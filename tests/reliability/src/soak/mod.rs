//! Owns the soak test: a large fleet polls and aborts for long, while the broker's memory and responses are watched.

mod slope;

use pilotlight_bench::stdout::print;
use std::rc::Rc;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use hdrhistogram::Histogram;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::broker::{BrokerOptions, RestartableBroker};
use crate::fleet::{self, Action, FleetProcess, Instruction, ReportQueue, unix_micros};
use crate::oracle::{Oracle, Rules};
use crate::supervisors::{Outcome, Supervisors};
use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::scrape::Scrape;
use slope::fit;

/// Options of the soak test.
#[derive(Debug, Clone, Args)]
pub(crate) struct SoakOptions {
    #[arg(long = "for", default_value = "30m", value_parser = humantime::parse_duration)]
    length: Duration,
    /// Polls that are held at once
    #[arg(long, default_value_t = 15_000)]
    held: usize,
    /// Runs a second
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// The share of polls that their controller aborts
    #[arg(long, default_value = "5%", value_parser = share)]
    aborts: f64,
    /// The share of polls whose controller falls silent forever, and is replaced
    #[arg(long, default_value = "1%", value_parser = share)]
    silent: f64,
    #[arg(long, default_value_t = 100)]
    pools: usize,
    /// Processes that the controllers live in
    #[arg(long, default_value_t = 3)]
    fleets: u64,
    /// Samples before this time are not part of the fit [default: 15 minutes, or a third of the whole if that is less]
    #[arg(long, value_parser = humantime::parse_duration)]
    warm_up: Option<Duration>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Further arguments for the broker
    #[arg(last = true)]
    arguments: Vec<String>,
}

const SUPERVISORS: u32 = 64;
/// The poll timeout that /connect returns, in milliseconds: the broker's default.
const TIMEOUT: u64 = 50_000;
const RULES: Rules =
    Rules { budget: 2_000_000, margin: 1_500_000, timeout: TIMEOUT * 1000, is_cluster: false };
/// A run is judged this long after its POST, in microseconds.
const RIPE: u64 = 5_000_000;
/// Memory is stable then: the remembered runs after 3 minutes, the allocator's last pages after 13.
const WARM_UP: Duration = Duration::from_secs(900);

/// A share, as `5%` or `0.05`.
fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let share = number.parse::<f64>().map_err(|error| error.to_string())? / unit;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(format!("{text} is not between 0 and 1")) }
}

/// One sample of the broker's resources and latency.
#[derive(Debug, Clone, Copy)]
struct Sample {
    seconds: f64,
    resident: f64,
    files: u64,
    waiters: u64,
    /// The upper bound of the bucket, in milliseconds, over all dispatches since the broker's start.
    p99: f64,
}

struct Soak {
    supervisors: Rc<Supervisors>,
    reports: ReportQueue,
    broker: RestartableBroker,
    oracle: Oracle,
    /// From a POST's last byte to its response, in tenths of a millisecond; of the last minute, and of all.
    latencies: [Histogram<u64>; 2],
    samples: Vec<Sample>,
}

/// Runs the test; an error if a run was lost.
pub(crate) fn run(options: &SoakOptions) -> anyhow::Result<()> {
    let arguments = [&["--proof".to_owned(), "received".to_owned()], &*options.arguments].concat();
    let broker = RestartableBroker::start(BrokerOptions { files: None, timeout: TIMEOUT, arguments })?;
    let model = fleet::FleetOptions {
        brokers: vec![broker.address],
        serial: 0,
        count: options.held / usize::try_from(options.fleets)?,
        pools: options.pools,
        timeout: TIMEOUT,
        aborts: options.aborts,
        silent: options.silent,
        native: 0.0,
        transports: fleet::Transports::default(),
        seed: options.seed,
    };
    block_on_local(async {
        let histogram = || Histogram::new_with_bounds(1, 1_000_000, 3);
        let mut soak = Soak {
            supervisors: Supervisors::new(vec![broker.address], options.pools, 0.0, options.seed),
            reports: ReportQueue::default(),
            broker,
            oracle: Oracle::new(RULES),
            latencies: [histogram()?, histogram()?],
            samples: Vec::new(),
        };
        let mut fleets = (1..=options.fleets)
            .map(|serial| {
                let options = fleet::FleetOptions { serial, seed: options.seed + serial, ..model.clone() };
                FleetProcess::start(&options, &soak.reports)
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        soak.supervisors.start(SUPERVISORS, options.rate);
        let begun = Instant::now();
        soak.wait_until_held(options.held as u64).await;
        print(&format!("{} polls are held after {:.0} s\n", options.held, begun.elapsed().as_secs_f64()));
        soak.keep_loading(options.length).await?;
        for fleet in &mut fleets {
            fleet.instruct(Instruction { action: Action::Exit, count: 1, millis: 0 });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(fleets);
        soak.print_summary(options.warm_up.unwrap_or(WARM_UP.min(options.length / 3)))
    })
}

/// How long the fleet may take until its polls are held.
const HOLD_TIMEOUT: Duration = Duration::from_secs(60);

impl Soak {
    /// Waits until nearly all polls are held: some controllers are between two polls at any time.
    async fn wait_until_held(&mut self, held: u64) {
        let begun = Instant::now();
        while begun.elapsed() < HOLD_TIMEOUT {
            tokio::time::sleep(Duration::from_millis(250)).await;
            if self
                .broker
                .scrape()
                .await
                .is_ok_and(|scrape| scrape.count("pilotlight_waiters") >= held * 98 / 100)
            {
                return;
            }
        }
    }

    /// Keeps up the load for this long, with a sample each second and a line each minute.
    async fn keep_loading(&mut self, length: Duration) -> anyhow::Result<()> {
        self.supervisors.resume();
        let begun = Instant::now();
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut minutes = 0;
        while begun.elapsed() < length {
            seconds.tick().await;
            ensure!(self.broker.is_running(), "the broker exited by itself");
            if let Ok(scrape) = self.broker.scrape().await {
                self.samples.push(self.sample(begun, &scrape)?);
            }
            self.collect();
            self.oracle.settle(unix_micros() - RIPE);
            if begun.elapsed().as_secs() / 60 > minutes {
                minutes += 1;
                self.print_minute(minutes);
            }
        }
        self.supervisors.pause();
        // The last responses and reports have not arrived yet.
        tokio::time::sleep(Duration::from_secs(3)).await;
        self.collect();
        Ok(())
    }

    fn sample(&self, begun: Instant, scrape: &Scrape) -> anyhow::Result<Sample> {
        #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
        let resident = self.broker.resident()? as f64 / 1_048_576.0;
        Ok(Sample {
            seconds: begun.elapsed().as_secs_f64(),
            resident,
            files: scrape.count("process_open_fds"),
            waiters: scrape.count("pilotlight_waiters"),
            p99: scrape.quantile("pilotlight_dispatch_seconds", 0.99) * 1000.0,
        })
    }

    fn collect(&mut self) {
        for post in self.supervisors.posts.take() {
            if matches!(post.outcome, Outcome::Hit(..) | Outcome::Miss(_)) {
                for took in &mut self.latencies {
                    took.saturating_record((post.done - post.whole) / 100);
                }
            }
            self.oracle.record_post(post);
        }
        self.reports.take().into_iter().for_each(|heard| self.oracle.record_report(heard));
    }

    fn print_minute(&mut self, minutes: u64) {
        let Some(Sample { resident, files, waiters, p99, .. }) = self.samples.last().copied() else { return };
        let (tally, lost) = (&self.oracle.totals, self.oracle.failed());
        let misses: u64 = tally.misses.values().sum();
        print(&format!(
            "{minutes:>4} min  {resident:.2} MiB, {files} descriptors, {waiters} waiters; {} hits, {misses} misses, {lost} \
             lost; {}, p99 of all within {p99} ms\n",
            tally.hits,
            times(&self.latencies[0])
        ));
        self.latencies[0].reset();
        self.oracle.take_messages().iter().for_each(|failure| print(&format!("  FAILED {failure}\n")));
    }

    fn print_summary(&mut self, warm_up: Duration) -> anyhow::Result<()> {
        self.collect();
        self.oracle.finish();
        self.oracle.take_messages().iter().for_each(|failure| print(&format!("  FAILED {failure}\n")));
        let warm = self.samples.iter().filter(|sample| sample.seconds >= warm_up.as_secs_f64());
        let warm: Vec<(f64, f64)> = warm.map(|sample| (sample.seconds, sample.resident)).collect();
        let slope = match fit(&warm) {
            Some(slope) => format!(
                "resident memory changes by {:+.3} ± {:.3} MiB an hour (95 %, {} blocks of {:.0} s after {} s)",
                slope.per_hour,
                slope.bound,
                slope.blocks,
                slope.block,
                warm_up.as_secs()
            ),
            None => format!("too short for a slope: {} s after the first {}", warm.len(), warm_up.as_secs()),
        };
        let (tally, lost) = (&self.oracle.totals, self.oracle.failed());
        print(&format!(
            "{slope}\n{} hits, misses {:?}, {} receipts, {} duplicates explained, {} of runs answered false, {} \
             refused, {} without an answer; {}; {lost} lost {:?}\n",
            tally.hits,
            tally.misses,
            tally.receipts,
            tally.duplicates,
            tally.read_though_false,
            tally.refused,
            tally.unanswered,
            times(&self.latencies[1]),
            self.oracle.failures
        ));
        ensure!(lost == 0, "{lost} lost");
        Ok(())
    }
}

fn times(took: &Histogram<u64>) -> String {
    let at = |percent| f64::from(u32::try_from(took.value_at_percentile(percent)).unwrap_or(u32::MAX)) / 10.0;
    format!("p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms", at(50.0), at(99.0), at(99.9))
}

//! Owns `pilotlight top`: a broker's pools, rates and times, as a table that is drawn anew, or as one line each time.

mod figures;
mod metrics;
mod screen;
mod view;

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::ops_client::{OpsClient, OpsOptions};
use super::pool_list::{PoolFilter, PoolList};
use super::process;
use crate::config::Settings;
use figures::Figures;
use metrics::Metrics;
use screen::Screen;

/// Rates and times are those of the last so many intervals.
const WINDOW: usize = 5;

/// The arguments of `pilotlight top`.
#[derive(Debug, Clone, Args)]
pub(super) struct Options {
    #[command(flatten)]
    ops: OpsOptions,

    #[command(flatten)]
    filter: PoolFilter,

    /// The time between two looks, at least 100ms
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = interval)]
    interval: Duration,

    /// End after so many looks
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    count: Option<u64>,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if interval < Duration::from_millis(100) {
        return Err("must be at least 100ms".to_owned());
    }
    Ok(interval)
}

/// What was seen at one time.
struct Look {
    at: Instant,
    metrics: Metrics,
}

/// A broker that is watched.
struct Watch {
    client: OpsClient,
    target: String,
    /// The newest is last. All are of one process.
    looks: VecDeque<Look>,
    pools: PoolList,
}

pub(super) fn top(settings: &Settings, options: &Options) -> anyhow::Result<ExitCode> {
    let client = OpsClient::new(&options.ops, settings)?;
    let target = options.filter.target(false);
    let watch = Watch { client, target, looks: VecDeque::new(), pools: PoolList::default() };
    process::runtime()?.block_on(show(watch, options))
}

/// Shows until a signal or the last look. What the terminal showed before comes back at the end.
async fn show(mut watch: Watch, options: &Options) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut resized = signal(SignalKind::window_change())?;
    let mut interval = tokio::time::interval(options.interval);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A wrong address is an error before the screen is changed. Later the broker may be away for a while.
    watch.look().await?;
    interval.tick().await;
    let screen = std::io::stdout().is_terminal().then(Screen::open);
    let (mut failure, mut looks) = (None, 1);
    loop {
        match &screen {
            Some(screen) => screen.draw(|size| view::frame(&watch.shown(failure.as_deref()), size)),
            None => watch.print_line(failure.as_deref()),
        }
        if options.count.is_some_and(|count| looks >= count) {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = hangup.recv() => return Ok(ExitCode::SUCCESS),
            _ = resized.recv(), if screen.is_some() => {}
            failed = next(&mut interval, &mut watch) => {
                failure = failed;
                looks += 1;
            }
        }
    }
}

/// Looks again when it is time; returns why that failed.
async fn next(interval: &mut tokio::time::Interval, watch: &mut Watch) -> Option<String> {
    interval.tick().await;
    watch.look().await.err().map(|error| format!("{error:#}"))
}

impl Watch {
    async fn look(&mut self) -> anyhow::Result<()> {
        let pools = self.client.get(&self.target).await?;
        let wrong = || format!("{} has answered something else than its pools", self.client.url());
        let pools = serde_json::from_slice(&pools).with_context(wrong)?;
        let metrics = Metrics::parse(&String::from_utf8_lossy(&self.client.get("/metrics").await?));
        let started = metrics.value("process_start_time_seconds");
        let is_other =
            |last: &Look| last.metrics.value("process_start_time_seconds").total_cmp(&started).is_ne();
        if self.looks.back().is_some_and(is_other) {
            self.looks.clear();
        }
        self.looks.push_back(Look { at: Instant::now(), metrics });
        if self.looks.len() > WINDOW + 1 {
            self.looks.pop_front();
        }
        self.pools = pools;
        Ok(())
    }

    fn figures(&self) -> Figures {
        match (self.looks.front(), self.looks.back()) {
            (Some(first), Some(last)) => {
                Figures::between(&first.metrics, &last.metrics, last.at.duration_since(first.at))
            }
            _ => Figures::default(),
        }
    }

    fn shown<'a>(&'a self, failure: Option<&'a str>) -> view::Shown<'a> {
        view::Shown {
            url: self.client.url(),
            figures: self.figures(),
            pools: &self.pools.pools,
            failure,
            now: SystemTime::now(),
        }
    }

    fn print_line(&self, failure: Option<&str>) {
        match failure {
            Some(failure) => process::note(failure),
            None => {
                process::print(&(view::line(&self.shown(None)) + "\n"));
            }
        }
    }
}

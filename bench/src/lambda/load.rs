//! Owns the closed loop: callers that invoke, wait for the answer, and invoke again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use pilotlight_bench::runtime::block_on_local;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::caller::{Caller, Outcome, Target};
use super::figures::LoadFigures;
use super::parts::Parts;
use super::subject::{CALLERS, StartedSubject};
use crate::latencies::Latencies;
use crate::usage::cpu;

/// The loads: their description, and the number of callers.
pub(crate) const LOADS: [(&str, u8); 2] = [("1 caller", 1), ("8 callers", CALLERS)];

const WARM_UP: Duration = Duration::from_secs(1);
/// A caller that was throttled invokes again after this time.
const RETRY_AFTER: Duration = Duration::from_millis(2);

/// What callers share.
struct Shared {
    latencies: RefCell<Latencies>,
    throttled: Cell<u32>,
    is_over: Cell<bool>,
    /// Each invocation takes one while it is under way.
    turns: Semaphore,
}

/// Puts callers on a server, and measures them for a while.
pub(super) fn measure(started: &StartedSubject, callers: u8, seconds: f64) -> anyhow::Result<LoadFigures> {
    let shared = Rc::new(Shared {
        latencies: RefCell::new(Latencies::new()?),
        throttled: Cell::new(0),
        is_over: Cell::new(false),
        turns: Semaphore::new(if started.takes_turns { 1 } else { usize::from(callers) }),
    });
    block_on_local(async {
        let mut tasks = JoinSet::new();
        for number in 0..callers {
            tasks.spawn_local(keep_calling(started.target, number, shared.clone()));
        }
        let figures = tokio::select! {
            figures = measure_for(started, &shared, seconds) => figures?,
            ended = tasks.join_next() => {
                ended.context("no caller")???;
                bail!("a caller has left");
            }
        };
        shared.is_over.set(true);
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(figures)
    })
}

async fn keep_calling(target: Target, number: u8, shared: Rc<Shared>) -> anyhow::Result<()> {
    let mut caller = Caller::connect(target, number).await?;
    while !shared.is_over.get() {
        let begun = Instant::now();
        let turn = shared.turns.acquire().await?;
        while caller.invoke(None).await? == Outcome::Throttled {
            shared.throttled.set(shared.throttled.get() + 1);
            sleep(RETRY_AFTER).await;
        }
        drop(turn);
        shared.latencies.borrow_mut().record(begun.elapsed());
    }
    Ok(())
}

async fn measure_for(started: &StartedSubject, shared: &Shared, seconds: f64) -> anyhow::Result<LoadFigures> {
    sleep(WARM_UP).await;
    shared.latencies.replace(Latencies::new()?);
    shared.throttled.set(0);
    let (begun, used, own) = (Instant::now(), started.cpu()?, cpu(std::process::id())?);
    sleep(Duration::from_secs_f64(seconds)).await;
    let seconds = begun.elapsed().as_secs_f64();
    let spent = started.cpu()?.combine(used, |now, before| now - before);
    let own = cpu(std::process::id())?.saturating_sub(own).as_secs_f64();
    let latencies = shared.latencies.borrow();
    let answered = latencies.count();
    Ok(LoadFigures {
        rate: answered / seconds,
        p50: latencies.percentile(50.0),
        p99: latencies.percentile(99.0),
        per_cpu_second: answered / spent.sum(),
        cpu: spent.combine(Parts::default(), |spent, _| spent * 1e6 / answered),
        load: own / seconds,
        throttled: shared.throttled.get(),
    })
}

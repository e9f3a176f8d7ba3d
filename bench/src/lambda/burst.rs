//! Owns invocations that come at the same time, and sleep before they answer.

use std::rc::Rc;
use std::time::{Duration, Instant};

use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::stdout::print;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::caller::{Caller, Outcome};
use super::subject::{CALLERS, StartedSubject};
use crate::load::median;

/// How long each sleeps, in milliseconds.
pub(crate) const SLEEP: u32 = 100;

const BURSTS: usize = 3;

/// What a server makes of invocations that come at the same time, if nobody makes them take turns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unqueued {
    pub(crate) answered: usize,
    /// The server's process has ended.
    pub(crate) has_ended: bool,
}

/// Milliseconds until all of them were answered, the median of some bursts.
pub(super) fn measure(started: &StartedSubject) -> anyhow::Result<f64> {
    let bursts = (0..BURSTS).map(|_| block_on_local(burst(started))).collect::<anyhow::Result<Vec<f64>>>()?;
    Ok(median(bursts))
}

async fn burst(started: &StartedSubject) -> anyhow::Result<f64> {
    let turns = Rc::new(Semaphore::new(if started.takes_turns { 1 } else { usize::from(CALLERS) }));
    let mut callers = Vec::new();
    for number in 0..CALLERS {
        callers.push(Caller::connect(started.target, number).await?);
    }
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for mut caller in callers {
        let turns = turns.clone();
        tasks.spawn_local(async move {
            let _turn = turns.acquire().await?;
            while caller.invoke(Some(SLEEP)).await? == Outcome::Throttled {}
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// A server that ends does so within this time.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// Lets all callers invoke at the same time a server that they should take turns before.
pub(super) fn unqueued(started: &mut StartedSubject) -> anyhow::Result<Unqueued> {
    let answered = block_on_local(async {
        let mut tasks = JoinSet::new();
        for number in 0..CALLERS {
            let mut caller = Caller::connect(started.target, number).await?;
            tasks.spawn_local(async move { caller.invoke(Some(SLEEP)).await });
        }
        let mut answered = 0;
        while let Some(ended) = tasks.join_next().await {
            answered += usize::from(matches!(ended?, Ok(Outcome::Answered)));
        }
        sleep(ENDS_WITHIN).await;
        Ok(answered)
    })?;
    let unqueued = Unqueued { answered, has_ended: started.has_ended()? };
    print(&format!("  {CALLERS} at once without taking turns: {unqueued:?}\n"));
    Ok(unqueued)
}

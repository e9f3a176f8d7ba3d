//! Owns the phases of the load: a few callers, then more and more until they leave again, then all of them.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use pilotlight_bench::runtime::block_on_local;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::ask::{Answer, Ask};
use super::caller::Caller;
use super::figures::{PhaseFigures, Tally, Window};
use super::origin::OriginProcess;
use super::scope::{FEW, MANY, MORE, StreamScope};
use super::subject::{Subject, Target};
use crate::load::settling_time;

/// The names of the phases, in order.
pub(crate) const PHASES: [&str; 3] = ["10 callers", "10 → 100 → 200 → 0 callers", "200 callers"];

/// The place of the last one.
pub(crate) const ALL_CALLERS: usize = 2;

/// The load runs for so long before a phase with a fixed number of callers is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// How often the number of callers is changed while they become more or fewer.
const STEP: Duration = Duration::from_millis(2);
/// Requests of one caller are numbered below this.
const ROUNDS: u32 = 100_000;

/// Starts a server, and puts every phase on it.
pub(super) fn measure(subject: &Subject, scope: &StreamScope) -> anyhow::Result<Vec<PhaseFigures>> {
    let started = subject.start()?;
    let origin = OriginProcess::start(started.origin, scope.workers)?;
    let processes = [started.server.pid(), origin.pid(), std::process::id()];
    block_on_local(async {
        sleep(settling_time(scope.workers)).await;
        let tally = Rc::new(RefCell::new(Tally::new()?));
        let (wanted, receiver) = watch::channel(0);
        let mut callers = JoinSet::new();
        for number in 0..MANY {
            let (target, receiver, tally) = (started.target, receiver.clone(), tally.clone());
            let answer = Answer::Tokens { count: scope.tokens, delay: scope.delay(), hold: Duration::ZERO };
            callers.spawn_local(keep_calling(number, target, answer, receiver, tally));
        }
        let figures = tokio::select! {
            figures = run_phases(&wanted, &tally, processes, scope) => figures?,
            ended = callers.join_next() => {
                ended.context("no caller")???;
                bail!("a caller has left");
            }
        };
        // Those that are in the middle of an answer read it whole.
        drop(wanted);
        while let Some(ended) = callers.join_next().await {
            ended??;
        }
        Ok(figures)
    })
}

/// Calls whenever more callers than this one's number are wanted, until nobody wants any.
async fn keep_calling(
    number: usize,
    target: Target,
    answer: Answer,
    mut wanted: watch::Receiver<usize>,
    tally: Rc<RefCell<Tally>>,
) -> anyhow::Result<()> {
    let mut caller = None;
    for round in 0.. {
        if wanted.wait_for(|&wanted| wanted > number).await.is_err() {
            break;
        }
        let caller = match &mut caller {
            Some(caller) => caller,
            none => none.insert(Caller::connect(target).await?),
        };
        let request = u32::try_from(number)? * ROUNDS + round;
        let begun = Instant::now();
        let ask = Ask { request, answer: answer.clone() };
        caller.call(&ask, |age| tally.borrow_mut().token(age)).await?;
        tally.borrow_mut().answer(begun.elapsed());
    }
    Ok(())
}

async fn run_phases(
    wanted: &watch::Sender<usize>,
    tally: &RefCell<Tally>,
    processes: [u32; 3],
    scope: &StreamScope,
) -> anyhow::Result<Vec<PhaseFigures>> {
    let third = Duration::from_secs_f64(scope.ramp / 3.0);
    // Callers that began at the same moment would get their tokens at the same moments for ever.
    let one_answer = scope.delay() * scope.tokens;
    let mut figures = Vec::new();

    change(wanted, 0, FEW, one_answer).await;
    sleep(WARM_UP).await;
    let window = Window::begin(tally, processes)?;
    sleep(Duration::from_secs_f64(scope.few)).await;
    figures.push(window.end(tally)?);

    let window = Window::begin(tally, processes)?;
    change(wanted, FEW, MORE, third).await;
    change(wanted, MORE, MANY, third).await;
    change(wanted, MANY, 0, third).await;
    figures.push(window.end(tally)?);

    sleep(one_answer).await;
    change(wanted, 0, MANY, one_answer).await;
    sleep(WARM_UP).await;
    let window = Window::begin(tally, processes)?;
    sleep(Duration::from_secs_f64(scope.all)).await;
    figures.push(window.end(tally)?);
    wanted.send_replace(0);
    Ok(figures)
}

/// Changes the number of callers evenly.
async fn change(wanted: &watch::Sender<usize>, from: usize, to: usize, during: Duration) {
    let begun = Instant::now();
    let mut next = begun;
    while next < begun + during {
        next += STEP;
        sleep_until(next).await;
        wanted.send_replace(between(from, to, begun.elapsed().as_secs_f64() / during.as_secs_f64()));
    }
    wanted.send_replace(to);
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a few hundred"
)]
fn between(from: usize, to: usize, share: f64) -> usize {
    let (from, to) = (from as f64, to as f64);
    (from + (to - from) * share.min(1.0)).round() as usize
}

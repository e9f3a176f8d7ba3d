//! Owns one slot: a program that is ready, a poll while it is, and the run that the poll brings.

use std::time::Duration;

use hyper::header::HeaderValue;
use tokio::time::{Instant, sleep, timeout};

use super::back_off::BackOff;
use super::kept::{Served, run_line};
use super::one_shot;
use super::program::Program;
use super::run_end::{RunEnd, fail};
use super::starter::{Ready, Starter};
use super::stop::Stop;
use super::wire::{Poller, Reply, Run};

/// When a poll is withdrawn, the time for a run that is here already to be noticed.
const LAST_LOOK: Duration = Duration::from_millis(2);
/// How long a run waits for the next program if its own has ended just before.
const NEXT_TIMEOUT: Duration = Duration::from_secs(30);

/// A program that has waited longer is not one that ends at once.
const LONG_WAIT: Duration = Duration::from_secs(10);

/// How runs are run.
#[derive(Debug, Clone)]
pub(super) struct RunOptions {
    pub(super) is_kept: bool,
    pub(super) is_buffered: bool,
    pub(super) timeout: Option<Duration>,
    pub(super) content_type: HeaderValue,
}

/// One slot of a worker.
pub(super) struct Slot {
    pub(super) number: usize,
    pub(super) starter: Starter,
    pub(super) options: RunOptions,
    pub(super) poller: Poller,
    pub(super) stop: Stop,
    /// Between two programs of which the first one ended without a run.
    pub(super) restarts: BackOff,
}

/// What ends the wait of a program.
enum Waited {
    Run(Box<Run>),
    /// The program cannot serve a run.
    Unusable,
    Stopped,
}

impl Slot {
    /// Serves runs until the worker is asked to stop.
    pub(super) async fn serve(mut self) {
        let mut next = None;
        loop {
            let ready = match next.take() {
                Some(ready) => ready,
                None => match self.start().await {
                    Some(ready) => ready,
                    None => return,
                },
            };
            next = self.wait_and_run(ready).await;
            if self.stop.is_requested() {
                if let Some(Ready { program, .. }) = next {
                    program.terminate().await;
                }
                return;
            }
        }
    }

    /// Starts programs until one is ready. None if the worker is to stop.
    async fn start(&mut self) -> Option<Ready> {
        while !self.stop.is_requested() {
            let ended = tokio::select! {
                biased;
                () = self.stop.requested() => return None,
                started = self.starter.start() => match started {
                    Ok(ready) => return Some(ready),
                    Err(why) => why,
                },
            };
            tracing::warn!(slot = self.number, "{ended} before it was ready; it is started again");
            self.pause().await;
        }
        None
    }

    /// Polls while the program is ready. Returns the program for the next run, if there is one already.
    async fn wait_and_run(&mut self, mut ready: Ready) -> Option<Ready> {
        let begun = Instant::now();
        let waited = self.wait(&mut ready).await;
        if begun.elapsed() > LONG_WAIT {
            self.restarts.reset();
        }
        let mut run = match waited {
            Waited::Run(run) => run,
            Waited::Stopped => return Some(ready),
            Waited::Unusable => {
                let why = ready.end().await;
                ready.program.last_lines().await;
                tracing::warn!(slot = self.number, "{why} before a run; it is started again");
                self.pause().await;
                return None;
            }
        };
        let reply = Reply::open(run.reply.take(), &self.options.content_type, self.number).await;
        if ready.is_usable() {
            return self.run(ready, *run, reply).await;
        }
        let why = ready.end().await;
        tracing::warn!(slot = self.number, "{why} just before a run, which the next one gets");
        // Nobody has read the run yet, so the next program can have it.
        if let Some(next) = timeout(NEXT_TIMEOUT, self.start()).await.ok().flatten() {
            return self.run(next, *run, reply).await;
        }
        fail(reply, &format!("{why} before the run"), &mut ready.program).await;
        None
    }

    async fn wait(&mut self, ready: &mut Ready) -> Waited {
        if !ready.is_usable() {
            return Waited::Unusable;
        }
        let poll = self.poller.next_run();
        tokio::pin!(poll);
        let waited = tokio::select! {
            biased;
            run = &mut poll => return Waited::Run(Box::new(run)),
            () = ready.unusable() => Waited::Unusable,
            () = self.stop.requested() => Waited::Stopped,
        };
        // A run that was received, and is only not handed over yet, would be lost with the poll.
        timeout(LAST_LOOK, poll).await.map_or(waited, |run| Waited::Run(Box::new(run)))
    }

    /// Runs a run. The next program is started as soon as this one has ended, while the reply is still on its way.
    async fn run(&mut self, mut ready: Ready, run: Run, mut reply: Reply) -> Option<Ready> {
        let Run { id, content_type, payload, .. } = run;
        tracing::debug!(slot = self.number, run = id, "run begins");
        let RunOptions { is_kept, is_buffered, timeout, .. } = self.options;
        let Ready { program, conversation } = &mut ready;
        let Served { end, is_alive } = if let Some(conversation) = conversation {
            let line = run_line(&id, &content_type, reply.is_awaited(), &payload);
            conversation.execute(program, line, &mut reply, is_buffered, timeout).await
        } else {
            let end = one_shot::execute(program, payload, &mut reply, is_buffered, timeout).await;
            Served { end, is_alive: false }
        };
        self.log(&id, &end);
        let is_done = matches!(end, RunEnd::Done);
        if is_done {
            self.restarts.reset();
        }
        if is_alive {
            self.settle(reply, end, None).await;
            return Some(ready);
        }
        self.settle_and_start(reply, end, ready.program, is_kept && !is_done).await
    }

    /// Ends the reply, and starts the next program meanwhile; after a pause, if the program should not have ended.
    async fn settle_and_start(
        &mut self,
        reply: Reply,
        end: RunEnd,
        mut ended: Program,
        is_paused: bool,
    ) -> Option<Ready> {
        let (starter, mut stop) = (self.starter.clone(), self.stop.clone());
        let pause = if is_paused { self.restarts.pause() } else { Duration::ZERO };
        let start = async {
            sleep(pause).await;
            starter.start().await.ok()
        };
        let start = async {
            tokio::select! {
                biased;
                () = stop.requested() => None,
                started = start => started,
            }
        };
        tokio::join!(self.settle(reply, end, Some(&mut ended)), start).1
    }

    /// Ends the reply, and keeps its connection for the next poll.
    async fn settle(&mut self, reply: Reply, end: RunEnd, ended: Option<&mut Program>) {
        match (end, ended) {
            (RunEnd::Done, ended) => {
                let last_lines = async {
                    if let Some(program) = ended {
                        program.last_lines().await;
                    }
                };
                if let (Some(connection), ()) = tokio::join!(reply.finish(), last_lines) {
                    self.poller.keep(connection);
                }
            }
            (RunEnd::Failed(reason), Some(program)) => fail(reply, &reason, program).await,
            (RunEnd::Failed(reason), None) => reply.fail(reason).await,
            (RunEnd::Cancelled, _) => {}
        }
    }

    /// Between two programs of which the first one was of no use. It ends early if the worker is to stop.
    async fn pause(&mut self) {
        tokio::select! {
            biased;
            () = self.stop.requested() => {}
            () = sleep(self.restarts.pause()) => {}
        }
    }

    fn log(&self, run: &str, end: &RunEnd) {
        let slot = self.number;
        match end {
            RunEnd::Done => tracing::debug!(slot, run, "run ends"),
            // A program's own reason may quote the payload.
            RunEnd::Failed(_) => tracing::warn!(slot, run, "run failed"),
            RunEnd::Cancelled => tracing::info!(slot, run, "run cancelled: its caller has left"),
        }
    }
}

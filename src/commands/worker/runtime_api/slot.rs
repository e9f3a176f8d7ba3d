//! Owns one slot: one program after the other, each with the API on a port of its own, and the lanes for its events.

use std::convert::Infallible;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::pending;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::concurrency::Concurrency;
use super::lane::{Lane, LaneOptions};
use super::next_calls::NextCalls;
use super::process::RuntimeProcess;
use super::routes::Api;
use super::server::{Connections, Server};
use crate::commands::worker::back_off::BackOff;
use crate::commands::worker::program::{CommandSpec, Program, RunLog};
use crate::commands::worker::run_end::describe;
use crate::commands::worker::wire::Poller;

/// After a program's end, the time for what it has sent to be read.
const REST_TIMEOUT: Duration = Duration::from_millis(200);
/// How long a program that has said that it cannot begin may take to end.
const INIT_ERROR_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two programs of a worker that is to stop, and still has a run.
const SHORT_PAUSE: Duration = Duration::from_millis(100);
/// A program that has not asked for an event after this time may never do so, which is logged once.
const LONG_START: Duration = Duration::from_secs(30);

/// One slot of a worker.
pub(in crate::commands::worker) struct RuntimeSlot {
    command: CommandSpec,
    options: LaneOptions,
    calls: Arc<NextCalls>,
    log: RunLog,
    lanes: JoinSet<()>,
    back_off: BackOff,
    /// How many programs have ended that were to go on.
    restarts: u64,
}

/// Why a program does not go on.
enum End {
    /// By itself.
    Ended(ExitStatus),
    /// It did not answer in time.
    Condemned,
    /// It has said that it cannot begin, for this reason.
    InitError(Arc<str>),
    /// The worker is to stop, and every run is finished.
    Stopped,
}

impl RuntimeSlot {
    /// A slot that takes as many events at a time as there are pollers.
    pub(in crate::commands::worker) fn new(
        mut command: CommandSpec,
        concurrency: Concurrency,
        controller: &str,
        pollers: Vec<Poller>,
        options: LaneOptions,
    ) -> Self {
        options.function.apply(&mut command, controller);
        concurrency.apply(&mut command);
        let (calls, log) = (Arc::<NextCalls>::default(), RunLog::new(options.has_many));
        let mut lanes = JoinSet::new();
        for poller in pollers {
            let (options, calls, log) = (options.clone(), calls.clone(), log.clone());
            lanes.spawn(Lane { options, poller, calls, log, settling: JoinSet::new() }.serve());
        }
        Self { command, options, calls, log, lanes, back_off: BackOff::new(), restarts: 0 }
    }

    /// Serves runs until the worker is asked to stop.
    pub(in crate::commands::worker) async fn serve(mut self) {
        while !self.lanes.is_empty() {
            if let Err(error) = self.run_program().await {
                tracing::warn!(slot = self.options.slot, "the program cannot be started: {error:#}");
                self.pause().await;
            }
        }
    }

    /// Runs one program to its end. What it left undone is told.
    async fn run_program(&mut self) -> anyhow::Result<()> {
        let server = Server::bind().await?;
        let mut command = self.command.clone();
        command.set_variable("AWS_LAMBDA_RUNTIME_API", Some(server.address.to_string().into()));
        let mut program = Program::start_without_input(&command, self.options.slot, &self.log)?;
        let process = RuntimeProcess::new(program.liveness());
        let api = Api {
            process: process.clone(),
            calls: self.calls.clone(),
            function: self.options.function.clone(),
        };
        let mut connections = server.serve(api);
        let end = tokio::select! {
            biased;
            end = self.end(&mut program, &process) => end,
            never = connections.run() => match never {},
        };
        // No run comes any more for this one.
        process.condemn();
        let status = match &end {
            End::Ended(status) => *status,
            End::Condemned => program.kill().await,
            End::InitError(_) => {
                let ended = timeout(INIT_ERROR_TIMEOUT, serve_until(&mut connections, program.ended())).await;
                match ended {
                    Ok(status) => status,
                    Err(_) => program.kill().await,
                }
            }
            End::Stopped => {
                serve_until(&mut connections, program.terminate()).await;
                return Ok(());
            }
        };
        let has_open_events = process.has_open_events();
        if has_open_events {
            let _ = timeout(REST_TIMEOUT, connections.drain()).await;
        }
        program.last_lines().await;
        match &end {
            End::InitError(reason) => process.note_end(&format!("with error: {reason}")),
            End::Ended(_) | End::Condemned | End::Stopped => process.note_end(&exited(status)),
        }
        drop(connections);
        self.tell(&end, has_open_events);
        if process.has_served() {
            self.back_off.reset();
        } else {
            self.pause().await;
        }
        Ok(())
    }

    /// Waits until the program does not go on.
    async fn end(&mut self, program: &mut Program, process: &RuntimeProcess) -> End {
        let (lanes, slot) = (&mut self.lanes, self.options.slot);
        let stopped = async {
            while let Some(lane) = lanes.join_next().await {
                if let Err(error) = lane {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        };
        let slow = async {
            if timeout(LONG_START, process.asked()).await.is_err() {
                tracing::warn!(
                    slot,
                    "the program has not asked for an event within {}, so it gets no run",
                    humantime::format_duration(LONG_START)
                );
            }
            pending::<Infallible>().await
        };
        tokio::select! {
            biased;
            status = program.ended() => match timeout(Duration::ZERO, process.init_error()).await {
                Ok(reason) => End::InitError(reason),
                Err(_) => End::Ended(status),
            },
            () = stopped => End::Stopped,
            () = process.condemned() => End::Condemned,
            reason = process.init_error() => End::InitError(reason),
            never = slow => match never {},
        }
    }

    fn tell(&mut self, end: &End, has_open_events: bool) {
        self.restarts += 1;
        let (slot, restarts) = (self.options.slot, self.restarts);
        match end {
            End::Ended(status) => {
                let when = if has_open_events { "with an event open" } else { "without an event" };
                tracing::warn!(slot, restarts, "{} {when}; it is started again", describe(*status));
            }
            End::Condemned => {
                tracing::warn!(
                    slot,
                    restarts,
                    "the program was killed: it did not answer in time (--timeout); it is started again"
                );
            }
            End::InitError(reason) => {
                tracing::warn!(slot, restarts, "the program cannot begin, it is started again: {reason}");
            }
            End::Stopped => {}
        }
    }

    /// Between two programs of which the first one was of no use. It ends early if the worker is to stop.
    async fn pause(&mut self) {
        let mut stop = self.options.stop.clone();
        tokio::select! {
            biased;
            // Lanes may still have a run for the next program, so the pause is only cut short.
            () = stop.requested() => sleep(SHORT_PAUSE).await,
            () = sleep(self.back_off.pause()) => {}
        }
    }
}

/// Awaits something while connections are served.
async fn serve_until<T>(connections: &mut Connections, until: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        reached = until => reached,
        never = connections.run() => match never {},
    }
}

/// How a program ended, as AWS says it.
fn exited(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "without providing a reason".to_owned(),
        (Some(code), _) => format!("with error: exit status {code}"),
        (None, Some(signal)) => format!("with error: signal {signal}"),
        (None, None) => "with error".to_owned(),
    }
}

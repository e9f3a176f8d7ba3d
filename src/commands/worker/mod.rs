//! Owns `pilotlight worker`: any program becomes a warm worker of a pool.
//!
//! `wire` waits at the broker and sends replies, `program` runs programs, and a slot connects the two.

mod back_off;
mod kept;
mod limit;
mod one_shot;
mod options;
mod program;
mod run_end;
mod runtime_api;
mod slot;
mod starter;
mod stop;
mod wire;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use super::process;
use back_off::BackOff;
pub(super) use options::Options;
use program::CommandSpec;
pub(super) use program::{EXEC, exec};
use runtime_api::{Concurrency, Function, LaneOptions, RuntimeSlot};
use slot::{RunOptions, Slot};
use starter::Starter;
use stop::Stop;
use wire::{PollOptions, Poller};

/// The exit code of a process that a signal ends is this and the signal's number.
const SIGNALLED: u8 = 128;

/// How long an event of a function may take, if nothing else is said: as long as in AWS at most.
const FUNCTION_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Runs until a signal comes. Returns 0 if every run was finished.
pub(super) fn worker(options: &Options) -> anyhow::Result<ExitCode> {
    let spec = match CommandSpec::new(&options.command, options.pool.text.clone()) {
        Ok(spec) => spec,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "pilotlight: {error}");
            return Ok(ExitCode::from(error.exit_code()));
        }
    };
    process::runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (sender, stop) = Stop::new();
        // Dropping the set drops the programs, which kills them.
        let mut slots = JoinSet::new();
        let name = controller();
        let function = options.runtime_api.then(|| RuntimeFunction::new(options, &spec));
        for number in 1..=usize::from(options.slots) {
            match &function {
                None => slots.spawn(slot(options, &spec, &stop, &name, number)?.serve()),
                Some(function) => slots.spawn(function.slot(options, &spec, &stop, &name, number)?.serve()),
            };
        }
        tracing::info!(
            slots = options.slots,
            "waits at {} for runs of {}",
            options.broker,
            options.pool.text
        );
        let is_failed = tokio::select! {
            _ = either(&mut terminate, &mut interrupt) => false,
            is_failed = join(&mut slots) => is_failed,
        };
        tracing::info!("no run is taken any more; those under way are finished");
        let _ = sender.send(true);
        tokio::select! {
            biased;
            has_panicked = join(&mut slots) => {
                Ok(if is_failed || has_panicked { ExitCode::FAILURE } else { ExitCode::SUCCESS })
            }
            kind = either(&mut terminate, &mut interrupt) => {
                tracing::warn!("a second signal: programs are killed");
                slots.shutdown().await;
                let signal = u8::try_from(kind.as_raw_value()).unwrap_or_default();
                Ok(ExitCode::from(SIGNALLED + signal))
            }
        }
    })
}

fn slot(
    options: &Options,
    spec: &CommandSpec,
    stop: &Stop,
    name: &str,
    number: usize,
) -> anyhow::Result<Slot> {
    Ok(Slot {
        number,
        starter: Starter {
            spec: spec.clone(),
            is_kept: options.keep,
            ready_after: options.ready_after,
            slot: number,
        },
        options: RunOptions {
            is_kept: options.keep,
            is_buffered: options.buffer,
            timeout: options.timeout,
            content_type: options.content_type.clone(),
        },
        poller: Poller::new(poll_options(options), format!("{name}-{number}"), number)?,
        stop: stop.clone(),
        restarts: BackOff::new(),
    })
}

fn poll_options(options: &Options) -> PollOptions {
    PollOptions {
        broker: options.broker.clone(),
        client: options.client.clone(),
        path: options.pool.path.clone(),
        metadata: options.metadata.clone(),
    }
}

/// What the slots of a function have in common.
struct RuntimeFunction {
    function: Arc<Function>,
    concurrency: Concurrency,
}

impl RuntimeFunction {
    fn new(options: &Options, spec: &CommandSpec) -> Self {
        let pool = &options.pool;
        let function = Arc::new(Function::new(&pool.deployment, &pool.version, &pool.memory));
        Self { function, concurrency: Concurrency::of(spec) }
    }

    fn slot(
        &self,
        options: &Options,
        spec: &CommandSpec,
        stop: &Stop,
        name: &str,
        number: usize,
    ) -> anyhow::Result<RuntimeSlot> {
        let name = format!("{name}-{number}");
        let lanes = self.concurrency.lanes;
        let controllers =
            (1..=lanes).map(|lane| if lanes == 1 { name.clone() } else { format!("{name}-{lane}") });
        let pollers = controllers.map(|controller| Poller::new(poll_options(options), controller, number));
        let lane_options = LaneOptions {
            slot: number,
            function: self.function.clone(),
            timeout: options.timeout.unwrap_or(FUNCTION_TIMEOUT),
            stop: stop.clone(),
            has_many: lanes > 1,
        };
        let pollers = pollers.collect::<Result<_, _>>()?;
        Ok(RuntimeSlot::new(spec.clone(), self.concurrency, &name, pollers, lane_options))
    }
}

/// A name that no other worker has: of this machine and this process. Containers on one machine may have its name, and each
/// a process 1, so that it ends with four random digits.
fn controller() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let name: String = name.chars().filter(is_plain).collect();
    format!("{name}-{}-{:04x}", std::process::id(), fastrand::u16(..))
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> SignalKind {
    tokio::select! {
        _ = terminate.recv() => SignalKind::terminate(),
        _ = interrupt.recv() => SignalKind::interrupt(),
    }
}

/// Waits for all slots. Returns whether one has failed.
async fn join(slots: &mut JoinSet<()>) -> bool {
    while let Some(ended) = slots.join_next().await {
        if ended.is_err() {
            return true;
        }
    }
    false
}

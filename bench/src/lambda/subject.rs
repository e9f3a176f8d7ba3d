//! Owns the servers that run functions: pilotlight with a worker, AWS's emulator, and plain HTTP servers.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use pilotlight_bench::implementation::Implementation;
use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::server::{Server, free_addresses};
use tokio::time::sleep;

use super::caller::{Caller, Outcome, Target};
use super::language::{Language, set_handler};
use super::parts::Parts;
use super::process::ProcessTree;
use crate::load::waiters;
use crate::usage::{cpu, private_dirty};

/// A server that is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject {
    /// Its name in the report.
    pub(crate) name: &'static str,
    pub(crate) language: Language,
    pub(crate) kind: ServerKind,
}

/// What runs functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerKind {
    /// As many processes as callers.
    Plain,
    /// One function.
    Emulator,
    /// As many slots as callers.
    Pilotlight,
}

/// All of them, by language, pilotlight last.
pub(crate) const SUBJECTS: [Subject; 6] = [
    Subject { name: "node:http", language: Language::Node, kind: ServerKind::Plain },
    Subject { name: "RIE (Node)", language: Language::Node, kind: ServerKind::Emulator },
    Subject { name: "pilotlight (Node)", language: Language::Node, kind: ServerKind::Pilotlight },
    Subject { name: "http.server", language: Language::Python, kind: ServerKind::Plain },
    Subject { name: "RIE (Python)", language: Language::Python, kind: ServerKind::Emulator },
    Subject { name: "pilotlight (Python)", language: Language::Python, kind: ServerKind::Pilotlight },
];

/// The most callers, and the number of functions or processes that serve them.
pub(crate) const CALLERS: u8 = 8;

/// The function's name; the emulator knows no other than the second.
const FUNCTION: &str = "hello";
const EMULATED_FUNCTION: &str = "function";

/// A server that has started.
pub(super) struct StartedSubject {
    pub(super) target: Target,
    /// Invocations that come at the same time would end it, so callers take turns before it.
    pub(super) takes_turns: bool,
    kind: ServerKind,
    /// Ends before the broker.
    process: ProcessTree,
    broker: Option<Server>,
}

impl Subject {
    pub(super) fn takes_turns(&self) -> bool {
        self.kind == ServerKind::Emulator
    }

    /// Whether it can be started here.
    pub(super) fn is_possible(&self, clients: &Path, emulator: Option<&Path>) -> bool {
        self.language.missing(clients).is_none() && (emulator.is_some() || !self.takes_turns())
    }

    /// Starts it, and returns once it answers.
    pub(super) fn start(&self, clients: &Path, emulator: Option<&Path>) -> anyhow::Result<StartedSubject> {
        let [address] = free_addresses()?;
        let function = self.language.function(clients);
        let (mut command, broker, target) = match self.kind {
            ServerKind::Plain => {
                let mut command = self.language.plain_server(clients, CALLERS);
                command.env("PORT", address.port().to_string());
                (command, None, Target { address, function: FUNCTION })
            }
            ServerKind::Emulator => {
                let mut command = Command::new(emulator.context("no emulator")?);
                command.arg("--runtime-interface-emulator-address").arg(address.to_string()).args(function);
                command.stderr(Stdio::null());
                (command, None, Target { address, function: EMULATED_FUNCTION })
            }
            ServerKind::Pilotlight => {
                let implementation = Implementation::pilotlight("received")?;
                let broker = Server::start(&implementation)?;
                let mut command = Command::new(&implementation.program);
                let url = format!("http://{}", broker.address);
                let pool = format!("{FUNCTION}/$LATEST/0/0");
                command.args(["worker", "--broker", &url, "--pool", &pool, "--slots", &CALLERS.to_string()]);
                command.args(["--runtime-api", "--"]).args(function).env("RUST_LOG", "error");
                let target = Target { address: broker.address, function: FUNCTION };
                (command, Some(broker), target)
            }
        };
        set_handler(&mut command);
        let process = ProcessTree::start(&mut command)?;
        let kind = self.kind;
        let mut started = StartedSubject { target, takes_turns: self.takes_turns(), kind, process, broker };
        block_on_local(started.wait_until_ready())
            .with_context(|| format!("{} does not start", self.name))?;
        Ok(started)
    }
}

/// It answers within this time, and has settled after the second.
const START_TIME: Duration = Duration::from_secs(30);
const SETTLES: Duration = Duration::from_millis(300);

impl StartedSubject {
    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !self.is_ready().await {
            ensure!(!self.has_ended()?, "it has ended");
            ensure!(begun.elapsed() < START_TIME, "it is not ready after {START_TIME:?}");
            sleep(Duration::from_millis(20)).await;
        }
        sleep(SETTLES).await;
        Ok(())
    }

    async fn is_ready(&self) -> bool {
        if let Some(ops) = self.broker.as_ref().and_then(|broker| broker.ops) {
            return waiters(ops).await.is_ok_and(|waiters| waiters == u64::from(CALLERS));
        }
        let Ok(mut caller) = Caller::connect(self.target, CALLERS).await else { return false };
        matches!(caller.invoke(None).await, Ok(Outcome::Answered))
    }

    /// Whether the process that has the functions has ended.
    pub(super) fn has_ended(&mut self) -> anyhow::Result<bool> {
        self.process.has_ended()
    }

    /// CPU seconds so far.
    pub(super) fn cpu(&self) -> anyhow::Result<Parts> {
        self.by_part(|process| Ok(cpu(process)?.as_secs_f64()))
    }

    /// Bytes that only one process has.
    pub(super) fn memory(&self) -> anyhow::Result<Parts> {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        self.by_part(|process| Ok(private_dirty(process)? as f64))
    }

    fn by_part(&self, of: impl Fn(u32) -> anyhow::Result<f64>) -> anyhow::Result<Parts> {
        let own = of(self.process.id())?;
        let mut parts = match self.kind {
            ServerKind::Plain => Parts { functions: own, ..Parts::default() },
            ServerKind::Emulator | ServerKind::Pilotlight => Parts { stand_in: own, ..Parts::default() },
        };
        if let Some(broker) = &self.broker {
            parts.broker = of(broker.pid())?;
        }
        for process in self.process.descendants()? {
            parts.functions += of(process)?;
        }
        Ok(parts)
    }
}

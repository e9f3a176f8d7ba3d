//! Owns the start of a slot's programs.

use std::time::Duration;

use super::kept::Conversation;
use super::program::{CommandSpec, Program};
use super::run_end::describe;

/// Starts one program after the other.
#[derive(Debug, Clone)]
pub(super) struct Starter {
    pub(super) spec: CommandSpec,
    pub(super) is_kept: bool,
    pub(super) ready_after: Option<Duration>,
    pub(super) slot: usize,
}

/// A program that is ready for a run.
pub(super) struct Ready {
    pub(super) program: Program,
    /// With `--keep`.
    pub(super) conversation: Option<Conversation>,
}

impl Starter {
    /// Starts a program, and waits until it is ready. The error says how it ended.
    pub(super) async fn start(&self) -> Result<Ready, String> {
        let started = Program::start(&self.spec, self.slot);
        let mut program = started.map_err(|error| format!("the program cannot be started: {error:#}"))?;
        if let Err(status) = program.ready(self.ready_after).await {
            // Its last lines say why; they are in the log then.
            program.last_lines().await;
            return Err(describe(status));
        }
        let conversation = self.is_kept.then(|| Conversation::new(&mut program));
        Ok(Ready { program, conversation })
    }
}

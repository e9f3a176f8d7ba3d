//! Owns the start of a slot's programs.

use std::time::Duration;

use super::kept::Conversation;
use super::program::{CommandSpec, Program, Unasked};
use super::run_end::{describe, describe_closed};

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

impl Ready {
    /// Whether it can serve a run, as far as is known without waiting.
    pub(super) fn is_usable(&mut self) -> bool {
        let Self { program, conversation } = self;
        let is_silent = |conversation: &Conversation| conversation.silence_broken_so_far(program).is_none();
        conversation.as_ref().is_none_or(is_silent) && !program.has_ended()
    }

    /// Returns when it cannot serve a run any more.
    pub(super) async fn unusable(&mut self) {
        match &mut self.conversation {
            Some(conversation) => conversation.silence_broken(&mut self.program).await,
            None => {
                self.program.ended().await;
            }
        }
    }

    /// Ends a program that cannot serve a run, and says why it cannot.
    pub(super) async fn end(&mut self) -> String {
        let Self { program, conversation } = self;
        let unasked = conversation.as_ref().and_then(|kept| kept.silence_broken_so_far(program));
        if unasked == Some(Unasked::Wrote) && !program.has_ended() {
            program.kill().await;
            return "the program wrote to standard output, which with --keep is for replies alone,"
                .to_owned();
        }
        let why = describe_closed(program).await;
        program.kill().await;
        why
    }
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

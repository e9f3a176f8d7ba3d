//! Owns how a run ended at a worker, and how that is said.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::time::timeout;

use super::program::Program;
use super::wire::Reply;

/// A program that closes its output may be about to end, which says more.
const END_TIMEOUT: Duration = Duration::from_millis(200);

/// How a run ended. The programs of all ways to run one say it so.
#[derive(Debug)]
pub(super) enum RunEnd {
    /// The reply is whole.
    Done,
    /// The run failed, for this reason.
    Failed(String),
    /// The caller left before the end.
    Cancelled,
}

impl RunEnd {
    /// The end of a run by the end of its program.
    pub(super) fn of(status: ExitStatus) -> Self {
        if status.success() { Self::Done } else { Self::Failed(describe(status)) }
    }

    pub(super) fn timed_out(limit: Duration) -> Self {
        Self::Failed(format!("the run was stopped after {} (--timeout)", humantime::format_duration(limit)))
    }
}

/// How a program ended, as a sentence without its last point.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("the program ended with exit code {code}"),
        (None, Some(signal)) => format!("the program was ended by signal {signal}"),
        (None, None) => "the program ended".to_owned(),
    }
}

/// Why there is no output any more of a program that was to go on.
pub(super) async fn describe_closed(program: &mut Program) -> String {
    match timeout(END_TIMEOUT, program.ended()).await {
        Ok(status) => describe(status),
        Err(_) => "the program closed its standard output".to_owned(),
    }
}

/// Tells the caller that the run failed, with the last lines of a program that has ended.
pub(super) async fn fail(reply: Reply, reason: &str, ended: &mut Program) {
    let last_lines = ended.last_lines().await;
    let text =
        if last_lines.is_empty() { format!("{reason}\n") } else { format!("{reason}\n\n{last_lines}") };
    reply.fail(text).await;
}

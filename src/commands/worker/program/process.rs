//! Owns one running program: its pipes, its readiness, and its end.

use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context;
use bytes::BytesMut;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fstat;
use rustix::io::ioctl_fionread;
use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::{Instant, sleep_until, timeout};

use super::group::ProcessGroup;
use super::liveness::Liveness;
use super::output_log::{OutputLog, Source};
use super::readiness::Signs;
use super::run_log::RunLog;
use super::spec::{CommandSpec, Spawned};
use super::stdin_readers::PipeName;

/// How long a program may take to end after SIGTERM, before it is killed.
const TERM_TIMEOUT: Duration = Duration::from_secs(2);

/// How much of the output is read at once, in bytes.
const CHUNK: usize = 16 << 10;
/// After the program's end, output that comes later than this is another process's, which it left behind.
const REST_TIMEOUT: Duration = Duration::from_millis(200);

/// A program of one slot. Dropping it kills its process group.
#[derive(Debug)]
pub(in crate::commands::worker) struct Program {
    child: Child,
    group: ProcessGroup,
    stderr: OutputLog,
    /// Of a program whose standard output is not for the worker.
    stdout_log: Option<OutputLog>,
    /// Open as long as the program runs, so that writing to it late does not kill the program.
    ready: pipe::Receiver,
    /// Of its standard input.
    pipe: PipeName,
    slot: usize,
    /// Its standard input, until it is taken.
    stdin: Option<ChildStdin>,
    /// Its standard output, until its end.
    stdout: Option<ChildStdout>,
    end: Option<End>,
}

/// The end of a program.
#[derive(Debug, Clone, Copy)]
struct End {
    status: ExitStatus,
    /// How many of the bytes that it had written before are not read yet.
    rest: u64,
    /// When no other output counts any more.
    deadline: Instant,
}

/// What a program does next.
#[derive(Debug)]
pub(in crate::commands::worker) enum Output {
    /// It has written to standard output.
    Bytes,
    /// It has ended, and all of its output was read.
    Ended(ExitStatus),
}

/// A piece of a program's output.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::commands::worker) enum Piece {
    /// There are bytes.
    Bytes,
    /// There will be none any more: it has closed its standard output, or has ended.
    Closed,
}

/// What a program has done that is silent until it has a run.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::commands::worker) enum Unasked {
    /// It has written to standard output.
    Wrote,
    /// It has closed standard output, or has ended.
    Closed,
}

impl Program {
    pub(in crate::commands::worker) fn start(spec: &CommandSpec, slot: usize) -> anyhow::Result<Self> {
        let mut program = Self::of(spec.spawn(slot)?, slot, None)?;
        let stdin = program.stdin.as_ref().context("there is no standard input")?;
        program.pipe = PipeName::new(fstat(stdin)?.st_ino);
        Ok(program)
    }

    /// Starts one that gets its runs otherwise: it has no standard input, and both outputs go to the log.
    pub(in crate::commands::worker) fn start_without_input(
        spec: &CommandSpec,
        slot: usize,
        runs: &RunLog,
    ) -> anyhow::Result<Self> {
        let mut program = Self::of(spec.spawn_without_input(slot)?, slot, Some(runs))?;
        let source = Source { slot, name: "standard output", runs: Some(runs.clone()) };
        program.stdout_log = program.stdout.take().map(|stdout| OutputLog::start(stdout, source));
        Ok(program)
    }

    fn of(spawned: Spawned, slot: usize, runs: Option<&RunLog>) -> anyhow::Result<Self> {
        let Spawned { mut child, ready } = spawned;
        let group = ProcessGroup::of(child.id());
        let stdout = child.stdout.take().context("there is no standard output")?;
        let stderr = child.stderr.take().context("there is no standard error")?;
        let stderr = OutputLog::start(stderr, Source { slot, name: "standard error", runs: runs.cloned() });
        let (stdin, stdout) = (child.stdin.take(), Some(stdout));
        let pipe = PipeName::none();
        Ok(Self { child, group, stderr, stdout_log: None, ready, pipe, slot, stdin, stdout, end: None })
    }

    /// Whether it lives, for others to ask.
    pub(in crate::commands::worker) fn liveness(&self) -> Liveness {
        Liveness::of(self.group.leader())
    }

    /// Waits until it is ready for a run: it reads its standard input, says so by `PILOTLIGHT_READY_FD`, or has run for
    /// `after`. An error is its end before.
    pub(in crate::commands::worker) async fn ready(
        &mut self,
        after: Option<Duration>,
    ) -> Result<(), ExitStatus> {
        let Some(process) = self.group.leader().map(rustix::process::Pid::as_raw_pid) else {
            return Err(ExitStatus::default());
        };
        let Self { child, ready, pipe, slot, .. } = self;
        let signs = Signs { ready, process, stdin: pipe, after, slot: *slot };
        tokio::select! {
            biased;
            status = child.wait() => Err(self.note_end(status)),
            () = signs.wait() => Ok(()),
        }
    }

    /// Its standard input. Dropping it closes it.
    pub(in crate::commands::worker) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// Reads the next piece of output, behind what is in the buffer, or waits for its end. Dropping the future loses nothing.
    pub(in crate::commands::worker) async fn output(&mut self, buffer: &mut BytesMut) -> Output {
        match self.piece(buffer).await {
            Piece::Bytes => Output::Bytes,
            Piece::Closed => Output::Ended(self.ended().await),
        }
    }

    /// Reads the next piece of output, behind what is in the buffer. Dropping the future loses nothing.
    pub(in crate::commands::worker) async fn piece(&mut self, buffer: &mut BytesMut) -> Piece {
        buffer.reserve(CHUNK);
        while let Some(stdout) = &mut self.stdout {
            // Its end comes first: a process that it left behind may write without a pause.
            tokio::select! {
                biased;
                status = self.child.wait(), if self.end.is_none() => {
                    self.note_end(status);
                }
                () = over(self.end) => self.stdout = None,
                read = stdout.read_buf(buffer) => match read {
                    Ok(count @ 1..) => {
                        if let Some(end) = &mut self.end {
                            end.rest = end.rest.saturating_sub(count as u64);
                        }
                        return Piece::Bytes;
                    }
                    _ => self.stdout = None,
                },
            }
        }
        Piece::Closed
    }

    /// What it has done so far, if it is one that is silent until it has a run. What was written just now is seen.
    pub(in crate::commands::worker) fn unasked(&self) -> Option<Unasked> {
        let Some(stdout) = &self.stdout else { return Some(Unasked::Closed) };
        let mut pipes = [PollFd::new(stdout, PollFlags::IN)];
        match poll(&mut pipes, Some(&Timespec::default())) {
            Ok(0) => None,
            Ok(_) if pipes[0].revents().contains(PollFlags::IN) => Some(Unasked::Wrote),
            _ => Some(Unasked::Closed),
        }
    }

    /// Whether it has ended, as far as is known without waiting.
    pub(in crate::commands::worker) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
    }

    /// Waits for its end, and kills what it leaves behind in its process group.
    pub(in crate::commands::worker) async fn ended(&mut self) -> ExitStatus {
        let status = self.child.wait().await;
        self.note_end(status)
    }

    fn note_end(&mut self, status: std::io::Result<ExitStatus>) -> ExitStatus {
        self.group.kill();
        let rest = || self.stdout.as_ref().and_then(|stdout| ioctl_fionread(stdout).ok()).unwrap_or_default();
        let end = self.end.get_or_insert_with(|| End {
            // The status of a child is unknown only if somebody else has waited for it.
            status: status.unwrap_or_default(),
            rest: rest(),
            deadline: Instant::now() + REST_TIMEOUT,
        });
        end.status
    }

    /// The last lines that it wrote to standard error, once it has ended.
    pub(in crate::commands::worker) async fn last_lines(&mut self) -> String {
        if let Some(stdout) = &mut self.stdout_log {
            stdout.last_lines().await;
        }
        self.stderr.last_lines().await
    }

    /// Asks it to end, and kills it if it does not.
    pub(in crate::commands::worker) async fn terminate(mut self) {
        self.group.signal(Signal::TERM);
        // A stopped process takes SIGTERM only when it runs again.
        self.group.signal(Signal::CONT);
        if timeout(TERM_TIMEOUT, self.child.wait()).await.is_err() {
            self.kill().await;
        }
    }

    /// Kills it, and waits for its end.
    pub(in crate::commands::worker) async fn kill(&mut self) -> ExitStatus {
        self.group.kill();
        let _ = self.child.start_kill();
        self.ended().await
    }
}

/// Returns when an ended program's own output was read, and the time for any other is over.
async fn over(end: Option<End>) {
    match end {
        Some(End { rest: 0, deadline, .. }) => sleep_until(deadline).await,
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    fn start(script: &str) -> Program {
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.process_group(0).kill_on_drop(true).spawn().unwrap();
        let (ready, _) = std::io::pipe().unwrap();
        Program {
            group: ProcessGroup::of(child.id()),
            stderr: OutputLog::start(
                child.stderr.take().unwrap(),
                Source { slot: 1, name: "standard error", runs: None },
            ),
            stdout_log: None,
            ready: pipe::Receiver::from_owned_fd(ready.into()).unwrap(),
            pipe: PipeName::none(),
            slot: 1,
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            child,
            end: None,
        }
    }

    /// A caller that takes its time must not lose the end of a reply.
    #[tokio::test]
    async fn all_that_an_ended_program_has_written_is_read_however_late() {
        let mut program = start("head -c 50000 /dev/zero");
        program.ended().await;
        let mut output = BytesMut::new();
        tokio::time::sleep(REST_TIMEOUT * 2).await;
        while program.piece(&mut output).await == Piece::Bytes {}
        assert_eq!(output.len(), 50_000);
    }

    #[tokio::test]
    async fn what_is_written_just_now_or_closed_is_seen_without_waiting() {
        let mut program = start("read line; printf x; read line; exec >&-; read line");
        assert_eq!(program.unasked(), None);
        let mut stdin = program.take_stdin().unwrap();
        for expected in [Unasked::Wrote, Unasked::Closed] {
            tokio::io::AsyncWriteExt::write_all(&mut stdin, b"\n").await.unwrap();
            let deadline = std::time::Instant::now() + Duration::from_secs(20);
            // Without a turn of the event loop.
            while program.unasked().is_none() {
                assert!(std::time::Instant::now() < deadline);
            }
            assert_eq!(program.unasked(), Some(expected));
            program.piece(&mut BytesMut::new()).await;
        }
    }
}

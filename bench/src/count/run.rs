//! Owns one run of the broker under valgrind or strace: start, requests, end, and what the tool wrote about each thread.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::callgrind::ThreadCounts;
use super::scenario::Scenario;
use crate::runtime::block_on_local;
use crate::server::{ANY_PORTS, Server};

/// The longest time that a broker may take to end.
const ENDING_TIME: Duration = Duration::from_secs(60);

/// One run: the broker, what is sent to it, how often, and how long the run lasts at least.
pub(super) struct Run<'a> {
    pub(super) program: &'a Path,
    pub(super) scenario: &'a Scenario,
    pub(super) requests: u32,
    pub(super) lasts: Duration,
}

/// What a tool has counted, by thread, and how long the run lasted.
pub(super) struct Counted<T> {
    pub(super) by_thread: BTreeMap<String, T>,
    pub(super) lasted: Duration,
}

impl Run<'_> {
    /// Instructions, allocations and clock reads.
    pub(super) fn under_callgrind(&self) -> anyhow::Result<Counted<ThreadCounts>> {
        let folder = Folder::create()?;
        let output = folder.0.join("out");
        let option = format!("--callgrind-out-file={}", output.display());
        let tool = ["valgrind", "--quiet", "--tool=callgrind", "--separate-threads=yes", &option];
        let (threads, lasted) = self.run(&tool, Ok)?;
        let mut by_thread = BTreeMap::new();
        // Valgrind numbers threads in the order in which they begin, as the kernel does.
        for (number, (_, name)) in (1..).zip(threads) {
            let file = folder.0.join(format!("out-{number:02}"));
            let text = fs::read_to_string(&file).context("callgrind wrote nothing about a thread")?;
            by_thread.insert(name, ThreadCounts::parse(&text)?);
        }
        Ok(Counted { by_thread, lasted })
    }

    /// System calls by name.
    pub(super) fn under_strace(&self) -> anyhow::Result<Counted<BTreeMap<String, f64>>> {
        let folder = Folder::create()?;
        let output = folder.0.join("out").display().to_string();
        // Strace ignores SIGTERM while its child runs, so the signal must be sent to the child.
        let tool = ["strace", "-f", "-qq", "-s", "0", "-e", "signal=none", "-o", &output];
        let (threads, lasted) = self.run(&tool, only_child)?;
        let text = fs::read_to_string(&output).context("strace wrote nothing")?;
        let by_thread =
            threads.into_iter().map(|(thread, name)| (name, system_calls(&text, thread))).collect();
        Ok(Counted { by_thread, lasted })
    }

    /// Starts the broker with a tool, sends the requests and ends it politely. Returns the broker's threads in the order in
    /// which they began, with their names, and how long the run lasted.
    fn run(
        &self,
        tool: &[&str],
        broker_of: impl Fn(u32) -> anyhow::Result<u32>,
    ) -> anyhow::Result<(Vec<(u32, String)>, Duration)> {
        let mut command = Command::new(tool[0]);
        command.args(&tool[1..]).arg(self.program).args(["--threads", "1", "--proof", self.scenario.proof]);
        command.args(ANY_PORTS);
        command.args(["--connection-timeout", "299s", "--drain-window", "0s"]);
        let mut server = Server::spawn(command).with_context(|| format!("no broker under {}", tool[0]))?;
        let broker = broker_of(server.pid())?;
        let begun = Instant::now();
        block_on_local(self.scenario.send(&server, self.requests))?;
        std::thread::sleep(self.lasts.saturating_sub(begun.elapsed()));
        let lasted = begun.elapsed();
        let threads = threads(broker)?;
        let pid = Pid::from_raw(i32::try_from(broker)?).context("not a process")?;
        kill_process(pid, Signal::TERM)?;
        while server.child.try_wait()?.is_none() {
            ensure!(begun.elapsed() < lasted + ENDING_TIME, "the broker under {} does not end", tool[0]);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok((threads, lasted))
    }
}

fn only_child(parent: u32) -> anyhow::Result<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    match children.split_whitespace().collect::<Vec<_>>()[..] {
        [child] => Ok(child.parse()?),
        _ => bail!("strace has other children than one: {children}"),
    }
}

/// The threads of a process and their names, in the order in which they began.
fn threads(process: u32) -> anyhow::Result<Vec<(u32, String)>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/task"))? {
        let entry = entry?;
        let thread: u32 = entry.file_name().to_string_lossy().parse()?;
        threads.push((thread, fs::read_to_string(entry.path().join("comm"))?.trim().to_owned()));
    }
    threads.sort_unstable();
    Ok(threads)
}

/// The calls of one thread. A line is the thread's number and the call; a call that another one interrupted has a second line
/// when it resumes.
fn system_calls(text: &str, thread: u32) -> BTreeMap<String, f64> {
    let mut calls = BTreeMap::new();
    let prefix = format!("{thread} ");
    for line in text.lines().filter_map(|line| line.strip_prefix(&prefix)) {
        if let Some((name, _)) = line.trim_start().split_once('(')
            && !name.starts_with("<...")
        {
            *calls.entry(name.to_owned()).or_default() += 1.0;
        }
    }
    calls
}

/// A folder that is removed when this value is dropped.
struct Folder(PathBuf);

impl Folder {
    fn create() -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("pilotlight-count-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A file that is left in the folder for temporary files harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_one_thread_are_counted_once() {
        let text = "12 read(3, \"\"..., 8) = 8\n13 read(3, \"\"..., 8) = 8\n12 epoll_wait(4,  <unfinished ...>\n\
             13 write(1, \"\"..., 2) = 2\n12 <... epoll_wait resumed>[], 1024, 5) = 0\n12  read(3, \"\"..., 8) = 8\n\
             12 +++ exited with 0 +++\n";
        let calls = system_calls(text, 12);
        assert_eq!(
            calls.into_iter().collect::<Vec<_>>(),
            [("epoll_wait".to_owned(), 1.0), ("read".to_owned(), 2.0)]
        );
    }
}

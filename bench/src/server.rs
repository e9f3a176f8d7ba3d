//! Owns the server under measurement: a process of its own on a core of its own, and what it has used.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::subject::Subject;

/// A server in its own process, ended when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    /// Its second listener, if it is pilotlight.
    pub(crate) ops: Option<SocketAddr>,
    /// From its start to its greeting.
    pub(crate) ready_after: Duration,
}

/// What a server said on stderr, line by line.
pub(crate) type Complaints = Arc<Mutex<Vec<String>>>;

impl Server {
    /// Starts it on the first core, and keeps this program to the others.
    pub(crate) fn start(subject: &Subject) -> anyhow::Result<Self> {
        pin(|core| core == 0)?;
        let started = Self::start_anywhere(subject);
        pin(|core| core != 0)?;
        started
    }

    /// The same, and keeps what it says on stderr.
    pub(crate) fn start_overheard(subject: &Subject) -> anyhow::Result<(Self, Complaints)> {
        pin(|core| core == 0)?;
        let started = Self::start_with(subject, Stdio::piped());
        pin(|core| core != 0)?;
        let mut server = started?;
        let complaints = Complaints::default();
        let (stderr, kept) = (server.child.stderr.take().context("no stderr")?, complaints.clone());
        // It ends with the server.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Ok(mut kept) = kept.lock() {
                    kept.push(line);
                }
            }
        });
        Ok((server, complaints))
    }

    /// Starts it on whatever cores this program may use.
    pub(crate) fn start_anywhere(subject: &Subject) -> anyhow::Result<Self> {
        Self::start_with(subject, Stdio::inherit())
    }

    fn start_with(subject: &Subject, stderr: Stdio) -> anyhow::Result<Self> {
        let mut command = Command::new(&subject.program);
        if subject.is_pilotlight {
            command.args(["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--log-format", "text"]);
            command.args(["--max-waiters-per-pool", "1000000", "--connection-timeout", "299s"]);
        }
        command.args(&subject.arguments).env("PORT", "0").env("FRESH", if subject.fresh { "1" } else { "0" });
        command.stderr(stderr);
        Self::spawn(command)
            .with_context(|| format!("{} does not start; was it built?", subject.program.display()))
    }

    /// Starts what the command says, and returns with its greeting.
    pub(crate) fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let begun = Instant::now();
        command.env("RUST_LOG", "error").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().context("no greeting")?;
        let greeting = BufReader::new(stdout).lines().next().context("no greeting")??;
        let ready_after = begun.elapsed();
        let mut addresses =
            greeting.split("http://").skip(1).filter_map(|rest| rest.split(' ').next()?.parse().ok());
        let address = addresses.next().context("no address in the greeting")?;
        Ok(Self { child, address, ops: addresses.next(), ready_after })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The CPU time that the process has used so far, from its own accounting.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_of(&format!("/proc/{}/stat", self.child.id()))
    }

    /// Its resident memory in bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        kilobytes(&status, "VmRSS:").context("no VmRSS")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The CPU time of this program.
pub(crate) fn own_cpu() -> anyhow::Result<Duration> {
    cpu_of("/proc/self/stat")
}

/// The kernel's slab in bytes, of the whole machine.
pub(crate) fn slab() -> anyhow::Result<u64> {
    kilobytes(&std::fs::read_to_string("/proc/meminfo")?, "Slab:").context("no Slab")
}

/// Lets this program use every core again.
pub(crate) fn unpin() -> anyhow::Result<()> {
    pin(|_| true)
}

fn cpu_of(stat: &str) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(stat)?;
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    // Fields 14 and 15 of proc(5), counted from the third.
    let ticks: u64 =
        after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_secs(1) * u32::try_from(ticks)?
        / u32::try_from(rustix::param::clock_ticks_per_second())?)
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn pin(may: impl Fn(usize) -> bool) -> anyhow::Result<()> {
    // Not what is available to this thread, which may be pinned already.
    let cores = std::fs::read_to_string("/proc/cpuinfo")?.matches("processor\t").count().max(1);
    let mut set = CpuSet::new();
    (0..cores).filter(|&core| cores == 1 || may(core)).for_each(|core| set.set(core));
    Ok(sched_setaffinity(None, &set)?)
}

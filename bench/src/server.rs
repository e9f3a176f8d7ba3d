//! Owns the server under test: a process of its own, pinned to a core of its own, and the resources it has used.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::implementation::Implementation;

/// Pilotlight's arguments for listeners on ports that the system chooses, and for logs that are not JSON.
pub(crate) const ANY_PORTS: [&str; 6] =
    ["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--log-format", "text"];

/// A server in its own process, killed when this value is dropped.
pub struct Server {
    /// Its process.
    pub child: Child,
    /// Its public listener.
    pub address: SocketAddr,
    /// Its ops listener, if it is pilotlight.
    pub ops: Option<SocketAddr>,
    /// From the start of the process to its first line on stdout.
    pub ready_after: Duration,
}

/// The lines that a server has written to stderr.
pub type StderrLines = Arc<Mutex<Vec<String>>>;

impl Server {
    /// Starts it on the first core, and keeps this program to the others.
    pub fn start(implementation: &Implementation) -> anyhow::Result<Self> {
        on_first_core(|| Self::start_unpinned(implementation))?
    }

    /// The same, and collects what it writes to stderr.
    pub fn start_with_stderr(implementation: &Implementation) -> anyhow::Result<(Self, StderrLines)> {
        let mut server = on_first_core(|| Self::start_process(implementation, Stdio::piped()))??;
        let stderr_lines = StderrLines::default();
        let (stderr, collected) = (server.child.stderr.take().context("no stderr")?, stderr_lines.clone());
        // The thread ends when the server closes its stderr.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Ok(mut collected) = collected.lock() {
                    collected.push(line);
                }
            }
        });
        Ok((server, stderr_lines))
    }

    /// Starts it on all cores that this program may use.
    pub fn start_unpinned(implementation: &Implementation) -> anyhow::Result<Self> {
        Self::start_process(implementation, Stdio::inherit())
    }

    fn start_process(implementation: &Implementation, stderr: Stdio) -> anyhow::Result<Self> {
        let mut command = Command::new(&implementation.program);
        if implementation.is_pilotlight {
            command.args(ANY_PORTS);
            command.args(["--max-waiters-per-pool", "1000000", "--connection-timeout", "299s"]);
        }
        command
            .args(&implementation.arguments)
            // Bun's client has no more requests open than this; without it, 256.
            .env("BUN_CONFIG_MAX_HTTP_REQUESTS", "65336")
            .env("PORT", "0")
            .env("FRESH", if implementation.fresh { "1" } else { "0" });
        command.stderr(stderr);
        Self::spawn(command)
            .with_context(|| format!("{} does not start; was it built?", implementation.program.display()))
    }

    /// Runs the command, and returns when it has printed the line that names its addresses.
    pub fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let begun = Instant::now();
        command.env("RUST_LOG", "error").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().context("the server printed no addresses")?;
        let first_line =
            BufReader::new(stdout).lines().next().context("the server printed no addresses")??;
        let ready_after = begun.elapsed();
        let mut addresses =
            first_line.split("http://").skip(1).filter_map(|rest| rest.split(' ').next()?.parse().ok());
        let address = addresses.next().context("the first line has no address")?;
        Ok(Self { child, address, ops: addresses.next(), ready_after })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The CPU time that the process has used so far, by the kernel's accounting.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_of_process(self.child.id())
    }

    /// Its resident memory in bytes.
    pub fn resident(&self) -> anyhow::Result<u64> {
        resident_of(&self.child.id().to_string())
    }
}

/// Starts a process on the first core, and keeps this program to the others.
pub fn on_first_core<T>(start: impl FnOnce() -> T) -> anyhow::Result<T> {
    pin(|core| core == 0)?;
    let started = start();
    pin(|core| core != 0)?;
    Ok(started)
}

/// The CPU time that a process has used so far, by the kernel's accounting.
pub fn cpu_of_process(id: u32) -> anyhow::Result<Duration> {
    cpu_of(&format!("/proc/{id}/stat"))
}

/// Loopback addresses whose ports were free a moment ago.
pub fn free_addresses<const COUNT: usize>() -> anyhow::Result<[SocketAddr; COUNT]> {
    // All are bound before the first is given back, so they differ.
    let bound = (0..COUNT).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<Vec<_>>>()?;
    let addresses = bound.iter().map(TcpListener::local_addr).collect::<std::io::Result<Vec<_>>>()?;
    addresses.try_into().map_err(|_| anyhow!("not as many addresses as were asked for"))
}

/// The resident memory of this program in bytes.
pub fn own_resident() -> anyhow::Result<u64> {
    resident_of("self")
}

fn resident_of(process: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    kilobytes(&status, "VmRSS:").context("no VmRSS")
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The CPU time of this program.
pub fn own_cpu() -> anyhow::Result<Duration> {
    cpu_of("/proc/self/stat")
}

/// The kernel's slab of the whole machine, in bytes.
pub fn slab() -> anyhow::Result<u64> {
    kilobytes(&std::fs::read_to_string("/proc/meminfo")?, "Slab:").context("no Slab")
}

/// Allows this program every core again.
pub fn unpin() -> anyhow::Result<()> {
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

fn pin(allows: impl Fn(usize) -> bool) -> anyhow::Result<()> {
    // Not `available_parallelism`: this thread may be pinned already.
    let cores = std::fs::read_to_string("/proc/cpuinfo")?.matches("processor\t").count().max(1);
    let mut set = CpuSet::new();
    (0..cores).filter(|&core| cores == 1 || allows(core)).for_each(|core| set.set(core));
    Ok(sched_setaffinity(None, &set)?)
}

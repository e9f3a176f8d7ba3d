//! Owns the broker under test: a process that can be stopped, drained, killed, and restarted on the same ports.

use pilotlight_bench::stdout::print;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};

use pilotlight_bench::implementation::Implementation;
use pilotlight_bench::scrape::Scrape;
use pilotlight_bench::server::{Server, free_addresses};

/// How the broker is started.
#[derive(Debug, Clone)]
pub(crate) struct BrokerOptions {
    /// Its limit of open files; without one, the limit of this program.
    pub(crate) files: Option<u64>,
    /// The poll timeout that /connect returns, in milliseconds.
    pub(crate) timeout: u64,
    pub(crate) arguments: Vec<String>,
}

/// How much all processes so far have written to stderr.
#[derive(Debug, Default)]
pub(crate) struct StderrLog {
    pub(crate) lines: AtomicU64,
    pub(crate) panics: AtomicU64,
}

/// Later lines are only counted, except those about a panic.
const MAX_LINES_SHOWN: u64 = 20;

impl StderrLog {
    fn read(&self, errors: ChildStderr) {
        for line in BufReader::new(errors).lines().map_while(Result::ok) {
            let is_panic = line.contains("panicked");
            self.panics.fetch_add(u64::from(is_panic), Ordering::Relaxed);
            if self.lines.fetch_add(1, Ordering::Relaxed) < MAX_LINES_SHOWN || is_panic {
                print(&format!("  broker: {line}\n"));
            }
        }
    }
}

/// A broker that keeps its ports over restarts.
pub(crate) struct RestartableBroker {
    start: BrokerOptions,
    server: Server,
    pub(crate) address: SocketAddr,
    pub(crate) ops: SocketAddr,
    pub(crate) log: Arc<StderrLog>,
}

impl RestartableBroker {
    pub(crate) fn start(start: BrokerOptions) -> anyhow::Result<Self> {
        let [address, ops] = free_addresses()?;
        let log = Arc::default();
        let server = spawn(&start, address, ops, &log)?;
        Ok(Self { start, server, address, ops, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        self.server.resident()
    }

    /// The CPU time that the present process has used so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        self.server.cpu()
    }

    /// Whether the process exists. A stopped process does.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.server.child.try_wait(), Ok(None))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // An error means that it has exited.
        let _ = kill_process(Pid::from_child(&self.server.child), signal);
    }

    /// Kills it, and waits until it has exited.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.server.child.kill()?;
        self.server.child.wait()?;
        Ok(())
    }

    /// Starts a new process after the last one has exited.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.server = spawn(&self.start, self.address, self.ops, &self.log)?;
        Ok(())
    }

    pub(crate) async fn scrape(&self) -> anyhow::Result<Scrape> {
        Scrape::fetch(self.ops).await
    }

    /// Its open descriptors, as the kernel lists them.
    pub(crate) fn open_files(&self) -> anyhow::Result<u64> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count() as u64)
    }
}

/// The kernel may keep the ports of a killed broker busy for a moment.
const BIND_TIMEOUT: Duration = Duration::from_secs(5);

fn spawn(
    start: &BrokerOptions,
    address: SocketAddr,
    ops: SocketAddr,
    log: &Arc<StderrLog>,
) -> anyhow::Result<Server> {
    let begun = Instant::now();
    loop {
        let mut server = Server::spawn(command(start, address, ops)?);
        if let Ok(server) = &mut server {
            let errors = server.child.stderr.take().context("no standard error")?;
            let log = log.clone();
            std::thread::spawn(move || log.read(errors));
        }
        if server.is_ok() || begun.elapsed() > BIND_TIMEOUT {
            return server.context("the broker does not start");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn command(start: &BrokerOptions, address: SocketAddr, ops: SocketAddr) -> anyhow::Result<Command> {
    let subject = Implementation::pilotlight("received")?;
    ensure!(subject.program.exists(), "{} is not built", subject.program.display());
    let mut command = match start.files {
        None => Command::new(&subject.program),
        Some(files) => {
            // A process cannot raise a limit again, so a shell lowers its own and is replaced by the broker.
            let mut shell = Command::new("sh");
            shell.args(["-c", "ulimit -n \"$1\" && shift && exec \"$@\"", "sh", &files.to_string()]);
            shell.arg(&subject.program);
            shell
        }
    };
    command
        .args(["--listen", &address.to_string(), "--ops-listen", &ops.to_string(), "--log-format", "text"])
        .args(["--connection-timeout", &format!("{}ms", start.timeout)])
        .args(&start.arguments)
        .stderr(Stdio::piped());
    Ok(command)
}

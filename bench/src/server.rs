//! Owns the server under measurement: a process of its own on a core of its own, and what it has used.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

/// A broker in its own process, ended when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts the broker beside this program on the first core, and keeps this program to the others.
    pub(crate) fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("pilotlight");
        let mut child = Command::new(&program)
            .args([
                "--listen",
                "127.0.0.1:0",
                "--ops-listen",
                "127.0.0.1:0",
                "--max-waiters-per-pool",
                "1000000",
            ])
            .args(["--connection-timeout", "299s", "--log-format", "text"])
            .args(arguments)
            .env("RUST_LOG", "error")
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!("{} does not start; build it with --release first", program.display())
            })?;
        pin(Some(Pid::from_child(&child)), |core| core == 0)?;
        pin(None, |core| core != 0)?;
        let stdout = child.stdout.take().context("no greeting")?;
        let greeting = BufReader::new(stdout).lines().next().context("no greeting")??;
        let address = greeting.split("http://").nth(1).and_then(|rest| rest.split(' ').next());
        let address =
            address.and_then(|address| address.parse().ok()).context("no address in the greeting")?;
        Ok(Self { child, address })
    }

    /// The CPU time that the process has used so far, from its own accounting.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        // Fields 14 and 15 of proc(5), counted from the third.
        let ticks: u64 =
            after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_secs(1) * u32::try_from(ticks)?
            / u32::try_from(rustix::param::clock_ticks_per_second())?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pin(process: Option<Pid>, may: impl Fn(usize) -> bool) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    let mut set = CpuSet::new();
    (0..cores).filter(|&core| cores == 1 || may(core)).for_each(|core| set.set(core));
    Ok(sched_setaffinity(process, &set)?)
}

//! Owns nats-server as a process that can be paused, killed, and started again on the same port, and the wait for a cluster.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::scrape::Scrape;
use crate::server::{cpu_of_process, free_addresses};

/// A nats-server in its own process, killed when this value is dropped.
pub struct NatsServer {
    child: Child,
    program: PathBuf,
    listens: Ipv4Addr,
    port: u16,
    monitoring: SocketAddr,
}

/// The messages and bytes that nats-server has taken in and sent since its start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    /// Messages from clients.
    pub messages_in: u64,
    /// Messages to clients: one for each subscriber.
    pub messages_out: u64,
    /// The payload bytes of messages to clients.
    pub bytes_out: u64,
}

impl Traffic {
    /// What was added since an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            messages_in: self.messages_in.saturating_sub(earlier.messages_in),
            messages_out: self.messages_out.saturating_sub(earlier.messages_out),
            bytes_out: self.bytes_out.saturating_sub(earlier.bytes_out),
        }
    }
}

/// It serves within this time; a killed one may keep its port busy for a moment.
const START_TIME: Duration = Duration::from_secs(10);

impl NatsServer {
    /// The executable: that of the variable `NATS_SERVER`, that which `tests/run` installs, or the first on the path. An
    /// error that says so if there is none.
    pub fn program() -> anyhow::Result<PathBuf> {
        let (named, path) = (std::env::var_os("NATS_SERVER"), std::env::var_os("PATH"));
        if let Some(named) = named {
            return Ok(named.into());
        }
        let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/nats/.venv/bin/nats-server");
        let on_path =
            path.iter().flat_map(std::env::split_paths).map(|folder| folder.join("nats-server")).collect();
        [vec![installed], on_path]
            .concat()
            .into_iter()
            .find(|program| program.is_file())
            .context("no nats-server: tests/run installs it; NATS_SERVER may name another one")
    }

    /// Starts it on a free port of this address; 0.0.0.0 is only for a network namespace of its own.
    pub fn start(listens: Ipv4Addr) -> anyhow::Result<Self> {
        let program = Self::program()?;
        let [clients, monitoring] = free_addresses()?;
        let child = spawn(&program, listens, clients.port(), monitoring)?;
        Ok(Self { child, program, listens, port: clients.port(), monitoring })
    }

    /// Its URL for a client that reaches it at this loopback address.
    pub fn url(&self, host: Ipv4Addr) -> String {
        format!("nats://{host}:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The CPU time that the process has used so far.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_of_process(self.child.id())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // An error means that it has exited.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Kills it, and waits until it has exited.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts a new process, which has another id, on the same port after the last one has exited.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.program, self.listens, self.port, self.monitoring)?;
        Ok(())
    }

    /// What it counts.
    pub fn traffic(&self) -> anyhow::Result<Traffic> {
        let mut stream = TcpStream::connect(self.monitoring)?;
        stream.write_all(b"GET /varz HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (_, body) = text.split_once("\r\n\r\n").context("no response from nats-server")?;
        let counts: serde_json::Value = serde_json::from_str(body)?;
        let count = |name: &str| counts[name].as_u64().with_context(|| format!("no {name}"));
        Ok(Traffic {
            messages_in: count("in_msgs")?,
            messages_out: count("out_msgs")?,
            bytes_out: count("out_bytes")?,
        })
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        // An error means that it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &Path, listens: Ipv4Addr, port: u16, monitoring: SocketAddr) -> anyhow::Result<Child> {
    let begun = Instant::now();
    loop {
        let mut child = Command::new(program)
            .args(["--addr", &listens.to_string(), "--port", &port.to_string()])
            .args(["--http_port", &monitoring.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{} does not start", program.display()))?;
        while matches!(child.try_wait(), Ok(None)) {
            if greets(port).is_ok() {
                return Ok(child);
            }
            if begun.elapsed() > START_TIME {
                child.kill()?;
                child.wait()?;
                bail!("nats-server does not serve");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        ensure!(begun.elapsed() < START_TIME, "nats-server exits at its start");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// It greets each client with its description.
fn greets(port: u16) -> anyhow::Result<()> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    ensure!(line.starts_with("INFO "), "not a NATS server");
    Ok(())
}

/// Waits until each of these brokers is connected and sees all others; an error after `patience`.
pub async fn wait_until_joined(ops: &[SocketAddr], patience: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    let others = ops.len() as u64 - 1;
    loop {
        let mut seen = Vec::new();
        for address in ops {
            let scrape = Scrape::fetch(*address).await?;
            let is_connected = scrape.count("pilotlight_cluster_connected") == 1;
            seen.push((is_connected, scrape.count("pilotlight_cluster_brokers")));
        }
        if seen.iter().all(|state| *state == (true, others)) {
            return Ok(());
        }
        ensure!(begun.elapsed() < patience, "the brokers do not find each other: connected, others {seen:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

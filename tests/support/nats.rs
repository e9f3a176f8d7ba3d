//! Owns a real nats-server in a process of its own: started on a free port, paused, stopped, and started again on the same port.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::PATIENCE;
use super::client::Client;

/// A nats-server, killed when dropped.
pub struct NatsServer {
    /// Where its clients connect.
    pub address: SocketAddr,
    /// Where it says over HTTP how it does.
    monitor: SocketAddr,
    program: PathBuf,
    /// Holds its configuration and its log.
    folder: TempDir,
    child: Option<Child>,
}

impl NatsServer {
    /// Starts a server on a free port and returns once it accepts clients. The text is added to its configuration; it may
    /// be empty. None, after a message, if no nats-server is installed.
    pub fn start(configuration: &str) -> Option<Self> {
        let Some(program) = find_program() else {
            eprintln!("skipped: no nats-server here; tests/run installs it, or NATS_SERVER names it");
            return None;
        };
        let [address, monitor] = super::free_addresses();
        let mut server = Self { address, monitor, program, folder: TempDir::new().unwrap(), child: None };
        server.configure(configuration);
        server.restart();
        Some(server)
    }

    /// The URL to give to a broker's `--nats`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Replaces the configuration, for the next start.
    pub fn configure(&self, configuration: &str) {
        let log = self.folder.path().join("log");
        let text = format!(
            "listen: \"{}\"\nhttp: \"{}\"\nlog_file: \"{}\"\n{configuration}\n",
            self.address,
            self.monitor,
            log.display()
        );
        std::fs::write(self.folder.path().join("nats.conf"), text).unwrap();
    }

    /// Starts the server on its port, after stopping it if it runs, and returns once it accepts clients.
    pub fn restart(&mut self) {
        self.stop();
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.folder.path().join("nats.conf"));
        let child = self.child.insert(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let until = Instant::now() + PATIENCE;
        loop {
            // It sends its INFO before it knows the client, so one byte shows that it serves.
            if let Ok(mut stream) = TcpStream::connect(self.address)
                && stream.read_exact(&mut [0]).is_ok()
            {
                return;
            }
            let ended = child.try_wait().unwrap();
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < until, "no nats-server: {}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How many clients it has a connection of, as far as it has noticed.
    pub async fn clients(&self) -> u64 {
        let answer = Client::connect(self.monitor).await.ask("GET /varz HTTP/1.1\r\nhost: n\r\n\r\n").await;
        answer.json()["connections"].as_u64().unwrap()
    }

    /// Kills the server; its clients see the end of their connections.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops the process without closing a connection, and waits until it has stopped: its clients see silence.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self.pid().as_raw_nonzero());
        let until = Instant::now() + PATIENCE;
        while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
            assert!(Instant::now() < until, "the nats-server does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets a paused server run again.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("the server runs"))
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The program that `NATS_SERVER` names, else the one that tests/run installs, else the one on the path.
fn find_program() -> Option<PathBuf> {
    if let Some(program) = std::env::var_os("NATS_SERVER") {
        return Some(program.into());
    }
    let installed = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nats/.venv/bin/nats-server"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("nats-server"));
    std::iter::once(installed).chain(on_path).find(|program| program.is_file())
}

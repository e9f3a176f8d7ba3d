//! Owns the parent's side of a fleet: it starts, instructs, stops and kills the process, and collects its reports.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use super::options::FleetOptions;
use super::protocol::{Instruction, Report};

/// Reports of all fleets that have not been taken yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReportQueue(Arc<Mutex<Vec<Report>>>);

impl ReportQueue {
    /// Takes all reports since the last call.
    pub(crate) fn take(&self) -> Vec<Report> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, heard: Report) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(heard);
    }
}

/// One fleet's process. It is killed when this value is dropped.
pub(crate) struct FleetProcess {
    child: Child,
    stdin: Option<ChildStdin>,
    reader: Option<JoinHandle<()>>,
    pub(crate) serial: u64,
}

impl FleetProcess {
    /// Starts a process whose controllers begin at once.
    pub(crate) fn start(options: &FleetOptions, ear: &ReportQueue) -> anyhow::Result<Self> {
        let FleetOptions { brokers, serial, count, pools, timeout, aborts, silent, native, transports, seed } =
            options;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("fleet")
            .args(brokers.iter().map(ToString::to_string))
            .args(["--serial", &serial.to_string(), "--native", &native.to_string()])
            .args(["--count", &count.to_string(), "--pools", &pools.to_string()])
            .args(["--timeout", &timeout.to_string(), "--seed", &seed.to_string()])
            .args(["--aborts", &aborts.to_string(), "--silent", &silent.to_string()])
            .args(["--websockets", &transports.websockets.to_string()])
            .args(["--streams", &transports.streams.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("the fleet's stdout is not piped")?).lines();
        let ear = ear.clone();
        let reader = std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .filter_map(|line| Report::parse(&line))
                .for_each(|heard| ear.push(heard));
        });
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, reader: Some(reader), serial: *serial })
    }

    /// Sends an instruction to the process. A process that has exited ignores it.
    pub(crate) fn instruct(&mut self, order: Instruction) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(order.line().as_bytes());
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // An error means that it has exited.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Whether it was killed.
    pub(crate) fn is_killed(&self) -> bool {
        self.reader.is_none()
    }

    /// Kills it. When this returns, everything that it had reported is in the queue.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for FleetProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

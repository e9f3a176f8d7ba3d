//! Owns what a worker runs: the program with its arguments, whether it can be run here, and its environment.

use std::ffi::OsString;
use std::io::{PipeWriter, pipe};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::{FdFlags, fcntl_setfd};
use thiserror::Error;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};

use super::exec::EXEC;

/// A program that cannot be started at all.
#[derive(Debug, Error)]
pub(in crate::commands::worker) enum NotRunnable {
    /// Nothing has this name.
    #[error("{0} is not there: it is neither a path nor a program in PATH")]
    NotFound(String),
    /// It is a folder, or may not be executed.
    #[error("{0} cannot be executed")]
    NotExecutable(String),
}

impl NotRunnable {
    /// The exit code of a shell for it.
    pub(in crate::commands::worker) fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound(_) => 127,
            Self::NotExecutable(_) => 126,
        }
    }
}

/// What all slots run.
#[derive(Debug, Clone)]
pub(in crate::commands::worker) struct CommandSpec {
    program: PathBuf,
    arguments: Vec<OsString>,
    pool: String,
    /// Variables of its environment; those without a value are not in it.
    environment: Vec<(&'static str, Option<OsString>)>,
}

/// A process that was started.
pub(super) struct Spawned {
    pub(super) child: Child,
    /// The pipe by which it can say that it is ready.
    pub(super) ready: Receiver,
}

impl CommandSpec {
    /// `command` is the program and its arguments, `pool` what the program is told as its pool.
    pub(in crate::commands::worker) fn new(command: &[OsString], pool: String) -> Result<Self, NotRunnable> {
        let (program, arguments) =
            command.split_first().ok_or_else(|| NotRunnable::NotFound(String::new()))?;
        Ok(Self { program: find(program)?, arguments: arguments.to_vec(), pool, environment: Vec::new() })
    }

    /// The words of the command after the program's own.
    pub(in crate::commands::worker) fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    /// Where the program is.
    pub(in crate::commands::worker) fn program(&self) -> &Path {
        &self.program
    }

    /// Sets a variable of the environment, or takes it out.
    pub(in crate::commands::worker) fn set_variable(&mut self, name: &'static str, value: Option<OsString>) {
        self.environment.push((name, value));
    }

    /// Starts the program as the leader of a process group, with pipes.
    pub(super) fn spawn(&self, slot: usize) -> std::io::Result<Spawned> {
        self.spawn_with(slot, Stdio::piped())
    }

    /// The same with nothing to read on standard input.
    pub(super) fn spawn_without_input(&self, slot: usize) -> std::io::Result<Spawned> {
        self.spawn_with(slot, Stdio::null())
    }

    fn spawn_with(&self, slot: usize, stdin: Stdio) -> std::io::Result<Spawned> {
        let (ready, ready_writer) = pipe()?;
        let ready = Receiver::from_owned_fd(ready.into())?;
        // Its number stays valid in the child only if it is inherited. No other thread of this process starts one.
        fcntl_setfd(&ready_writer, FdFlags::empty())?;
        let child = self.command(slot, &ready_writer).stdin(stdin).spawn()?;
        Ok(Spawned { child, ready })
    }

    fn command(&self, slot: usize, ready: &PipeWriter) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("pilotlight")
            .arg(EXEC)
            .arg(std::process::id().to_string())
            .arg(ready.as_raw_fd().to_string())
            .arg(&self.program)
            .args(&self.arguments)
            .env("PILOTLIGHT_SLOT", slot.to_string())
            .env("PILOTLIGHT_POOL", &self.pool)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }
}

/// Finds a program as a shell does, so that one that is not there ends the worker at its start.
fn find(program: &OsString) -> Result<PathBuf, NotRunnable> {
    let shown = || Path::new(program).display().to_string();
    let is_executable =
        |path: &Path| path.is_file() && accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok();
    if program.as_encoded_bytes().contains(&b'/') {
        return match Path::new(program) {
            path if is_executable(path) => Ok(path.to_owned()),
            path if path.exists() => Err(NotRunnable::NotExecutable(shown())),
            _ => Err(NotRunnable::NotFound(shown())),
        };
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&folders).map(|folder| folder.join(program));
    found.find(|path| is_executable(path)).ok_or_else(|| NotRunnable::NotFound(shown()))
}

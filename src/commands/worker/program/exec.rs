//! Owns the step between the worker and its program: the new process binds its life to the worker, then runs the program.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// The first argument that makes this executable take this step. It is not a command for people, so that clap and the
/// settings have no part in it.
pub(in crate::commands) const EXEC: &str = "worker-exec";

/// The exit code of a shell for a program that cannot be run.
const CANNOT_RUN: u8 = 126;
/// The exit code of a shell for a program that is not there.
const NOT_FOUND: u8 = 127;

/// Takes the worker's process id, the descriptor by which the program can say that it is ready, the program, and its
/// arguments. Returns the exit code if the program cannot be run.
///
/// The kernel kills the program when the worker ends, however it ends. That can be asked only by the process itself, and what
/// runs between `fork` and `exec` in the worker would be unsafe code; this is a process of its own already.
pub(in crate::commands) fn exec(arguments: &[OsString]) -> u8 {
    let [worker, ready_fd, program, arguments @ ..] = arguments else { return CANNOT_RUN };
    let (Some(worker), Some(ready_fd)) = (number(worker), number(ready_fd)) else { return CANNOT_RUN };
    let bound = set_parent_process_death_signal(Some(Signal::KILL));
    // The worker may have ended before this process asked.
    if getppid().map(Pid::as_raw_pid) != Some(worker) {
        return CANNOT_RUN;
    }
    let ready_fd = bound.map_err(io::Error::from).and_then(|()| pass_on(ready_fd));
    let error = match ready_fd {
        Ok(fd) => Command::new(program).args(arguments).env("PILOTLIGHT_READY_FD", fd.to_string()).exec(),
        Err(error) => error,
    };
    // A program that ended and one that never ran must be told apart by whoever reads the log.
    let _ = writeln!(io::stderr(), "pilotlight: {} cannot be run: {error}", Path::new(program).display());
    if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN }
}

fn number(text: &OsString) -> Option<i32> {
    text.to_str()?.parse().ok()
}

/// Opens the inherited pipe once more: as the lowest free number, because some shells redirect to single digits only.
fn pass_on(ready_fd: i32) -> io::Result<i32> {
    let pipe = File::options().write(true).open(format!("/proc/self/fd/{ready_fd}"))?;
    fcntl_setfd(&pipe, FdFlags::empty())?;
    Ok(pipe.into_raw_fd())
}

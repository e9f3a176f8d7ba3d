//! Owns a program's process group, which is killed when this is dropped.

use rustix::process::{Pid, Signal, kill_process_group};

/// The processes that a program started and did not put into groups of their own, and the program itself.
#[derive(Debug)]
pub(super) struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    /// The group of a process that was started as the leader of one.
    pub(super) fn of(leader: Option<u32>) -> Self {
        Self(leader.and_then(|leader| Pid::from_raw(leader.try_into().ok()?)))
    }

    /// The process id of the leader, until the group was killed.
    pub(super) fn leader(&self) -> Option<Pid> {
        self.0
    }

    /// Sends a signal to all of them.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // An error means that none of them is left.
            let _ = kill_process_group(group, signal);
        }
    }

    /// Kills all of them. Afterwards the number may be another group's, so it is forgotten.
    pub(super) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.0 = None;
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}

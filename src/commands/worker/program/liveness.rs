//! Owns the question whether a process lives, for those who do not own it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Whether one process lives. A clone asks about the same process.
#[derive(Debug, Clone)]
pub(in crate::commands::worker) struct Liveness(Option<Arc<OwnedFd>>);

impl Liveness {
    /// Of a process that nobody has waited for yet. Without a descriptor for it (Linux before 5.3), it counts as alive.
    pub(in crate::commands::worker) fn of(process: Option<Pid>) -> Self {
        Self(process.and_then(|process| pidfd_open(process, PidfdFlags::empty()).ok()).map(Arc::new))
    }

    /// Whether it has ended, as far as is known without waiting.
    pub(in crate::commands::worker) fn has_ended(&self) -> bool {
        let Some(process) = &self.0 else { return false };
        let mut processes = [PollFd::new(process, PollFlags::IN)];
        matches!(poll(&mut processes, Some(&Timespec::default())), Ok(1..))
    }
}

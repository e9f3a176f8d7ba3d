//! Owns the look at memory: how much this process may take, how much it has taken, and so how much is left.
//!
//! Two limits count. What the process takes itself stays below `--memory-limit`, or four fifths of the machine's memory; what
//! its control group is charged stays below four fifths of the least limit on the group's path, because at all of it the
//! kernel kills. A group that this process has to itself is charged for it alone, the kernel's memory for sockets included:
//! then that charge is what the process takes; else it is what it has in memory.

mod group;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use group::Group;

use crate::allocator;

/// The share of a limit that is used before the broker says no.
const USUAL_SHARE: (u64, u64) = (4, 5);
/// Groups and their limits are looked up again after this time: a container can be resized while it runs.
const LOOK_UP_PACE: Duration = Duration::from_secs(1);
/// How often a thread gives its free memory back.
const GIVE_BACK_PACE: Duration = Duration::from_secs(1);

/// Bytes of memory, the kernel's for its sockets included, that the control group of this process may take.
pub fn container_limit() -> Option<u64> {
    Group::find(Path::new("/")).and_then(|group| group.limit)
}

/// Gives the free memory of this thread back to the system, for ever. What others have freed of it waits here as well: the
/// keeper frees what a serving thread took for a crowd, and only the thread that took it can give it back.
pub(super) async fn give_back() -> Infallible {
    loop {
        tokio::time::sleep(GIVE_BACK_PACE).await;
        allocator::purge();
    }
}

/// What limits this process's memory.
pub(super) struct Memory {
    /// Where `proc` is: the tests have trees of their own.
    root: PathBuf,
    asked_for: Option<u64>,
    /// Bytes of memory that the machine has.
    machine: Option<u64>,
    group: Option<Group>,
    looked_up: Instant,
}

impl Memory {
    /// With the limit that was asked for, in bytes, if one was.
    pub(super) fn new(asked_for: Option<u64>) -> Self {
        let memory = Self::below(Path::new("/"), asked_for, machine());
        let limit = memory.group.as_ref().and_then(|group| group.limit);
        if let (Some(asked_for), Some(limit)) = (asked_for, limit)
            && asked_for >= limit
        {
            tracing::warn!(
                asked_for,
                limit,
                "--memory-limit is not below the cgroup's limit, at which the kernel kills; four fifths of that count"
            );
        }
        memory
    }

    fn below(root: &Path, asked_for: Option<u64>, machine: Option<u64>) -> Self {
        let root = root.to_owned();
        Self { group: Group::find(&root), root, asked_for, machine, looked_up: Instant::now() }
    }

    /// Bytes that may still be taken; none where nothing is known to limit them.
    pub(super) fn left(&mut self) -> Option<u64> {
        if self.looked_up.elapsed() >= LOOK_UP_PACE {
            self.looked_up = Instant::now();
            self.group = Group::find(&self.root);
        }
        let charged = self.group.as_ref().and_then(Group::charged);
        let of_group = self.group.as_ref().and_then(|group| group.limit).map(|limit| self.before_kill(limit));
        let left_of_group = of_group.zip(charged).map(|(limit, charged)| limit.saturating_sub(charged));
        let own_charge = charged.filter(|_| self.group.as_ref().is_some_and(|group| group.is_own));
        let own = self.asked_for.or_else(|| self.machine.map(usual));
        let taken = own_charge.or_else(|| self.resident());
        let left_of_own = own.zip(taken).map(|(limit, taken)| limit.saturating_sub(taken));
        [left_of_group, left_of_own].into_iter().flatten().min()
    }

    /// What may be charged to a group with this limit. More than the usual share only if that was asked for.
    fn before_kill(&self, limit: u64) -> u64 {
        self.asked_for.filter(|&asked_for| asked_for < limit).unwrap_or(0).max(usual(limit))
    }

    /// Bytes that the process has in memory.
    fn resident(&self) -> Option<u64> {
        let pages = fs::read_to_string(self.root.join("proc/self/statm")).ok()?;
        let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }
}

/// Bytes of memory that the machine has. Asked of the kernel itself: a sandbox may hide most of `proc`.
#[cfg(target_os = "linux")]
fn machine() -> Option<u64> {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).checked_mul(info.mem_unit.into())
}

#[cfg(not(target_os = "linux"))]
fn machine() -> Option<u64> {
    None
}

fn usual(limit: u64) -> u64 {
    limit / USUAL_SHARE.1 * USUAL_SHARE.0
}

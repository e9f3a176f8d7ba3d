//! Owns measuring memory: how much this process may still use.
//!
//! Two limits apply. The process itself stays below `--memory-limit`, or four fifths of the machine's memory. Its cgroup stays
//! below four fifths of the lowest limit on the cgroup's path, because the kernel kills the process at the whole limit.
//!
//! If no other process is in the cgroup, the process's usage is what the cgroup is charged, which includes the kernel's memory
//! for sockets. Otherwise it is the resident set size.

mod cgroup;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgroup::Cgroup;

use crate::allocator;

/// The share of a limit that is used before the broker refuses requests.
const USABLE_SHARE: (u64, u64) = (4, 5);
/// So much is not used up within a second, by peers that connect or by bodies that are not read.
const AMPLE_BYTES: u64 = 1 << 30;
/// How often the cgroup and its limits are looked up: a container can be resized while it runs.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(1);
/// How often a thread returns its free memory to the system.
const PURGE_INTERVAL: Duration = Duration::from_secs(1);

/// The limit of this process's cgroup in bytes. It includes the kernel's memory for sockets.
pub fn container_limit() -> Option<u64> {
    Cgroup::find(Path::new("/")).and_then(|cgroup| cgroup.limit)
}

/// Returns the free memory of this thread to the system, at intervals. Only the thread that allocated memory can return it,
/// also if another thread has freed it: housekeeping frees memory of ended polls that serving threads allocated.
pub(super) async fn purge_periodically() -> Infallible {
    loop {
        tokio::time::sleep(PURGE_INTERVAL).await;
        allocator::purge();
    }
}

/// The memory that this process may use.
pub(super) struct MemoryBudget {
    /// The folder with `proc`; in tests a temporary one.
    root: PathBuf,
    /// `--memory-limit`, in bytes.
    configured: Option<u64>,
    /// The machine's memory, in bytes.
    machine: Option<u64>,
    cgroup: Option<Cgroup>,
    looked_up: Instant,
    /// Whether half of each budget, and at least [`AMPLE_BYTES`], was left at the last measurement.
    is_ample: bool,
}

impl MemoryBudget {
    /// With the limit of `--memory-limit`, in bytes.
    pub(super) fn new(configured: Option<u64>) -> Self {
        let budget = Self::in_root(Path::new("/"), configured, machine_memory());
        let limit = budget.cgroup.as_ref().and_then(|cgroup| cgroup.limit);
        if let (Some(asked_for), Some(limit)) = (configured, limit)
            && asked_for >= limit
        {
            tracing::warn!(
                asked_for,
                limit,
                "--memory-limit is not below the cgroup's limit, at which the kernel kills the process; four fifths of the cgroup's limit apply"
            );
        }
        budget
    }

    fn in_root(root: &Path, configured: Option<u64>, machine: Option<u64>) -> Self {
        let root = root.to_owned();
        let cgroup = Cgroup::find(&root);
        Self { root, configured, machine, cgroup, looked_up: Instant::now(), is_ample: false }
    }

    /// How many more bytes the process may use; `None` if no limit is known.
    pub(super) fn remaining(&mut self) -> Option<u64> {
        if self.looked_up.elapsed() >= LOOKUP_INTERVAL {
            self.looked_up = Instant::now();
            self.cgroup = Cgroup::find(&self.root);
        }
        let charged = self.cgroup.as_ref().and_then(Cgroup::charged);
        let limit = self.cgroup.as_ref().and_then(|cgroup| cgroup.limit);
        let cgroup_budget = limit.map(|limit| self.cgroup_budget(limit));
        let own_charge = charged.filter(|_| self.cgroup.as_ref().is_some_and(|cgroup| cgroup.is_exclusive));
        let own_budget = self.configured.or_else(|| self.machine.map(usable_share));
        let used = own_charge.or_else(|| self.resident());
        let budgets = [cgroup_budget.zip(charged), own_budget.zip(used)].into_iter().flatten();
        self.is_ample =
            budgets.clone().all(|(budget, used)| budget.saturating_sub(used) >= AMPLE_BYTES.max(budget / 2));
        budgets.map(|(budget, used)| budget.saturating_sub(used)).min()
    }

    /// Whether so much was left at the last measurement that the next one can wait.
    pub(super) fn is_ample(&self) -> bool {
        self.is_ample
    }

    /// The charge up to which a cgroup with this limit may be used: more than the usable share only if that is configured.
    fn cgroup_budget(&self, limit: u64) -> u64 {
        self.configured.filter(|&configured| configured < limit).unwrap_or(0).max(usable_share(limit))
    }

    /// The resident set size, in bytes.
    fn resident(&self) -> Option<u64> {
        let pages = fs::read_to_string(self.root.join("proc/self/statm")).ok()?;
        let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }
}

/// The machine's memory in bytes. It comes from a system call, because a sandbox may hide most of `proc`.
#[cfg(target_os = "linux")]
fn machine_memory() -> Option<u64> {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).checked_mul(info.mem_unit.into())
}

#[cfg(not(target_os = "linux"))]
fn machine_memory() -> Option<u64> {
    None
}

fn usable_share(limit: u64) -> u64 {
    limit / USABLE_SHARE.1 * USABLE_SHARE.0
}

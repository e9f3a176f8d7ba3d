//! Owns the look at the machine's memory: how much there is for this process, and how much it has taken.

use std::fs;

/// Of a container's memory, so much is used before the broker says no: it is killed at all of it.
const USUAL_SHARE: (u64, u64) = (4, 5);

/// The limit that follows from the control group that the process runs in; none if that has none.
pub(super) fn usual_limit() -> Option<u64> {
    container_limit().map(|bytes| bytes / USUAL_SHARE.1 * USUAL_SHARE.0)
}

/// Bytes of memory, the kernel's for its sockets included, that the control group of this process may take.
pub fn container_limit() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let limit = fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.max"));
    // In a container the root of the mount is the container's own group.
    let limit = limit.or_else(|_| fs::read_to_string("/sys/fs/cgroup/memory.max")).ok()?;
    limit.trim().parse().ok()
}

/// Bytes that the process has in memory now.
pub(super) fn resident() -> Option<u64> {
    let pages = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

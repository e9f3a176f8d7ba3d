//! Owns what a process has used: CPU time to the nanosecond, and the most memory that was resident.

use std::time::Duration;

use anyhow::Context;

/// The CPU time of a process's threads. Those of `stat` are rounded to hundredths of a second, which is too coarse for few callers.
pub(super) fn cpu(process: u32) -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may have ended meanwhile.
        let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanoseconds += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// The most resident bytes of a process so far.
pub(super) fn peak_resident(process: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.split_whitespace().next().context("no VmHWM")?.parse::<u64>()? * 1024)
}

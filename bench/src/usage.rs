//! Owns what a process has used: CPU time to the nanosecond, and memory.

use std::time::Duration;

use anyhow::Context;

/// The CPU time of a process's threads. Those of `stat` are rounded to hundredths of a second, which is too coarse for few callers.
pub(crate) fn cpu(process: u32) -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may have ended meanwhile.
        let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanoseconds += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// The most resident bytes of a process so far.
pub(crate) fn peak_resident(process: u32) -> anyhow::Result<u64> {
    kilobytes(&format!("/proc/{process}/status"), "VmHWM:")
}

/// The bytes that a process has written and shares with no other, which is what one process more costs.
pub(crate) fn private_dirty(process: u32) -> anyhow::Result<u64> {
    kilobytes(&format!("/proc/{process}/smaps_rollup"), "Private_Dirty:")
}

/// The bytes of a line that has kilobytes.
fn kilobytes(path: &str, name: &str) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(path)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    Ok(value.with_context(|| format!("no {name} in {path}"))?.parse::<u64>()? * 1024)
}

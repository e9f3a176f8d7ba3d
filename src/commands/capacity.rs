//! Owns the capacity report of `pilotlight check`: how many polls this machine can hold, and which of its limits is lowest.

use std::fmt::Write;
use std::fs;

use crate::server::{BACKLOG, container_limit};

/// Kernel memory that a held poll's socket takes, in bytes (measured on Linux 6).
const KERNEL_BYTES: u64 = 4900;
/// Broker memory that a held poll takes, in bytes (measured, `bench/REPORT.md`).
const BROKER_BYTES: u64 = 1024;
/// The share of a container's memory that polls may take, in percent: a container that uses all of it is killed.
const CONTAINER_PERCENT: u64 = 70;

/// Reads the limits of the kernel and the container. `waiters` is the limit that the broker's settings and its open files set.
pub(super) fn report(open_files: u64, waiters: usize) -> String {
    let mut text = String::from("\nthis machine:\n");
    let mut line = |name: &str, value: Option<u64>, meaning: String| {
        let value = value.map_or_else(|| "?".to_owned(), |value| value.to_string());
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{name:<28} {value:<10} {meaning}");
    };
    line("open files", Some(open_files), format!("{waiters} held polls, given --max-waiters"));
    let nr_open = number("/proc/sys/fs/nr_open");
    line("fs.nr_open", nr_open, "the highest possible LimitNOFILE".to_owned());
    let somaxconn = number("/proc/sys/net/core/somaxconn");
    line("net.core.somaxconn", somaxconn, queue(somaxconn, "queue of new connections"));
    let syn = number("/proc/sys/net/ipv4/tcp_max_syn_backlog");
    line("net.ipv4.tcp_max_syn_backlog", syn, queue(syn, "queue of handshakes"));
    let tcp_pages = fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").ok();
    let tcp_pages = tcp_pages.and_then(|text| text.split_whitespace().nth(2)?.parse::<u64>().ok());
    line("net.ipv4.tcp_mem (most)", tcp_pages, "pages for socket buffers".to_owned());
    let tracked = number("/proc/sys/net/netfilter/nf_conntrack_max");
    if tracked.is_some() {
        line("nf_conntrack_max", tracked, "connections that a firewall can track".to_owned());
    }
    let mut capacity = waiters as u64;
    let mut memory = |name: &str, bytes: Option<u64>, percent: u64| {
        let Some(bytes) = bytes else { return };
        let polls = bytes / 100 * percent / (KERNEL_BYTES + BROKER_BYTES);
        line(name, Some(bytes >> 20), format!("enough for {polls} held polls"));
        capacity = capacity.min(polls);
    };
    memory("available memory (MiB)", available_memory(), 100);
    memory("this cgroup's limit (MiB)", container_limit(), CONTAINER_PERCENT);
    let _ = writeln!(text, "\nthis machine can hold {capacity} polls; see deploy/sysctl.md to raise that");
    text
}

/// After a restart all controllers reconnect at once, which needs these queues.
fn queue(value: Option<u64>, what: &str) -> String {
    if value.is_some_and(|value| value < u64::from(BACKLOG)) {
        format!("{what}: too short\n{:<39} for a restart; raise it to at least {BACKLOG}", "")
    } else {
        what.to_owned()
    }
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_is_too_short_for_a_restart_is_reported_within_80_columns() {
        assert_eq!(queue(Some(BACKLOG.into()), "queue of new connections"), "queue of new connections");
        let text = queue(Some(128), "queue of new connections");
        assert!(text.contains("raise it to at least 4096"), "{text}");
        // The first 40 columns are the name and the value.
        assert!(
            text.lines().next().unwrap_or_default().len() <= 40 && text.lines().all(|line| line.len() <= 80)
        );
    }
}

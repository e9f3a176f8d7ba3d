//! Owns what the kernel's settings allow: how many polls this machine can hold, and which setting is in the way.

use std::fmt::Write;
use std::fs;

use crate::server::{BACKLOG, container_limit};

/// What a held poll takes of the kernel's memory for its socket, in bytes (measured, Linux 6).
const KERNEL_BYTES: u64 = 4900;
/// What a held poll takes of the broker's memory, in bytes (measured, `bench/REPORT.md`).
const BROKER_BYTES: u64 = 1024;
/// What of a container's memory may be polls, in percent: at all of it the container is killed.
const OF_A_CONTAINER: u64 = 70;

/// Reads the settings and sums up. `waiters` is what the limits of the broker and its open files leave.
pub(super) fn sum_up(open_files: u64, waiters: usize) -> String {
    let mut text = String::from("\nthe machine:\n");
    let mut line = |name: &str, value: Option<u64>, meaning: String| {
        let value = value.map_or_else(|| "?".to_owned(), |value| value.to_string());
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{name:<28} {value:<10} {meaning}");
    };
    line("open files", Some(open_files), format!("{waiters} held polls, with --max-waiters"));
    let nr_open = number("/proc/sys/fs/nr_open");
    line("fs.nr_open", nr_open, "what LimitNOFILE can be raised to".to_owned());
    let somaxconn = number("/proc/sys/net/core/somaxconn");
    line("net.core.somaxconn", somaxconn, for_restarts(somaxconn, "connections to accept"));
    let syn = number("/proc/sys/net/ipv4/tcp_max_syn_backlog");
    line("net.ipv4.tcp_max_syn_backlog", syn, for_restarts(syn, "connections being made"));
    let tcp_pages = fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").ok();
    let tcp_pages = tcp_pages.and_then(|text| text.split_whitespace().nth(2)?.parse::<u64>().ok());
    line("net.ipv4.tcp_mem (most)", tcp_pages, "pages for what sockets buffer".to_owned());
    let tracked = number("/proc/sys/net/netfilter/nf_conntrack_max");
    if tracked.is_some() {
        line("nf_conntrack_max", tracked, "connections, if a firewall tracks them".to_owned());
    }
    let mut holds = waiters as u64;
    let mut memory = |name: &str, bytes: Option<u64>, percent: u64| {
        let Some(bytes) = bytes else { return };
        let polls = bytes / 100 * percent / (KERNEL_BYTES + BROKER_BYTES);
        line(name, Some(bytes >> 20), format!("room for {polls} held polls"));
        holds = holds.min(polls);
    };
    memory("available memory (MiB)", available_memory(), 100);
    memory("this cgroup's limit (MiB)", container_limit(), OF_A_CONTAINER);
    let _ = writeln!(text, "\nthis machine can hold {holds} polls; deploy/sysctl.md says how to raise it");
    text
}

fn for_restarts(value: Option<u64>, what: &str) -> String {
    if value.is_some_and(|value| value < u64::from(BACKLOG)) {
        format!("{what}: too few after\n{:<39} a restart; raise it to {BACKLOG} at least", "")
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
    fn what_is_too_low_for_restarts_is_said_within_80_columns() {
        assert_eq!(for_restarts(Some(BACKLOG.into()), "connections to accept"), "connections to accept");
        let said = for_restarts(Some(128), "connections to accept");
        assert!(said.contains("raise it to 4096"), "{said}");
        // The name and the value stand before it.
        assert!(
            said.lines().next().unwrap_or_default().len() <= 40 && said.lines().all(|line| line.len() <= 80)
        );
    }
}

//! Owns the network namespace that a test runs in where it can drop packets without harm.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{anyhow, ensure};

/// Why no namespace can be made here; `None` if one can.
pub(crate) fn obstacle() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("namespaces need root");
    }
    if !succeeds(&["iptables", "--version"]) || !succeeds(&["ip", "-V"]) {
        return Some("iptables or ip is not installed");
    }
    (!succeeds(&["unshare", "--net", "ip", "link", "set", "lo", "up"]))
        .then_some("this machine makes no namespace")
}

/// Runs this program again in a new network namespace, with one more argument. Returns only if it cannot.
pub(crate) fn run_again(argument: &str) -> anyhow::Error {
    let Ok(program) = std::env::current_exe() else { return anyhow!("this program has no path") };
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]).arg(program);
    command.args(std::env::args_os().skip(1)).arg(argument).exec().into()
}

/// Whether packets between a broker and nats-server are dropped, in both directions.
pub(crate) fn set_partition(nats: (Ipv4Addr, u16), is_cut: bool) -> anyhow::Result<()> {
    let (address, port) = (nats.0.to_string(), nats.1.to_string());
    let action = if is_cut { "-A" } else { "-D" };
    for (host, ports) in [("-d", "--dport"), ("-s", "--sport")] {
        let rule = ["iptables", "-w", action, "INPUT", "-i", "lo", "-p", "tcp", host, &address, ports, &port];
        ensure!(succeeds(&[&rule[..], &["-j", "DROP"]].concat()), "iptables changes no rule");
    }
    Ok(())
}

fn succeeds(command: &[&str]) -> bool {
    let mut process = Command::new(command[0]);
    process.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    process.status().is_ok_and(|status| status.success())
}

//! Owns the description of the machine and the versions.

use std::path::Path;

use pilotlight_bench::implementation::peers_folder;

use super::peers::version;

/// The description as the lines of a list, with the versions of what the peers run on.
pub(super) fn describe(ready: &[&'static str]) -> anyhow::Result<String> {
    let bin = peers_folder().join("node_modules/.bin");
    let versions = [
        ("node", version(&bin.join("node"), &["--version"])),
        ("bun", version(&bin.join("bun"), &["--version"])),
        ("go", version(Path::new("go"), &["version"])),
    ];
    describe_with(&versions.map(|(name, version)| format!("{name}: {version}")), ready)
}

/// The same with these versions.
pub(super) fn describe_with(versions: &[String], ready: &[&'static str]) -> anyhow::Result<String> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = cpus.matches("processor\t").count();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let memory =
        memory.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1024 / 1024;
    let control = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
    // Cargo names the folder of its programs after the profile, so that the report shows if another than `dist` was measured.
    let program = std::env::current_exe()?;
    let profile = program.parent().and_then(Path::file_name).unwrap_or_default().display();
    let own = [
        format!("pilotlight: {}, profile {profile}", env!("CARGO_PKG_VERSION")),
        format!("rustc: {}", version(Path::new("rustc"), &["--version"])),
    ];
    Ok(format!(
        "- {cores} cores{}, {memory} GiB, Linux {}, TCP {}; the server pinned to one core, the load to the others.\n\
         - {}.\n- Peers: {}.\n",
        model.replace('\t', "").replace(':', ","),
        kernel.trim(),
        control.trim(),
        [&own, versions].concat().join("; "),
        ready.join(", "),
    ))
}

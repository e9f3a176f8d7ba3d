//! Owns what counts depend on besides the source: the compiler, valgrind, and the CPU's features, by which libraries choose
//! their code.

use std::fs;
use std::process::Command;

/// The features by which memchr, memcpy and simd-json choose their code, as Linux names them.
const FEATURES: [&str; 12] = [
    "ssse3", "sse4_2", "popcnt", "avx", "avx2", "bmi1", "bmi2", "erms", "fsrm", "avx512f", "avx512bw",
    "asimd",
];

/// The conditions of a count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conditions {
    /// The compiler's version.
    pub rustc: String,
    /// Valgrind's version.
    pub valgrind: String,
    /// Those of the CPU's features that matter, separated by spaces.
    pub cpu_features: String,
}

impl Conditions {
    /// Those of this machine.
    pub fn here() -> anyhow::Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let line = cpus.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
        let flags: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        let features: Vec<&str> = FEATURES.into_iter().filter(|feature| flags.contains(feature)).collect();
        Ok(Self {
            rustc: first_line("rustc")?,
            valgrind: first_line("valgrind")?,
            cpu_features: features.join(" "),
        })
    }
}

fn first_line(program: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg("--version").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

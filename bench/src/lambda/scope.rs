//! Owns how much is measured of functions.

use std::path::PathBuf;

use clap::Args;

/// How much is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct LambdaScope {
    /// Rounds, in each of which all servers have their turn
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Seconds that are measured of each load in each round, after a warm-up of 1 s
    #[arg(long, default_value_t = 4.0)]
    pub(crate) seconds: f64,
    /// The folder with the stock runtime clients, which `tests/run` installs
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/lambda"))]
    pub(crate) clients: PathBuf,
    /// Measures only servers whose name contains this
    #[arg(long)]
    pub(crate) only: Option<String>,
    /// Replaces this part of REPORT.md, and its plots
    #[arg(long, conflicts_with = "only")]
    pub(crate) write: bool,
}

//! Owns how much is measured of streamed answers.

use std::time::Duration;

use clap::Args;

/// How much is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct StreamScope {
    /// Rounds, in each of which all servers have their turn
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Seconds with a few callers
    #[arg(long, default_value_t = 6.0)]
    pub(crate) few: f64,
    /// Seconds in which callers become many and leave again
    #[arg(long, default_value_t = 9.0)]
    pub(crate) ramp: f64,
    /// Seconds with all callers
    #[arg(long, default_value_t = 20.0)]
    pub(crate) all: f64,
    /// Workers of pilotlight
    #[arg(long, default_value_t = MANY)]
    pub(crate) workers: usize,
    /// Tokens of each answer
    #[arg(long, default_value_t = 25)]
    pub(crate) tokens: u32,
    /// Milliseconds between two tokens
    #[arg(long, default_value_t = 20.0)]
    pub(crate) delay: f64,
    /// Answers that are open at once, for their memory
    #[arg(long, default_value_t = 1000)]
    pub(crate) open: usize,
    /// Bytes of the large answer
    #[arg(long, default_value_t = 1 << 30)]
    pub(crate) large: u64,
    /// Measures the phases or the memory alone
    #[arg(long)]
    pub(crate) part: Option<Part>,
    /// Measures only servers whose name contains this
    #[arg(long)]
    pub(crate) only: Option<String>,
    /// Replaces this part of REPORT.md, and its plots
    #[arg(long, conflicts_with_all = ["only", "part"])]
    pub(crate) write: bool,
}

/// A part of what is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    Phases,
    Memory,
}

/// The callers at the beginning, in the middle of the ramp, and at most.
pub(super) const FEW: usize = 10;
pub(super) const MORE: usize = 100;
pub(super) const MANY: usize = 200;

impl StreamScope {
    pub(super) fn delay(&self) -> Duration {
        Duration::from_secs_f64(self.delay / 1e3)
    }
}

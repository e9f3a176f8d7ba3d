//! Owns how much the report measures.

use clap::Args;

/// How much is measured.
#[derive(Debug, Clone)]
pub(super) struct ReportScope {
    pub(super) full: bool,
    pub(super) rounds: usize,
    pub(super) seconds: f64,
    pub(super) held_counts: Vec<usize>,
    pub(super) churn: usize,
    /// The number of brokers of the crowd that is larger than one process's limit of descriptors, and the polls on each.
    pub(super) beyond: Option<(usize, usize)>,
    pub(super) sessions: SessionScope,
}

/// How much is measured of sessions.
#[derive(Debug, Clone, Args)]
pub(crate) struct SessionScope {
    /// Rounds, in each of which all have their turn
    #[arg(long, default_value_t = 5)]
    pub(super) rounds: usize,
    /// Seconds that are measured of each load in each round, after a warm-up of 1.5 s
    #[arg(long, default_value_t = 3.0)]
    pub(super) seconds: f64,
    /// Sessions that only wait, for their memory
    #[arg(long, default_value_t = 19_000)]
    pub(super) held: usize,
    /// Rounds of those
    #[arg(long, default_value_t = 3)]
    pub(super) hold_rounds: usize,
    /// Measures only those whose name contains this
    #[arg(long)]
    pub(super) only: Option<String>,
    /// Replaces this part of REPORT.md, and its plots
    #[arg(long, conflicts_with = "only")]
    pub(super) write: bool,
}

impl ReportScope {
    pub(super) fn quick() -> Self {
        Self {
            full: false,
            rounds: 2,
            seconds: 1.0,
            held_counts: vec![2_000, 10_000],
            churn: 20_000,
            beyond: None,
            sessions: SessionScope {
                rounds: 1,
                seconds: 1.0,
                held: 5_000,
                hold_rounds: 1,
                only: None,
                write: false,
            },
        }
    }

    pub(super) fn full() -> Self {
        Self {
            full: true,
            rounds: 5,
            seconds: 3.0,
            held_counts: vec![1_000, 5_000, 10_000, 19_000],
            churn: 1_000_000,
            beyond: Some((6, 16_700)),
            sessions: SessionScope {
                rounds: 5,
                seconds: 3.0,
                held: 19_000,
                hold_rounds: 3,
                only: None,
                write: false,
            },
        }
    }
}

//! Owns how much the report measures.

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
        }
    }
}

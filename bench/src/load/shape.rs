//! Owns the shape of a load: the numbers of its participants, and its length.

use clap::Args;

/// The shape of a load.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadShape {
    #[arg(long, default_value_t = 500)]
    pub(crate) controllers: usize,
    #[arg(long, default_value_t = 50)]
    pub(crate) supervisors: usize,
    #[arg(long, default_value_t = 10)]
    pub(crate) pools: usize,
    /// Seconds that are measured, after a warm-up of 1.5 s
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
}

impl LoadShape {
    /// The load of the published comparisons, for this many seconds.
    pub(crate) fn standard(seconds: f64) -> Self {
        Self { controllers: 500, supervisors: 50, pools: 10, seconds }
    }
}

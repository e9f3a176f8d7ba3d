//! Owns what a load consists of.

use clap::Args;

/// What the load is made of.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadShape {
    #[arg(long, default_value_t = 500)]
    pub(crate) controllers: usize,
    #[arg(long, default_value_t = 50)]
    pub(crate) supervisors: usize,
    #[arg(long, default_value_t = 10)]
    pub(crate) pools: usize,
    /// Seconds that are counted, after one and a half that are not
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
}

impl LoadShape {
    /// The load of the published comparisons, for so many seconds.
    pub(crate) fn standard(seconds: f64) -> Self {
        Self { controllers: 500, supervisors: 50, pools: 10, seconds }
    }
}

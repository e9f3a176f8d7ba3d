//! Owns the metrics of replies. A dispatch that asks for none touches none of them.

use prometheus::IntGauge;

use super::factory::MetricFactory;
use super::labels::ReplyByte;
use super::per_thread::{Counters, Histograms};
use crate::model::ReplyOutcome;

/// Up to the longest wait for a reply's first byte that is allowed by default.
const SECONDS_BUCKETS: [f64; 18] = [
    1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0,
    300.0, 900.0,
];
const BYTES_BUCKETS: [f64; 9] =
    [256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 16_777_216.0, 268_435_456.0];

/// The metrics of replies.
pub(super) struct ReplyMetrics {
    pub(super) open: IntGauge,
    pub(super) ended: Counters<ReplyOutcome>,
    pub(super) seconds: Histograms<ReplyByte>,
    pub(super) bytes: Histograms<()>,
}

impl ReplyMetrics {
    pub(super) fn new(make: &mut MetricFactory<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            open: make.gauge("replies_open", "Runs that were handed over, and whose reply has not ended.")?,
            ended: make.counters(
                &["outcome"],
                "replies_total",
                "Runs posted that ask for a reply, by how they ended.",
            )?,
            seconds: make.histograms(
                &["byte"],
                "reply_seconds",
                "From a POST's last byte to the first or the last byte of its reply.",
                &SECONDS_BUCKETS,
            )?,
            bytes: make.histogram("reply_bytes", "Size of the replies.", &BYTES_BUCKETS)?,
        })
    }
}

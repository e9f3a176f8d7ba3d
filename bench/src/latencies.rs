//! Owns the times that callers measure, and their percentiles.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Times up to a minute, to a tenth of a microsecond or a thousandth of each.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, 600_000_000, 3)?))
    }

    pub(crate) fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos() / 100).unwrap_or(u64::MAX));
    }

    /// In microseconds.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64 / 10.0
    }

    /// How many were recorded.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(crate) fn count(&self) -> f64 {
        self.0.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut latencies = Latencies::new().unwrap();
        (1..=100).for_each(|micros| latencies.record(Duration::from_micros(micros)));
        latencies.record(Duration::from_secs(3600));
        assert!((latencies.percentile(50.0) - 51.0).abs() < 0.11, "{}", latencies.percentile(50.0));
        assert!((latencies.percentile(100.0) - 60e6).abs() < 1e5, "{}", latencies.percentile(100.0));
        assert!((latencies.count() - 101.0).abs() < f64::EPSILON);
    }
}

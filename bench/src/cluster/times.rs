//! Owns the times of POSTs, in milliseconds.

/// Times, which are kept all.
#[derive(Debug, Clone, Default)]
pub(super) struct Times(Vec<f64>);

impl Times {
    pub(super) fn record(&mut self, millis: f64) {
        self.0.push(millis);
    }

    pub(super) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// A percentile; NaN without times.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a position in a list of thousands"
    )]
    pub(super) fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let place = (sorted.len() as f64 * percent / 100.0) as usize;
        sorted.get(place.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }

    /// Those above a bound, in the order of their POSTs.
    pub(super) fn above(&self, bound: f64) -> Vec<f64> {
        self.0.iter().copied().filter(|millis| *millis > bound).collect()
    }

    pub(super) fn text(&self) -> String {
        let at = |percent| self.percentile(percent);
        format!("p50 {:.3} ms, p99 {:.3} ms, max {:.3} ms of {}", at(50.0), at(99.0), at(100.0), self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_times() {
        let mut times = Times::default();
        for number in (1..=100).rev() {
            times.record(f64::from(number));
        }
        for (percent, expected) in [(0.0, 1.0), (50.0, 51.0), (99.0, 100.0), (100.0, 100.0)] {
            let found = times.percentile(percent);
            assert!((found - expected).abs() < 0.1, "{percent} %: {found}");
        }
        assert_eq!(times.above(98.5).len(), 2);
    }
}

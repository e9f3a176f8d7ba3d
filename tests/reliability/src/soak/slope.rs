//! Owns the slope of a fluctuating series: least squares over block means, with a confidence interval.
//!
//! Samples a second apart are correlated, so an interval computed from all of them would be far too narrow. They are averaged
//! in blocks of [`BLOCK`] seconds, `n` of them, and a line is fitted to the means:
//!
//! ```text
//! b  = Σ(x−x̄)(y−ȳ) / Σ(x−x̄)²          s² = Σ(y − ȳ − b(x−x̄))² / (n−2)
//! r  = max(0, lag-1 autocorrelation of the residuals)
//! b ± t(0.975, n−2) · √(s² / Σ(x−x̄)²) · √((1+r)/(1−r))
//! ```
//! The last factor corrects for the correlation that remains between blocks.

/// Seconds in a block; fewer, where that would make fewer than eight of them. The broker remembers runs by generations of a
/// minute, so its memory is a sawtooth with a period of a little more than a minute. With shorter blocks, the drift between
/// that period and the blocks would look like growth.
pub(super) const BLOCK: f64 = 120.0;

/// The least number of blocks.
const BLOCKS: f64 = 8.0;

/// A slope per hour, and half the width of its 95 % confidence interval.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slope {
    pub(super) per_hour: f64,
    pub(super) bound: f64,
    pub(super) blocks: usize,
    /// Seconds in each.
    pub(super) block: f64,
}

/// Fits samples of (seconds, value), a second apart. `None` if there are too few.
pub(super) fn fit(samples: &[(f64, f64)]) -> Option<Slope> {
    let length = samples.last()?.0 - samples.first()?.0;
    let block = BLOCK.min(length / BLOCKS);
    let means = means(samples, block);
    if means.len() < 4 || block < 2.0 {
        return None;
    }
    let n = means.iter().map(|_| 1.0).sum::<f64>();
    let x_mean = means.iter().map(|(x, _)| x).sum::<f64>() / n;
    let y_mean = means.iter().map(|(_, y)| y).sum::<f64>() / n;
    let spread: f64 = means.iter().map(|(x, _)| (x - x_mean).powi(2)).sum();
    let slope = means.iter().map(|(x, y)| (x - x_mean) * (y - y_mean)).sum::<f64>() / spread;
    let residuals: Vec<f64> = means.iter().map(|(x, y)| y - y_mean - slope * (x - x_mean)).collect();
    let squares: f64 = residuals.iter().map(|residual| residual.powi(2)).sum();
    let lagged: f64 = residuals.windows(2).map(|pair| pair[0] * pair[1]).sum();
    let alike = if squares > 0.0 { (lagged / squares).clamp(0.0, 0.95) } else { 0.0 };
    let error = (squares / (n - 2.0) / spread).sqrt() * ((1.0 + alike) / (1.0 - alike)).sqrt();
    Some(Slope {
        per_hour: slope * 3600.0,
        bound: t_975(n - 2.0) * error * 3600.0,
        blocks: means.len(),
        block,
    })
}

/// The means of complete blocks. A short one at the end would have the same weight as the others.
fn means(samples: &[(f64, f64)], block: f64) -> Vec<(f64, f64)> {
    let Some((first, _)) = samples.first() else { return Vec::new() };
    let mut means = Vec::new();
    let (mut begin, mut sums) = (*first, (0.0, 0.0, 0.0));
    for (x, y) in samples {
        if x - begin >= block {
            means.push((sums.0 / sums.2, sums.1 / sums.2));
            (begin, sums) = (*x, (0.0, 0.0, 0.0));
        }
        sums = (sums.0 + x, sums.1 + y, sums.2 + 1.0);
    }
    means
}

/// The 97.5th percentile of Student's distribution: from a table where the expansion is not precise enough.
fn t_975(freedom: f64) -> f64 {
    const FEW: [(f64, f64); 4] = [(1.0, 12.706), (2.0, 4.303), (3.0, 3.182), (4.0, 2.776)];
    if let Some((_, few)) = FEW.iter().find(|(place, _)| freedom < place + 0.5) {
        return *few;
    }
    // Cornish and Fisher's expansion around the normal distribution's.
    let z: f64 = 1.959_964;
    let terms = [
        (z.powi(3) + z) / 4.0,
        (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0,
        (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0,
    ];
    z + terms[0] / freedom + terms[1] / freedom.powi(2) + terms[2] / freedom.powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples a second apart, each the sum of this much of the same noise and of its own.
    fn series(seed: u64, alike: f64, per_hour: f64) -> Vec<(f64, f64)> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut noise = 0.0;
        let seconds = (0..1200).map(f64::from);
        seconds
            .map(|second| {
                noise = noise * alike + rng.f64() - 0.5;
                (second, second / 3600.0 * per_hour + noise)
            })
            .collect()
    }

    #[test]
    fn students_percentiles_are_those_of_the_tables() {
        for (freedom, expected) in [(1.0, 12.706), (3.0, 3.182), (5.0, 2.571), (10.0, 2.228), (38.0, 2.024)] {
            assert!((t_975(freedom) - expected).abs() < 0.005, "{freedom}: {}", t_975(freedom));
        }
    }

    #[test]
    fn growth_is_found_and_its_absence_too() {
        let flat = fit(&series(1, 0.5, 0.0)).unwrap();
        assert!(flat.per_hour.abs() < flat.bound && flat.blocks == 9, "{flat:?}");
        let grows = fit(&series(1, 0.5, 2.0)).unwrap();
        assert!((grows.per_hour - 2.0).abs() < grows.bound && grows.bound < 1.0, "{grows:?}");
        assert!(fit(&series(1, 0.5, 2.0)[..15]).is_none());
    }

    #[test]
    fn a_bound_holds_about_as_often_as_it_says_also_for_samples_that_resemble_each_other() {
        for alike in [0.0, 0.8, 0.95] {
            let slopes = (0..500).filter_map(|seed| fit(&series(seed, alike, 0.0)));
            let held = slopes.filter(|slope| slope.per_hour.abs() < slope.bound).count();
            assert!(held > 460, "{held} of 500 intervals with a correlation of {alike}");
        }
    }
}

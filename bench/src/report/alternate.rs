//! Owns the order of measurements: all subjects have their turn in each round, so that a noisy minute affects all of them alike.

use pilotlight_bench::stdout::print;

use super::results::Series;
use crate::load::Measurement;

/// Measures each of the names' places in each round.
pub(super) fn alternate(
    rounds: usize,
    what: &str,
    names: &[&'static str],
    measure: impl Fn(usize) -> anyhow::Result<Measurement>,
) -> anyhow::Result<Vec<Series>> {
    let mut all: Vec<Series> = names.iter().map(|&name| Series { name, rounds: Vec::new() }).collect();
    for round in 1..=rounds {
        print(&format!("{what}, round {round} of {rounds}\n"));
        for (place, series) in all.iter_mut().enumerate() {
            let figures = measure(place)?;
            print(&format!("  {}", figures.line(series.name)));
            series.rounds.push(figures);
        }
    }
    Ok(all)
}

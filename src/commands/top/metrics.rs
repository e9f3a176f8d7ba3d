//! Owns reading a broker's metrics, in Prometheus' text format.

use std::collections::HashMap;

/// The values of one look, by the name of the series with its labels, as they are printed.
#[derive(Debug, Clone, Default)]
pub(super) struct Metrics(HashMap<String, f64>);

impl Metrics {
    /// Reads what can be read: a line that is something else is left out.
    pub(super) fn parse(text: &str) -> Self {
        let series = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(series).collect())
    }

    /// The value of a series; 0 if there is none.
    pub(super) fn value(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or_default()
    }

    /// The series of a metric: the text between its braces, and the value.
    pub(super) fn of<'a>(&'a self, metric: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.iter().filter_map(move |(series, value)| {
            let labels = series.strip_prefix(metric)?.strip_prefix('{')?.strip_suffix('}')?;
            Some((labels, *value))
        })
    }

    /// The buckets of a histogram, summed over all series with this label or, without one, over all: bounds and counts up to
    /// there.
    pub(super) fn buckets(&self, histogram: &str, label: &str) -> Vec<(f64, f64)> {
        let metric = format!("{histogram}_bucket");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (labels, count) in self.of(&metric).filter(|(labels, _)| labels.contains(label)) {
            let Some(bound) = value_of(labels, "le").and_then(|bound| bound.parse().ok()) else { continue };
            match buckets.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((bound, count)),
            }
        }
        buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        buckets
    }
}

/// The value of a label. The broker's own labels have no quotes or commas in their values.
pub(super) fn value_of<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value.trim_matches('"'))
}

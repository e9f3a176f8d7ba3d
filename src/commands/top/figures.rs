//! Owns the figures that are computed from a broker's metrics at two times.

use std::time::Duration;

use super::metrics::{Metrics, value_of};

/// What is shown of a broker.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) version: String,
    pub(super) is_draining: bool,
    /// In seconds since 1970.
    pub(super) started: f64,
    pub(super) resident_bytes: f64,
    /// Of one CPU.
    pub(super) cpu_percent: f64,
    pub(super) pools: f64,
    /// The transports and how many wait there.
    pub(super) waiters: Vec<(String, f64)>,
    /// Per second.
    pub(super) dispatches: f64,
    pub(super) hits: f64,
    pub(super) missed: f64,
    /// The reasons that occurred, and how often per second; the most frequent first.
    pub(super) misses: Vec<(String, f64)>,
    /// Refused and aborted.
    pub(super) others: f64,
    /// The median and the 99th percentile, in seconds; none if nothing was delivered.
    pub(super) delivery: Option<[f64; 2]>,
    /// How many replies are open, and how many of each outcome there were per second; none if the broker has no replies.
    pub(super) replies: Option<(f64, Vec<(String, f64)>)>,
}

impl Figures {
    /// The state of the second time, and the rates and times of what happened between both.
    pub(super) fn between(first: &Metrics, last: &Metrics, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64();
        // At the first look nothing has happened yet. A counter never falls while the process is the same.
        let per_second = |series: &str| {
            if seconds > 0.0 { (last.value(series) - first.value(series)).max(0.0) / seconds } else { 0.0 }
        };
        let rates = |metric: &str, label: &str, filter: &str| {
            let series = last.of(metric).filter(|(labels, _)| labels.contains(filter));
            let named = series.filter_map(|(labels, _)| {
                let rate = per_second(&format!("{metric}{{{labels}}}"));
                Some((value_of(labels, label)?.to_owned(), rate))
            });
            sorted(named.filter(|(_, rate)| *rate > 0.0).collect())
        };
        let by_outcome = rates("pilotlight_dispatches_total", "outcome", "reason=\"none\"");
        let of = |name: &str| sum(by_outcome.iter().filter(|(known, _)| known == name));
        let misses = rates("pilotlight_dispatches_total", "reason", "outcome=\"miss\"");
        let (hits, others, missed) = (of("hit"), of("refused") + of("aborted"), sum(misses.iter()));
        let mut waiters: Vec<_> = last
            .of("pilotlight_waiters")
            .filter_map(|(labels, count)| Some((value_of(labels, "transport")?.to_owned(), count)))
            .collect();
        waiters.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut info = last.of("pilotlight_build_info");
        let version = info.next().and_then(|(labels, _)| value_of(labels, "version")).unwrap_or_default();
        let has_replies = last.of("pilotlight_replies_total").next().is_some();
        let replies = has_replies.then(|| {
            (last.value("pilotlight_replies_open"), rates("pilotlight_replies_total", "outcome", ""))
        });
        Self {
            version: version.to_owned(),
            is_draining: last.value("pilotlight_draining") > 0.0,
            started: last.value("process_start_time_seconds"),
            resident_bytes: last.value("process_resident_memory_bytes"),
            cpu_percent: per_second("process_cpu_seconds_total") * 100.0,
            pools: last.value("pilotlight_pools"),
            waiters,
            dispatches: hits + others + missed,
            hits,
            missed,
            misses,
            others,
            delivery: delivery(first, last),
            replies,
        }
    }
}

/// The standard library's sum of nothing is -0.
fn sum<'a>(values: impl Iterator<Item = &'a (String, f64)>) -> f64 {
    values.fold(0.0, |sum, (_, value)| sum + value)
}

/// The most frequent first.
fn sorted(mut rates: Vec<(String, f64)>) -> Vec<(String, f64)> {
    rates.sort_by(|(one, rate), (other, other_rate)| other_rate.total_cmp(rate).then_with(|| one.cmp(other)));
    rates
}

/// The median and the 99th percentile of the times from a POST to its hit.
fn delivery(first: &Metrics, last: &Metrics) -> Option<[f64; 2]> {
    let [before, after] =
        [first, last].map(|metrics| metrics.buckets("pilotlight_dispatch_seconds", "outcome=\"hit\""));
    let before = |bound: f64| {
        before.iter().find(|(known, _)| known.total_cmp(&bound).is_eq()).map_or(0.0, |(_, count)| *count)
    };
    let between: Vec<_> =
        after.into_iter().map(|(bound, count)| (bound, (count - before(bound)).max(0.0))).collect();
    Some([quantile(&between, 0.5)?, quantile(&between, 0.99)?])
}

/// A quantile of a histogram of cumulative counts, linear within its bucket, as Prometheus estimates it. In the last bucket,
/// which has no end, it is the begin of that.
fn quantile(buckets: &[(f64, f64)], quantile: f64) -> Option<f64> {
    let (_, all) = buckets.last().filter(|(_, all)| *all > 0.0)?;
    let rank = all * quantile;
    let mut below = (0.0, 0.0);
    for &(bound, count) in buckets {
        if count >= rank {
            let share = (rank - below.1) / (count - below.1);
            return Some(if bound.is_finite() { below.0 + (bound - below.0) * share } else { below.0 });
        }
        below = (bound, count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "# TYPE pilotlight_waiters gauge\n\
        pilotlight_build_info{revision=\"x\",version=\"0.1.0\"} 1\n\
        pilotlight_dispatches_total{outcome=\"hit\",reason=\"none\"} 100\n\
        pilotlight_dispatches_total{outcome=\"miss\",reason=\"no_pool\"} 7\n\
        pilotlight_dispatches_total{outcome=\"miss\",reason=\"all_taken\"} 0\n\
        pilotlight_dispatches_total{outcome=\"refused\",reason=\"none\"} 0\n\
        pilotlight_dispatch_seconds_bucket{outcome=\"hit\",le=\"0.001\"} 100\n\
        pilotlight_dispatch_seconds_bucket{outcome=\"hit\",le=\"0.002\"} 100\n\
        pilotlight_dispatch_seconds_bucket{outcome=\"hit\",le=\"+Inf\"} 100\n\
        pilotlight_dispatch_seconds_bucket{outcome=\"miss\",le=\"+Inf\"} 7\n\
        pilotlight_waiters{transport=\"poll\"} 3\npilotlight_waiters{transport=\"sse\"} 0\n\
        process_cpu_seconds_total 1.5\n";

    /// Two seconds later.
    fn later() -> String {
        FIRST
            .replace("\"hit\",reason=\"none\"} 100", "\"hit\",reason=\"none\"} 120")
            .replace("\"no_pool\"} 7", "\"no_pool\"} 8")
            .replace("\"all_taken\"} 0", "\"all_taken\"} 4")
            .replace("le=\"0.001\"} 100", "le=\"0.001\"} 110")
            .replace("le=\"0.002\"} 100", "le=\"0.002\"} 118")
            .replace("\"hit\",le=\"+Inf\"} 100", "\"hit\",le=\"+Inf\"} 120")
            .replace("total 1.5", "total 1.7")
    }

    #[test]
    fn rates_and_times_are_those_between_two_looks() {
        let [first, last] = [FIRST.to_owned(), later()].map(|text| Metrics::parse(&text));
        let figures = Figures::between(&first, &last, Duration::from_secs(2));
        assert_eq!((figures.dispatches, figures.hits, figures.others), (12.5, 10.0, 0.0));
        assert_eq!(figures.misses, [("all_taken".to_owned(), 2.0), ("no_pool".to_owned(), 0.5)]);
        assert_eq!(figures.waiters, [("poll".to_owned(), 3.0), ("sse".to_owned(), 0.0)]);
        assert_eq!((figures.version.as_str(), figures.replies.is_none()), ("0.1.0", true));
        assert!((figures.cpu_percent - 10.0).abs() < 0.001, "{figures:?}");
        // The tenth of twenty is the last of the first bucket; the last ones took longer than all bounds.
        assert_eq!(figures.delivery, Some([0.001, 0.002]));
    }

    #[test]
    fn without_a_second_look_there_is_a_state_and_no_rate() {
        let metrics = Metrics::parse(FIRST);
        let figures = Figures::between(&metrics, &metrics, Duration::ZERO);
        assert_eq!((figures.dispatches, figures.delivery), (0.0, None));
        assert_eq!(figures.waiters[0], ("poll".to_owned(), 3.0));
    }
}

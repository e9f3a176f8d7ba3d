//! Owns the metrics of a cluster. Their series exist, as zero, without a cluster, too, except that of the connection: an alert says
//! that it is down.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::labels::{Family, Label, is_label, label};
use crate::model::{ForwardOutcome, TakenOutcome};

const FORWARD_BUCKETS: [f64; 14] =
    [100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0, 2.5];

is_label! { ForwardOutcome, TakenOutcome }

label! {
    /// Why a message between brokers was dropped.
    DropReason {
        /// A broker of another version sent it.
        ForeignVersion = "foreign_version",
        /// It could not be read.
        Malformed = "malformed",
        /// It came faster than it was read.
        SlowConsumer = "slow_consumer",
        /// It could not be sent: the connection to NATS was down, or its queue was full.
        NotConnected = "not_connected",
    }
}

/// The metrics of a cluster.
pub struct ClusterMetrics {
    /// 1 while the connection to NATS is up. Exposed after [`Self::expose_connection`].
    pub connected: IntGauge,
    /// How many other brokers are seen.
    pub brokers: IntGauge,
    /// How many seconds ago the last heartbeat came of the broker that has been silent longest, of those that have pools; 0
    /// without others.
    pub directory_age: Gauge,
    forwards: Family<IntCounter, ForwardOutcome>,
    forward_seconds: Histogram,
    late_answers: IntCounter,
    registry: Registry,
    taken: Family<IntCounter, TakenOutcome>,
    dropped: Family<IntCounter, DropReason>,
}

impl ClusterMetrics {
    /// Registers every metric with every label value.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            connected: IntGauge::with_opts(opts("connected", "1 while the connection to NATS is up."))?,
            brokers: register(
                registry,
                IntGauge::with_opts(opts("brokers", "Other brokers of the cluster that are seen."))?,
            )?,
            directory_age: register(
                registry,
                Gauge::with_opts(opts(
                    "directory_age_seconds",
                    "Age of the oldest last heartbeat of the other brokers that have pools.",
                ))?,
            )?,
            forwards: counters(registry, "outcome", "forwards_total", "Runs forwarded to another broker.")?,
            forward_seconds: register(
                registry,
                Histogram::with_opts(HistogramOpts {
                    common_opts: opts("forward_seconds", "From a forward to its end."),
                    buckets: FORWARD_BUCKETS.to_vec(),
                })?,
            )?,
            late_answers: register(
                registry,
                IntCounter::with_opts(opts(
                    "late_answers_total",
                    "Answers to forwards that were no longer waited for.",
                ))?,
            )?,
            registry: registry.clone(),
            taken: counters(
                registry,
                "outcome",
                "forwards_taken_total",
                "Runs that other brokers have forwarded to this one.",
            )?,
            dropped: counters(
                registry,
                "reason",
                "messages_dropped_total",
                "Messages between brokers that were dropped.",
            )?,
        })
    }

    /// This broker belongs to a cluster. Without one there is no `cluster_connected`: an alert would fire for every single broker.
    pub fn expose_connection(&self) {
        // It fails only if it was exposed before.
        let _ = self.registry.register(Box::new(self.connected.clone()));
    }

    /// A forward ended. `took` runs from the time when it was sent, and does not count if it was not.
    pub fn forwarded(&self, outcome: ForwardOutcome, took: Duration) {
        self.forwards.of(outcome).inc();
        if !matches!(outcome, ForwardOutcome::NotSent | ForwardOutcome::TooLarge) {
            self.forward_seconds.observe(took.as_secs_f64());
        }
    }

    /// A run that another broker has forwarded ended.
    pub fn taken(&self, outcome: TakenOutcome) {
        self.taken.of(outcome).inc();
    }

    /// An answer came that nobody waits for any more.
    pub fn late_answer(&self) {
        self.late_answers.inc();
    }

    /// A message was dropped.
    pub fn dropped(&self, reason: DropReason) {
        self.dropped_many(reason, 1);
    }

    /// This many messages were dropped.
    pub fn dropped_many(&self, reason: DropReason, messages: u64) {
        self.dropped.of(reason).inc_by(messages);
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("pilotlight").subsystem("cluster")
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counters<L: Label>(
    registry: &Registry,
    label: &str,
    name: &str,
    help: &str,
) -> Result<Family<IntCounter, L>, prometheus::Error> {
    Ok(Family::new(&register(registry, IntCounterVec::new(opts(name, help), &[label])?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_broker_of_a_cluster_says_whether_it_is_connected() {
        let registry = Registry::new();
        let metrics = ClusterMetrics::new(&registry).unwrap();
        let text = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(!text().contains("cluster_connected"), "{}", text());
        metrics.expose_connection();
        assert!(text().contains("\npilotlight_cluster_connected 0\n"), "{}", text());
        metrics.connected.set(1);
        metrics.expose_connection();
        assert!(text().contains("\npilotlight_cluster_connected 1\n"), "{}", text());
    }

    #[test]
    fn every_series_is_zero_until_something_is_counted() {
        let registry = Registry::new();
        let metrics = ClusterMetrics::new(&registry).unwrap();
        let text = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let before = text();
        let is_zero = |line: &str| line.starts_with('#') || line.ends_with(" 0");
        assert!(before.lines().all(is_zero), "{before}");
        let series = [
            ("forwards_total{outcome=\"no_responders\"}", 2),
            ("forwards_total{outcome=\"too_large\"}", 1),
            ("forward_seconds_bucket{le=\"0.001\"}", 1),
            ("forward_seconds_count", 2),
            ("forwards_taken_total{outcome=\"malformed\"}", 1),
            ("late_answers_total", 1),
            ("messages_dropped_total{reason=\"slow_consumer\"}", 7),
            ("messages_dropped_total{reason=\"foreign_version\"}", 1),
            ("brokers", 2),
            ("directory_age_seconds", 3),
        ];
        for (name, _) in series {
            assert!(before.contains(&format!("\npilotlight_cluster_{name} 0\n")), "{name} in {before}");
        }

        metrics.forwarded(ForwardOutcome::NoResponders, Duration::from_micros(300));
        metrics.forwarded(ForwardOutcome::NoResponders, Duration::from_secs(1));
        metrics.forwarded(ForwardOutcome::TooLarge, Duration::ZERO);
        metrics.taken(TakenOutcome::Malformed);
        metrics.late_answer();
        metrics.dropped_many(DropReason::SlowConsumer, 7);
        metrics.dropped(DropReason::ForeignVersion);
        metrics.brokers.set(2);
        metrics.directory_age.set(3.0);
        let after = text();
        for (name, value) in series {
            assert!(after.contains(&format!("\npilotlight_cluster_{name} {value}\n")), "{name} in {after}");
        }
    }
}

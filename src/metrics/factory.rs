//! Owns how metrics are made and registered.

use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{Gauge, IntGauge, IntGaugeVec, Opts, Registry};

use super::labels::{Family, Label};
use super::per_thread::{Counters, Families, Histograms, PerThread};

const LAG_BUCKETS: [f64; 9] = [1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0];

/// Makes and registers metrics, and adds the prefix to their names.
pub(super) struct MetricFactory<'a> {
    registry: &'a Registry,
    families: Families,
}

impl<'a> MetricFactory<'a> {
    pub(super) fn new(registry: &'a Registry) -> Self {
        Self { registry, families: Families::default() }
    }

    /// Registers those that each thread counts by itself. From then on they may be counted.
    pub(super) fn register_families(self) -> Result<Arc<PerThread>, prometheus::Error> {
        self.families.register(self.registry)
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(name, help).namespace("pilotlight")
    }

    fn register<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, prometheus::Error> {
        self.registry.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    pub(super) fn build_info(&self) -> Result<(), prometheus::Error> {
        let opts = Self::opts("build_info", "1, labelled with what was built.")
            .const_label("version", env!("CARGO_PKG_VERSION"))
            .const_label("revision", option_env!("PILOTLIGHT_REVISION").unwrap_or("unknown"));
        self.register(IntGauge::with_opts(opts)?)?.set(1);
        Ok(())
    }

    pub(super) fn gauges<L: Label>(
        &self,
        labels: &[&str],
        name: &str,
        help: &str,
    ) -> Result<Family<IntGauge, L>, prometheus::Error> {
        Ok(Family::new(&self.register(IntGaugeVec::new(Self::opts(name, help), labels)?)?))
    }

    /// Without TLS there is no certificate, and no such series.
    pub(super) fn certificate_expiry(&self) -> Result<IntGaugeVec, prometheus::Error> {
        let help = "When the certificate of a listener ends, in seconds since 1970.";
        let opts = Self::opts("tls_certificate_expiry_timestamp_seconds", help);
        self.register(IntGaugeVec::new(opts, &["listener"])?)
    }

    pub(super) fn idempotency_window(&self) -> Result<Gauge, prometheus::Error> {
        let help = "How far back a run posted again is known: the set time, or less at high rates and after a start.";
        self.register(Gauge::with_opts(Self::opts("idempotency_window_seconds", help))?)
    }

    pub(super) fn history_reopened(&mut self) -> Result<Counters<()>, prometheus::Error> {
        let help = "Times the history's file was moved, deleted or replaced, and opened anew.";
        self.counter("history_reopened_total", help)
    }

    pub(super) fn lag(&mut self) -> Result<Histograms<()>, prometheus::Error> {
        let help = "How late a serving thread wakes: what its tasks wait for each other.";
        self.histogram("runtime_lag_seconds", help, &LAG_BUCKETS)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.register(IntGauge::with_opts(Self::opts(name, help))?)
    }

    pub(super) fn counter(&mut self, name: &str, help: &str) -> Result<Counters<()>, prometheus::Error> {
        self.families.counters(&Self::opts(name, help))
    }

    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        buckets: &'static [f64],
    ) -> Result<Histograms<()>, prometheus::Error> {
        self.families.histograms(&Self::opts(name, help), buckets)
    }

    fn with_labels(labels: &[&str], name: &str, help: &str) -> Opts {
        Self::opts(name, help).variable_labels(labels.iter().map(|&label| label.into()).collect())
    }

    pub(super) fn counters<L: Label>(
        &mut self,
        labels: &[&str],
        name: &str,
        help: &str,
    ) -> Result<Counters<L>, prometheus::Error> {
        self.families.counters(&Self::with_labels(labels, name, help))
    }

    pub(super) fn histograms<L: Label>(
        &mut self,
        labels: &[&str],
        name: &str,
        help: &str,
        buckets: &'static [f64],
    ) -> Result<Histograms<L>, prometheus::Error> {
        self.families.histograms(&Self::with_labels(labels, name, help), buckets)
    }
}

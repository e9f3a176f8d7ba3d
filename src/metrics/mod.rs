//! Owns every metric's name, labels and buckets. No behaviour depends on a metric.

mod cluster;
mod factory;
mod labels;
mod message_field;
mod per_thread;
mod process;
mod reply;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{Encoder, Gauge, IntGauge, IntGaugeVec, Registry, TextEncoder};

pub use cluster::{ClusterMetrics, DropReason};
use factory::MetricFactory;
use labels::Family;
pub use labels::{AuthFailure, CodeClass, Label, Listener, RejectReason, Reload, ReplyByte, Route, Tls};
pub use message_field::MessageField;
use per_thread::{Counters, Histograms, PerThread};
use process::Process;
use reply::ReplyMetrics;

use crate::model::{DispatchKind, DispatchOutcome, PollEnd, Proof, ReplyOutcome, Transport, Verdict};

const DISPATCH_BUCKETS: [f64; 16] = [
    25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3,
    1.0, 2.5,
];
const HOLD_BUCKETS: [f64; 10] = [0.01, 0.1, 1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0];
const BYTES_BUCKETS: [f64; 8] = [512.0, 1024.0, 2048.0, 4096.0, 16384.0, 65536.0, 1_048_576.0, 4_194_304.0];

/// All metrics of one broker.
pub struct Metrics {
    registry: Registry,
    process: Process,
    threads: Arc<PerThread>,
    /// Those of the cluster.
    pub cluster: ClusterMetrics,
    /// 1 while the broker drains.
    pub draining: IntGauge,
    /// How far back the idempotency cache reaches, in seconds.
    pub idempotency_window: Gauge,
    connections: Family<IntGauge, (Listener, Tls)>,
    accepted: Counters<Listener>,
    rejected: Counters<RejectReason>,
    waiters: Family<IntGauge, Transport>,
    pools: IntGauge,
    polls: Counters<PollEnd>,
    hold: Histograms<PollEnd>,
    dispatches: Counters<DispatchOutcome>,
    dispatch_seconds: Histograms<DispatchKind>,
    delivery_seconds: Histograms<Proof>,
    offers: Counters<Verdict>,
    redeliveries: Counters<()>,
    payload_bytes: Histograms<()>,
    requests: Counters<(Route, CodeClass)>,
    messages_refused: Counters<MessageField>,
    denied: Counters<AuthFailure>,
    reloads: Counters<Reload>,
    certificate_expiry: IntGaugeVec,
    history_dropped: Counters<()>,
    history_reopened: Counters<()>,
    otlp_failures: Counters<()>,
    events_dropped: Counters<()>,
    events_cut_off: Counters<()>,
    lag: Histograms<()>,
    replies: ReplyMetrics,
}

impl Metrics {
    /// Registers every metric with every label value, so that no series appears late.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let mut make = MetricFactory::new(&registry);
        let process = Process::new(&registry)?;
        make.build_info()?;
        Ok(Self {
            cluster: ClusterMetrics::new(&registry)?,
            draining: make.gauge("draining", "1 while the broker ends politely.")?,
            idempotency_window: make.idempotency_window()?,
            connections: make.gauges(&["listener", "tls"], "connections", "Open connections.")?,
            accepted: make.counters(&["listener"], "connections_accepted_total", "Connections accepted.")?,
            rejected: make.counters(&["reason"], "connections_rejected_total", "Connections not served.")?,
            waiters: make.gauges(&["transport"], "waiters", "Waiters, by what holds them.")?,
            pools: make.gauge("pools", "Pools with at least one waiter.")?,
            polls: make.counters(&["end"], "polls_total", "Held polls, by how they ended.")?,
            hold: make.histograms(&["end"], "hold_seconds", "How long polls were held.", &HOLD_BUCKETS)?,
            dispatches: make.counters(
                &["outcome", "reason"],
                "dispatches_total",
                "Runs posted, by outcome.",
            )?,
            dispatch_seconds: make.histograms(
                &["outcome"],
                "dispatch_seconds",
                "From a POST's last byte to its answer.",
                &DISPATCH_BUCKETS,
            )?,
            delivery_seconds: make.histograms(
                &["proof"],
                "delivery_seconds",
                "From the match to the proof of delivery.",
                &DISPATCH_BUCKETS,
            )?,
            offers: make.counters(&["verdict"], "offers_total", "Attempts to hand a run to one waiter.")?,
            redeliveries: make
                .counter("redeliveries_total", "Offers made after an unproven one of the same run.")?,
            payload_bytes: make.histogram("payload_bytes", "Size of the runs posted.", &BYTES_BUCKETS)?,
            requests: make.counters(&["route", "code_class"], "http_requests_total", "Requests answered.")?,
            messages_refused: make.counters(
                &["field"],
                "messages_refused_total",
                "Messages refused, by the field that a stock controller would not take.",
            )?,
            denied: make.counters(&["reason"], "auth_failures_total", "Requests that are not allowed.")?,
            reloads: make.counters(
                &["result"],
                "config_reloads_total",
                "Times the settings were read again.",
            )?,
            certificate_expiry: make.certificate_expiry()?,
            history_dropped: make.counter(
                "history_dropped_total",
                "Dispatches and ends of replies that are missing in the history.",
            )?,
            history_reopened: make.history_reopened()?,
            otlp_failures: make.counter(
                "otlp_failures_total",
                "Spans that reached no collector: their export failed, or there was no room for them.",
            )?,
            events_dropped: make
                .counter("events_dropped_total", "Events that the journal had no room for.")?,
            events_cut_off: make
                .counter("events_cut_off_total", "Readers of events that fell behind and were cut off.")?,
            lag: make.lag()?,
            replies: ReplyMetrics::new(&mut make)?,
            threads: make.register_families()?,
            process,
            registry,
        })
    }

    /// The text for a scrape by Prometheus, with the current numbers of waiters and pools.
    pub fn render(&self, (waiters, pools): (usize, usize)) -> Result<Vec<u8>, prometheus::Error> {
        self.process.read();
        let slots = self.waiters(Transport::WebSocket).get() + self.waiters(Transport::EventStream).get();
        self.waiters(Transport::Poll).set(i64::try_from(waiters).unwrap_or(i64::MAX).saturating_sub(slots));
        self.pools.set(i64::try_from(pools).unwrap_or(i64::MAX));
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// How many waiters there are on a transport. Slots count themselves; polls are counted at a scrape.
    pub fn waiters(&self, transport: Transport) -> &IntGauge {
        self.waiters.of(transport)
    }

    /// A held poll ended.
    pub fn poll_ended(&self, end: PollEnd, held: Duration) {
        let cells = self.threads.cells();
        self.polls.add(cells, end, 1);
        self.hold.observe_time(cells, end, held);
    }

    /// A poll was not held: a limit is reached, or its headers were invalid.
    pub fn poll_refused(&self) {
        self.poll_ended(PollEnd::Refused, Duration::ZERO);
    }

    /// A POST was answered, or its client closed the connection.
    pub fn dispatched(&self, outcome: DispatchOutcome, took: Duration) {
        let cells = self.threads.cells();
        self.dispatches.add(cells, outcome, 1);
        self.dispatch_seconds.observe_time(cells, outcome.kind(), took);
    }

    /// A valid run came in.
    #[expect(clippy::cast_precision_loss, reason = "a size in bytes, far below 2^52")]
    pub fn payload(&self, bytes: usize) {
        self.payload_bytes.observe(self.threads.cells(), (), bytes as f64);
    }

    /// An offer ended; `took` runs from the match to the verdict.
    pub fn offered(&self, verdict: Verdict, took: Duration) {
        let cells = self.threads.cells();
        self.offers.add(cells, verdict, 1);
        if let Some(proof) = verdict.proof() {
            self.delivery_seconds.observe_time(cells, proof, took);
        }
    }

    /// A run is offered again after an offer that was sent and not proved.
    pub fn redelivered(&self) {
        self.redeliveries.add(self.threads.cells(), (), 1);
    }

    /// A run that asks for a reply was handed over: from now on its reply is open.
    pub fn reply_opened(&self) {
        self.replies.open.inc();
    }

    /// An open reply has ended.
    pub fn reply_closed(&self) {
        self.replies.open.dec();
    }

    /// A dispatch that asks for a reply ended.
    pub fn reply_ended(&self, outcome: ReplyOutcome) {
        self.replies.ended.add(self.threads.cells(), outcome, 1);
    }

    /// The first byte of a reply came this long after the last one of its POST.
    pub fn reply_first_byte(&self, after: Duration) {
        self.replies.seconds.observe_time(self.threads.cells(), ReplyByte::First, after);
    }

    /// The last byte of a reply was handed over this long after the last one of its POST.
    pub fn reply_last_byte(&self, after: Duration) {
        self.replies.seconds.observe_time(self.threads.cells(), ReplyByte::Last, after);
    }

    /// A reply ended after this many bytes.
    #[expect(clippy::cast_precision_loss, reason = "a size in bytes, below 2^52")]
    pub fn reply_size(&self, bytes: u64) {
        self.replies.bytes.observe(self.threads.cells(), (), bytes as f64);
    }

    /// A connection was accepted; it is counted as open until the guard is dropped.
    pub fn connected(&self, listener: Listener, is_tls: bool) -> OpenConnection {
        self.accepted.add(self.threads.cells(), listener, 1);
        let tls = if is_tls { Tls::True } else { Tls::False };
        let open = self.connections.of((listener, tls)).clone();
        open.inc();
        OpenConnection(open)
    }

    /// The settings were reloaded, or refused.
    pub fn reloaded(&self, result: Reload) {
        self.reloads.add(self.threads.cells(), result, 1);
    }

    /// The listener's certificate expires at this time.
    pub fn certificate_ends(&self, listener: Listener, at: SystemTime) {
        let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let metric = self.certificate_expiry.with_label_values(&[listener.text()]);
        metric.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// A message was refused for this field.
    pub fn message_refused(&self, field: MessageField) {
        self.messages_refused.add(self.threads.cells(), field, 1);
    }

    /// A request was not authorized.
    pub fn denied(&self, why: AuthFailure) {
        self.denied.add(self.threads.cells(), why, 1);
    }

    /// This many dispatches and ends of replies were dropped by the history.
    pub fn history_dropped(&self, rows: u64) {
        self.history_dropped.add(self.threads.cells(), (), rows);
    }

    /// The history's file was no longer at its path.
    pub fn history_reopened(&self) {
        self.history_reopened.add(self.threads.cells(), (), 1);
    }

    /// This many spans reached no collector.
    pub fn otlp_failed(&self, spans: u64) {
        self.otlp_failures.add(self.threads.cells(), (), spans);
    }

    /// The journal dropped an event; a dropped dispatch or end of a reply is missing in the history, too.
    pub fn event_dropped(&self, is_for_history: bool) {
        let cells = self.threads.cells();
        self.events_dropped.add(cells, (), 1);
        self.history_dropped.add(cells, (), u64::from(is_for_history));
    }

    /// A reader of events fell behind and was disconnected.
    pub fn events_cut_off(&self) {
        self.events_cut_off.add(self.threads.cells(), (), 1);
    }

    /// A serving thread woke this much too late.
    pub fn lagged(&self, late: Duration) {
        self.lag.observe_time(self.threads.cells(), (), late);
    }

    /// A connection was not served.
    pub fn rejected(&self, reason: RejectReason) {
        self.rejected.add(self.threads.cells(), reason, 1);
    }

    /// A request was answered with this status.
    pub fn answered(&self, route: Route, status: u16) {
        self.requests.add(self.threads.cells(), (route, CodeClass::of(status)), 1);
    }
}

/// Counts one open connection until it is dropped.
pub struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_value_is_exported_from_the_start() {
        let metrics = Metrics::new().unwrap();
        let text = String::from_utf8(metrics.render((3, 2)).unwrap()).unwrap();
        for line in [
            "pilotlight_waiters{transport=\"poll\"} 3",
            "pilotlight_pools 2",
            "pilotlight_polls_total{end=\"client_gone\"} 0",
            "pilotlight_dispatches_total{outcome=\"miss\",reason=\"wrong_machine\"} 0",
            "pilotlight_dispatches_total{outcome=\"hit\",reason=\"none\"} 0",
            "pilotlight_offers_total{verdict=\"gone\"} 0",
            "pilotlight_http_requests_total{code_class=\"2xx\",route=\"connect\"} 0",
            "pilotlight_http_requests_total{code_class=\"2xx\",route=\"reply\"} 0",
            "pilotlight_dispatches_total{outcome=\"miss\",reason=\"no_reply_route\"} 0",
            "pilotlight_replies_total{outcome=\"reply_broken\"} 0",
            "pilotlight_reply_seconds_count{byte=\"first\"} 0",
            "pilotlight_reply_bytes_count 0",
            "pilotlight_replies_open 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes"));
    }

    #[test]
    fn a_reply_is_counted_where_it_belongs() {
        let metrics = Metrics::new().unwrap();
        metrics.reply_opened();
        metrics.reply_opened();
        metrics.reply_closed();
        metrics.reply_ended(ReplyOutcome::Cancelled);
        metrics.reply_first_byte(Duration::from_millis(3));
        metrics.reply_last_byte(Duration::from_secs(1200));
        metrics.reply_size(2000);
        let text = String::from_utf8(metrics.render((0, 0)).unwrap()).unwrap();
        for line in [
            "pilotlight_replies_open 1",
            "pilotlight_replies_total{outcome=\"cancelled\"} 1",
            "pilotlight_replies_total{outcome=\"replied\"} 0",
            "pilotlight_reply_seconds_bucket{byte=\"first\",le=\"0.0025\"} 0",
            "pilotlight_reply_seconds_bucket{byte=\"first\",le=\"0.005\"} 1",
            "pilotlight_reply_seconds_bucket{byte=\"last\",le=\"900\"} 0",
            "pilotlight_reply_seconds_sum{byte=\"last\"} 1200",
            "pilotlight_reply_bytes_bucket{le=\"1024\"} 0",
            "pilotlight_reply_bytes_bucket{le=\"4096\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}

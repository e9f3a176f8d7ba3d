//! Owns traces: one span per dispatch, and one per reply, each of which continues the supervisor's trace, exported by OTLP over HTTP.

mod client;
mod exporter;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{
    Span, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider, Span as SdkSpan,
};

use super::record::{DispatchRecord, OfferRecord, ReplyRecord};
use super::row::{DispatchRow, ReplyRow};
use super::trace_parent::TraceParent;
use crate::collector::Collector;
use crate::metrics::Metrics;
use crate::model::ReplyOutcome;
use exporter::{ExportStatus, Exporter};

pub(super) use exporter::preflight;

/// Spans that are queued or being exported; more are dropped and counted.
const QUEUE: usize = 8192;
/// Closing waits this long for the last export.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Creates spans; a thread of the SDK exports them in batches.
pub(super) struct Tracer {
    sdk: SdkTracer,
    provider: SdkTracerProvider,
    status: Arc<ExportStatus>,
}

impl Tracer {
    /// A tracer that exports to this collector.
    pub(super) fn new(collector: &Collector, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let status = Arc::new(ExportStatus::new(collector, metrics));
        let exporter = Exporter::new(collector, status.clone())?;
        let config = BatchConfigBuilder::default().with_max_queue_size(QUEUE).build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        let resource = Resource::builder().with_service_name("pilotlight").build();
        let provider =
            SdkTracerProvider::builder().with_resource(resource).with_span_processor(processor).build();
        Ok(Self { sdk: provider.tracer("pilotlight"), provider, status })
    }

    /// Exports a dispatch as a span, with its matches and proofs as events.
    pub(super) fn export(&self, record: &DispatchRecord) {
        let (start, end) = bounds(record.at, record.took);
        let attributes = attributes_of(DispatchRow::from(record));
        let Some(mut span) = self.start("dispatch", start, attributes, record.trace) else { return };
        for offer in &record.offers {
            let waiter = attributes_of_waiter(offer);
            let matched = start + offer.since;
            span.add_event_with_timestamp("match", matched, waiter.clone());
            span.add_event_with_timestamp("offer", matched, waiter.clone());
            let verdict = KeyValue::new("pilotlight.verdict", offer.verdict.text());
            span.add_event_with_timestamp("proof", matched + offer.took, [waiter, vec![verdict]].concat());
        }
        if record.proof.is_some() {
            span.set_status(Status::Ok);
        }
        self.end(span, end);
    }

    /// Exports a reply as a span beside that of its dispatch, with its first byte as an event. Both begin with the last byte of
    /// the POST.
    pub(super) fn export_reply(&self, record: &ReplyRecord) {
        let (start, end) = bounds(record.at, record.took);
        let Some(mut span) = self.start("reply", start, attributes_of_reply(record), record.trace) else {
            return;
        };
        if let Some(after) = record.first_byte {
            span.add_event_with_timestamp("first_byte", start + after, Vec::new());
        }
        if record.outcome == ReplyOutcome::Replied {
            span.set_status(Status::Ok);
        }
        self.end(span, end);
    }

    /// None if too many spans are under way.
    fn start(
        &self,
        name: &'static str,
        start: SystemTime,
        attributes: Vec<KeyValue>,
        parent: Option<TraceParent>,
    ) -> Option<SdkSpan> {
        if self.status.pending() >= QUEUE {
            self.status.failed(1, "spans arrive faster than they are exported");
            return None;
        }
        let builder = self.sdk.span_builder(name).with_kind(SpanKind::Server).with_start_time(start);
        Some(builder.with_attributes(attributes).start_with_context(&self.sdk, &parent_context(parent)))
    }

    fn end(&self, mut span: SdkSpan, end: SystemTime) {
        if span.is_recording() {
            self.status.queued();
        }
        span.end_with_timestamp(end);
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let done = self.provider.shutdown_with_timeout(CLOSE_TIMEOUT);
        let pending = self.status.pending();
        if done.is_err() && pending > 0 {
            self.status.failed(pending, "the broker shut down before they were exported");
        }
    }
}

/// The beginning and the end of what took so long, and ended at this time in milliseconds since 1970.
fn bounds(at: u64, took: Duration) -> (SystemTime, SystemTime) {
    let end = UNIX_EPOCH + Duration::from_millis(at);
    (end.checked_sub(took).unwrap_or(end), end)
}

fn attributes_of(row: DispatchRow) -> Vec<KeyValue> {
    let always = [
        KeyValue::new("pilotlight.run", row.run),
        KeyValue::new("pilotlight.deployment", row.deployment),
        KeyValue::new("pilotlight.version", row.version),
        KeyValue::new("pilotlight.outcome", row.outcome.into_owned()),
        KeyValue::new("pilotlight.offers", i64::from(row.offers)),
    ];
    let sometimes = [
        row.reason.map(|reason| KeyValue::new("pilotlight.reason", reason.into_owned())),
        row.proof.map(|proof| KeyValue::new("pilotlight.proof", proof.into_owned())),
        row.broker.map(|broker| KeyValue::new("pilotlight.broker", broker)),
    ];
    always.into_iter().chain(sometimes.into_iter().flatten()).collect()
}

fn attributes_of_reply(record: &ReplyRecord) -> Vec<KeyValue> {
    let [run, deployment, version] = [0, 1, 2].map(|index| record.names.get(index).to_owned());
    let row = ReplyRow::from(record);
    let always = [
        KeyValue::new("pilotlight.run", run),
        KeyValue::new("pilotlight.deployment", deployment),
        KeyValue::new("pilotlight.version", version),
        KeyValue::new("pilotlight.outcome", row.outcome.into_owned()),
        KeyValue::new("pilotlight.reply.bytes", i64::try_from(row.bytes).unwrap_or(i64::MAX)),
    ];
    let status = row.status.map(|status| KeyValue::new("pilotlight.reply.status", i64::from(status)));
    always.into_iter().chain(status).collect()
}

fn attributes_of_waiter(offer: &OfferRecord) -> Vec<KeyValue> {
    let controller = KeyValue::new("pilotlight.controller", offer.controller.to_string());
    let broker = offer.broker.as_deref().map(|broker| KeyValue::new("pilotlight.broker", broker.to_owned()));
    [Some(controller), broker].into_iter().flatten().collect()
}

fn parent_context(parent: Option<TraceParent>) -> Context {
    let Some(TraceParent { trace_id, span_id, flags }) = parent else { return Context::new() };
    Context::new().with_remote_span_context(SpanContext::new(
        TraceId::from_bytes(trace_id),
        SpanId::from_bytes(span_id),
        TraceFlags::new(flags),
        true,
        TraceState::default(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::tests::{delivered_elsewhere, reply};

    #[test]
    fn a_span_and_its_offers_name_the_other_broker() {
        let record = delivered_elsewhere("run_1", "b2:7070");
        let broker = KeyValue::new("pilotlight.broker", "b2:7070");
        assert!(attributes_of((&record).into()).contains(&broker));
        let of_offers: Vec<_> = record.offers.iter().map(attributes_of_waiter).collect();
        assert!(!of_offers[0].contains(&broker) && of_offers[1].contains(&broker), "{of_offers:?}");
    }

    #[test]
    fn a_reply_has_the_names_of_its_dispatch_and_a_status_if_its_caller_got_one() {
        let of_dispatch = attributes_of((&delivered_elsewhere("run_1", "b2:7070")).into());
        let mut record = reply("run_1", 7);
        let of_reply = attributes_of_reply(&record);
        assert_eq!(of_reply[..3], of_dispatch[..3]);
        let status = KeyValue::new("pilotlight.reply.status", 201);
        let others =
            [KeyValue::new("pilotlight.outcome", "replied"), KeyValue::new("pilotlight.reply.bytes", 7)];
        assert_eq!(of_reply[3..], [&others[..], &[status]].concat());
        record.status = None;
        assert_eq!(attributes_of_reply(&record)[3..], others);
    }
}

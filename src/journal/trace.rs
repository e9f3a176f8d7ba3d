//! Owns traces: one span per dispatch, continued from the supervisor's `traceparent`, exported by OTLP over HTTP.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{
    Span, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider};
use std::sync::Arc;

use super::DispatchRecord;
use super::export::{Account, Exporter};
use crate::collector::Collector;
use crate::metrics::Metrics;

/// Spans that wait for their export, or are under way; more are lost, and counted.
const QUEUE: usize = 8192;
/// The end waits so long for the last export.
const LAST_EXPORT: Duration = Duration::from_secs(1);

/// The span of a supervisor that a dispatch continues (W3C Trace Context).
#[derive(Debug, Clone, Copy)]
pub struct TraceParent {
    trace: [u8; 16],
    span: [u8; 8],
    flags: u8,
}

impl TraceParent {
    /// Reads a `traceparent` header; none if it is not one.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_known = version == "00" && parts.next().is_none() || version != "00" && version != "ff";
        let is_lower = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let sizes = [version, trace, span, flags].map(str::len) == [2, 32, 16, 2];
        if !is_known || !sizes || ![version, trace, span, flags].into_iter().all(is_lower) {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|&trace| trace != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|&span| span != 0)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self { trace: trace.to_be_bytes(), span: span.to_be_bytes(), flags })
    }
}

/// Makes spans; the SDK's own thread sends them in batches.
pub(super) struct Tracer {
    maker: SdkTracer,
    provider: SdkTracerProvider,
    account: Arc<Account>,
}

impl Tracer {
    /// Exports to this collector.
    pub(super) fn to(collector: &Collector, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let account = Arc::new(Account::new(collector, metrics));
        let exporter = Exporter::new(collector, account.clone())?;
        let config = BatchConfigBuilder::default().with_max_queue_size(QUEUE).build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        let resource = Resource::builder().with_service_name("pilotlight").build();
        let provider =
            SdkTracerProvider::builder().with_resource(resource).with_span_processor(processor).build();
        Ok(Self { maker: provider.tracer("pilotlight"), provider, account })
    }

    /// One dispatch as a span, with its matches and proofs as events.
    pub(super) fn span(&self, dispatch: &DispatchRecord) {
        if self.account.pending() >= QUEUE {
            return self.account.lost(1, "more spans come than it takes");
        }
        let end = UNIX_EPOCH + Duration::from_millis(dispatch.at);
        let start = end.checked_sub(dispatch.took).unwrap_or(end);
        let row = dispatch.row();
        let mut attributes = vec![
            KeyValue::new("pilotlight.run", row.run),
            KeyValue::new("pilotlight.deployment", row.deployment),
            KeyValue::new("pilotlight.version", row.version),
            KeyValue::new("pilotlight.outcome", row.outcome.into_owned()),
            KeyValue::new("pilotlight.offers", i64::from(row.offers)),
        ];
        attributes.extend(row.reason.map(|reason| KeyValue::new("pilotlight.reason", reason.into_owned())));
        attributes.extend(row.proof.map(|proof| KeyValue::new("pilotlight.proof", proof.into_owned())));
        let mut span = self
            .maker
            .span_builder("dispatch")
            .with_kind(SpanKind::Server)
            .with_start_time(start)
            .with_attributes(attributes)
            .start_with_context(&self.maker, &parent(dispatch.trace));
        for attempt in &dispatch.offers {
            let controller = || KeyValue::new("pilotlight.controller", attempt.controller.to_string());
            let matched = start + attempt.since;
            span.add_event_with_timestamp("match", matched, vec![controller()]);
            span.add_event_with_timestamp("offer", matched, vec![controller()]);
            let verdict = KeyValue::new("pilotlight.verdict", attempt.verdict.text());
            span.add_event_with_timestamp("proof", matched + attempt.took, vec![controller(), verdict]);
        }
        if dispatch.proof.is_some() {
            span.set_status(Status::Ok);
        }
        if span.is_recording() {
            self.account.begins();
        }
        span.end_with_timestamp(SystemTime::max(end, start));
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let done = self.provider.shutdown_with_timeout(LAST_EXPORT);
        let left = self.account.pending();
        if done.is_err() && left > 0 {
            self.account.lost(left, "the broker ends, and waits no longer for it");
        }
    }
}

fn parent(parent: Option<TraceParent>) -> Context {
    let Some(TraceParent { trace, span, flags }) = parent else { return Context::new() };
    Context::new().with_remote_span_context(SpanContext::new(
        TraceId::from_bytes(trace),
        SpanId::from_bytes(span),
        TraceFlags::new(flags),
        true,
        TraceState::default(),
    ))
}

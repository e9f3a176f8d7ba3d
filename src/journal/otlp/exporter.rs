//! Owns the export of spans to a collector: spans that the collector does not accept are counted, and logged with the reason.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{self, SpanData, SpanExporter as _};
use parking_lot::Mutex;
use prost::Message;

use super::client::{CollectorClient, root_cause};
use crate::collector::Collector;
use crate::metrics::Metrics;

/// An export, with its retries, ends within this time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The time for `check`, which a user waits for.
const PREFLIGHT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a failure that lasts is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Characters of a collector's error message that are logged.
const MAX_MESSAGE: usize = 256;

/// A collector's answer. The error says why it accepted nothing.
type Answer = Result<PartialSuccess, String>;

/// A request of which the collector may have rejected some spans.
#[derive(Debug)]
struct PartialSuccess {
    rejected: usize,
    reason: String,
}

/// Checks that the collector accepts an export without spans.
pub(in crate::journal) fn preflight(collector: &Collector) -> anyhow::Result<()> {
    let (exporter, answer) = exporter(collector, PREFLIGHT_TIMEOUT, RetryPolicy::disabled())?;
    let result = futures_executor::block_on(exporter.export(Vec::new()));
    let answer = answer.lock().take();
    match (answer, result) {
        (Some(Err(why)), _) => bail!("{why}"),
        (_, Err(error)) => bail!("{error}"),
        (_, Ok(())) => Ok(()),
    }
}

/// An exporter of the SDK, and the place where its client leaves the last answer.
fn exporter(
    collector: &Collector,
    timeout: Duration,
    retries: RetryPolicy,
) -> anyhow::Result<(SpanExporter, Arc<Mutex<Option<Answer>>>)> {
    let answer = Arc::<Mutex<Option<Answer>>>::default();
    let http = CollectorClient::new(&collector.url, timeout).context("the HTTP client cannot be made")?;
    let client = RecordingClient { http, answer: answer.clone() };
    let mut headers = HashMap::new();
    if let Some((user, password)) = &collector.user {
        let credentials = STANDARD.encode(format!("{user}:{password}"));
        headers.insert("authorization".to_owned(), format!("Basic {credentials}"));
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_headers(headers)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(collector.url.to_string())
        .with_timeout(timeout)
        .with_retry_policy(retries)
        .build()
        .context("the exporter cannot be made")?;
    Ok((exporter, answer))
}

/// A client that keeps the collector's last answer, because the SDK's exporter does not return it.
#[derive(Debug)]
struct RecordingClient {
    http: CollectorClient,
    answer: Arc<Mutex<Option<Answer>>>,
}

#[async_trait]
impl HttpClient for RecordingClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let response = self.http.send_bytes(request).await;
        *self.answer.lock() = Some(match &response {
            Ok(response) => parse_answer(response),
            Err(error) => Err(root_cause(error.as_ref())),
        });
        response
    }
}

fn parse_answer(response: &Response<Bytes>) -> Answer {
    let status = response.status();
    if !status.is_success() {
        return Err(format!("it answers {status}"));
    }
    let answer = ExportTraceServiceResponse::decode(response.body().clone())
        .map_err(|_| format!("it answers {status}, but not as a collector does"))?;
    let partial = answer.partial_success.unwrap_or_default();
    let reason: String = partial.error_message.escape_default().take(MAX_MESSAGE).collect();
    Ok(PartialSuccess { rejected: usize::try_from(partial.rejected_spans).unwrap_or(0), reason })
}

/// An exporter that counts and logs what the collector does not accept.
pub(super) struct Exporter {
    inner: SpanExporter,
    answer: Arc<Mutex<Option<Answer>>>,
    status: Arc<ExportStatus>,
}

impl Exporter {
    pub(super) fn new(collector: &Collector, status: Arc<ExportStatus>) -> anyhow::Result<Self> {
        let (inner, answer) = exporter(collector, TIMEOUT, RetryPolicy::recommended())?;
        Ok(Self { inner, answer, status })
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

impl trace::SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.inner.export(batch).await;
        let answer = self.answer.lock().take();
        match (answer, &result) {
            (Some(Err(why)), _) => self.status.failed(spans, &why),
            (_, Err(error)) => self.status.failed(spans, &error.to_string()),
            (Some(Ok(PartialSuccess { rejected: rejected @ 1.., reason })), Ok(())) => {
                self.status.failed(rejected.min(spans), &format!("it rejects spans: {reason}"));
            }
            (_, Ok(())) => self.status.succeeded(),
        }
        self.status.pending.fetch_sub(spans, Ordering::Relaxed);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// How the export goes.
pub(super) struct ExportStatus {
    /// The collector's URL without secrets.
    collector: String,
    metrics: Arc<Metrics>,
    /// Spans that are queued or being exported.
    pending: AtomicUsize,
    /// When a failure was last logged, and whether it still lasts.
    failure_logged: Mutex<Option<(Instant, bool)>>,
}

impl ExportStatus {
    pub(super) fn new(collector: &Collector, metrics: Arc<Metrics>) -> Self {
        let (pending, failure_logged) = (AtomicUsize::new(0), Mutex::new(None));
        Self { collector: collector.redacted_url(), metrics, pending, failure_logged }
    }

    /// The number of spans that are queued or being exported.
    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Counts a span that was queued.
    pub(super) fn queued(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts spans that did not reach the collector, and logs the reason unless that was done recently.
    pub(super) fn failed(&self, spans: usize, why: &str) {
        self.metrics.otlp_failed(spans as u64);
        let mut logged = self.failure_logged.lock();
        if logged.is_none_or(|(at, _)| at.elapsed() >= LOG_INTERVAL) {
            *logged = Some((Instant::now(), true));
            tracing::warn!(
                collector = self.collector,
                spans,
                why,
                "traces do not arrive; pilotlight_otlp_failures_total counts the spans"
            );
        }
    }

    fn succeeded(&self) {
        let mut logged = self.failure_logged.lock();
        if logged.as_mut().is_some_and(|(_, lasts)| std::mem::take(lasts)) {
            tracing::info!(collector = self.collector, "traces arrive again");
        }
    }
}

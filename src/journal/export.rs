//! Owns the export of spans to a collector, by OTLP over HTTP: what does not arrive is counted, and told with its reason.

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

use super::collector_client::{CollectorClient, root_cause};
use crate::collector::Collector;
use crate::metrics::Metrics;

/// A collector takes a batch, or refuses it for good, within this time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// One that is only tried answers sooner.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// As long as it goes on, a failure is said so often.
const SAY_PACE: Duration = Duration::from_secs(60);
/// So much is shown of a collector's own words.
const SHOWN: usize = 256;

/// What a collector answers: how many spans it rejected, and why; or why nothing of the request counts.
type Answer = Result<(usize, String), String>;

/// Asks the collector as an export does, with no span in it.
pub(super) fn try_out(collector: &Collector) -> anyhow::Result<()> {
    let (exporter, answer) = exporter(collector, TRIAL_TIMEOUT, RetryPolicy::disabled())?;
    let result = futures_executor::block_on(exporter.export(Vec::new()));
    let answer = answer.lock().take();
    match (answer, result) {
        (Some(Err(why)), _) => bail!("{why}"),
        (_, Err(error)) => bail!("{error}"),
        (_, Ok(())) => Ok(()),
    }
}

/// An exporter, and where it leaves the last answer.
fn exporter(
    collector: &Collector,
    timeout: Duration,
    retries: RetryPolicy,
) -> anyhow::Result<(SpanExporter, Arc<Mutex<Option<Answer>>>)> {
    let answer = Arc::<Mutex<Option<Answer>>>::default();
    let http = CollectorClient::new(&collector.url, timeout).context("the HTTP client cannot be made")?;
    let client = Client { http, answer: answer.clone() };
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

/// The HTTP client of the exporter, which keeps to itself what the collector answers.
#[derive(Debug)]
struct Client {
    http: CollectorClient,
    answer: Arc<Mutex<Option<Answer>>>,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let response = self.http.send_bytes(request).await;
        *self.answer.lock() = Some(match &response {
            Ok(response) => read(response),
            Err(error) => Err(root_cause(error.as_ref())),
        });
        response
    }
}

fn read(response: &Response<Bytes>) -> Answer {
    let status = response.status();
    if !status.is_success() {
        return Err(format!("it answers {status}"));
    }
    let answer = ExportTraceServiceResponse::decode(response.body().clone())
        .map_err(|_| format!("it answers {status}, and not as a collector does"))?;
    let partial = answer.partial_success.unwrap_or_default();
    let why: String = partial.error_message.escape_default().take(SHOWN).collect();
    Ok((usize::try_from(partial.rejected_spans).unwrap_or(0), why))
}

/// Exports, counts and tells.
pub(super) struct Exporter {
    inner: SpanExporter,
    answer: Arc<Mutex<Option<Answer>>>,
    account: Arc<Account>,
}

impl Exporter {
    pub(super) fn new(collector: &Collector, account: Arc<Account>) -> anyhow::Result<Self> {
        let (inner, answer) = exporter(collector, TIMEOUT, RetryPolicy::recommended())?;
        Ok(Self { inner, answer, account })
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
            (Some(Err(why)), _) => self.account.lost(spans, &why),
            (_, Err(error)) => self.account.lost(spans, &error.to_string()),
            (Some(Ok((rejected @ 1.., why))), Ok(())) => {
                self.account.lost(rejected.min(spans), &format!("it rejects spans: {why}"));
            }
            (_, Ok(())) => self.account.arrived(),
        }
        self.account.pending.fetch_sub(spans, Ordering::Relaxed);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// What becomes of the spans.
pub(super) struct Account {
    /// The collector, as it may be shown.
    collector: String,
    metrics: Arc<Metrics>,
    /// Spans that wait for their export, or are under way.
    pending: AtomicUsize,
    /// When a failure was said last, and whether that still holds.
    said: Mutex<Option<(Instant, bool)>>,
}

impl Account {
    pub(super) fn new(collector: &Collector, metrics: Arc<Metrics>) -> Self {
        let (collector, pending, said) = (collector.shown(), AtomicUsize::new(0), Mutex::new(None));
        Self { collector, metrics, pending, said }
    }

    /// Spans that are not exported yet.
    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// A span is to be exported.
    pub(super) fn begins(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// So many spans reach no collector.
    pub(super) fn lost(&self, spans: usize, why: &str) {
        self.metrics.otlp_failed(spans as u64);
        let mut said = self.said.lock();
        if said.is_none_or(|(at, _)| at.elapsed() >= SAY_PACE) {
            *said = Some((Instant::now(), true));
            tracing::warn!(
                collector = self.collector,
                spans,
                why,
                "traces do not arrive; pilotlight_otlp_failures_total counts the spans"
            );
        }
    }

    fn arrived(&self) {
        let mut said = self.said.lock();
        if said.as_mut().is_some_and(|(_, holds)| std::mem::take(holds)) {
            tracing::info!(collector = self.collector, "traces arrive again");
        }
    }
}

//! Owns a caller's wait for the reply to its run, and what it is told if there is none.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hyper::StatusCode;

use super::event_frame::EVENT_STREAM;
use super::function_error::{Completion, FunctionError};
use super::head::FUNCTION_ERROR;
use crate::dispatch::{IdempotencyKey, NamedController, ReplyRecorder};
use crate::http::h1::write_response;
use crate::http::problem::Problem;
use crate::http::response::{HttpResponse, append_field};
use crate::http::state::HttpState;
use crate::metrics::Route;
use crate::model::{MissReason, ReplyOutcome};
use crate::reply::{AwaitedReply, Caller, NamedRun, Reply, ReplyEnd, ReplyForm, ResponseStyle};
use crate::transport::{Connection, SlowReader};

/// A caller that reads slowly is sent more when fewer bytes than this wait in the kernel to be sent.
const MAX_UNSENT_BYTES: u32 = 4 * 1024;

/// A POST that awaits the reply to its run.
pub(in crate::http) struct PendingReply {
    awaited: AwaitedReply,
    /// How long its first byte is waited for, from the POST's last byte on.
    wait: Duration,
    /// Set if the run has a name of its own.
    name: Option<NamedRun>,
    route: Route,
}

/// A run that was handed to a controller.
pub(in crate::http) struct HandedRun {
    pub(in crate::http) run: Bytes,
    /// None if it is not known: its reply came before the proof did.
    pub(in crate::http) controller: Option<NamedController>,
    /// The version of the function that a caller of Invoke has called.
    pub(in crate::http) version: Option<Box<str>>,
    /// When the POST's last byte came.
    pub(in crate::http) since: Instant,
    pub(in crate::http) recorder: ReplyRecorder,
}

/// The reply to a run that was handed over.
pub(in crate::http) struct HandedReply {
    pending: Box<PendingReply>,
    run: HandedRun,
}

/// A reply under way, which the connection of its caller or of its worker is held for. `Break` if the connection is over with it;
/// otherwise what was read of its next request.
pub(in crate::http) type HeldReply = Pin<Box<dyn Future<Output = ControlFlow<(), BytesMut>> + Send>>;

/// What the request of a caller says of its connection.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct CallerTerms {
    pub(in crate::http) is_http_11: bool,
    /// Whether the connection ends with the response.
    pub(in crate::http) closes: bool,
}

impl PendingReply {
    /// Before the dispatch: no worker can answer yet. The caller is answered in this form. An error if the run was posted before, or a limit is reached.
    pub(in crate::http) fn begin(
        state: &HttpState,
        wait: Duration,
        name: Option<IdempotencyKey>,
        route: Route,
        form: ReplyForm,
    ) -> Result<Box<Self>, Problem> {
        let remember_for = state.limits().remember_runs;
        // If runs are not remembered, each POST is a run of its own.
        let name = name.filter(|_| !remember_for.is_zero());
        let name = name.map(|name| state.replies.name(name.digest(), remember_for)).transpose();
        let name = name.map_err(|earlier| Problem::run_posted_before(Some(earlier)))?;
        let awaited = state.replies.begin(form).ok_or_else(Problem::too_many_replies)?;
        Ok(Box::new(Self { awaited, wait, name, route }))
    }

    /// The same for the dispatch.
    pub(in crate::http) fn reply(&self) -> &Arc<Reply> {
        self.awaited.reply()
    }

    /// Counts a POST that is refused, because the reply has this outcome. The same response with it.
    pub(in crate::http) fn refuse(&mut self, outcome: ReplyOutcome, response: HttpResponse) -> HttpResponse {
        self.awaited.count(outcome);
        response.of_reply(outcome)
    }

    /// The response to a POST whose run missed, which is counted. The run may be posted again.
    pub(in crate::http) fn miss(&mut self, reason: MissReason, response: HttpResponse) -> HttpResponse {
        let (outcome, status, extra) = if reason == MissReason::Unknown {
            (ReplyOutcome::Unknown, StatusCode::GATEWAY_TIMEOUT, None)
        } else {
            (ReplyOutcome::Miss, StatusCode::SERVICE_UNAVAILABLE, Some(("retry-after", "1")))
        };
        self.awaited.count(outcome);
        let response = match self.reply().style() {
            ResponseStyle::Native => HttpResponse { status, extra, ..response },
            ResponseStyle::Invoke | ResponseStyle::InvokeStream => response,
        };
        response.of_reply(outcome)
    }

    /// The run was handed over.
    pub(in crate::http) fn handed_over(self: Box<Self>, run: HandedRun) -> HandedReply {
        HandedReply { pending: self, run }
    }
}

impl HandedReply {
    /// Waits for the reply, which its worker writes. `Break` if the connection is over with it. It owns all that it needs, so that the
    /// memory for the request can be freed meanwhile.
    pub(in crate::http) fn relay(
        self: Box<Self>,
        state: Arc<HttpState>,
        connection: Arc<Connection>,
        terms: CallerTerms,
    ) -> HeldReply {
        Box::pin(
            async move { self.wait(&state, &connection, terms).await.map_continue(|()| BytesMut::new()) },
        )
    }

    async fn wait(
        mut self: Box<Self>,
        state: &HttpState,
        connection: &Arc<Connection>,
        CallerTerms { is_http_11, closes }: CallerTerms,
    ) -> ControlFlow<()> {
        connection.limit_unsent(MAX_UNSENT_BYTES);
        let style = self.pending.reply().style();
        let fields = self.run.fields(style);
        let caller = Caller { connection: connection.clone(), is_http_11, closes, fields };
        self.pending.awaited.accept(caller);
        let PendingReply { awaited, wait, route, .. } = &*self.pending;
        let (first_byte_by, idle) = (self.run.since + *wait, state.limits().reply_idle);
        let slow_reader = SlowReader::new(connection, idle);
        let end = tokio::select! {
            biased;
            end = awaited.ended(first_byte_by.into(), idle) => end,
            () = connection.closed() => awaited.caller_left().await,
            () = slow_reader.vanished() => awaited.caller_left().await,
        };
        let refusal = refusal(style, &end, &self.run, *wait, closes);
        let status = refusal.as_ref().map_or(end.status, |refusal| refusal.status.as_u16());
        if end.outcome != ReplyOutcome::Cancelled {
            state.metrics.answered(*route, status);
        }
        self.record(state, &end, status);
        if let Some(refusal) = refusal {
            return write_response(connection, &refusal).await;
        }
        if !end.is_complete && !is_http_11 {
            // To this client, an ordinary end of the connection would be the end of the body.
            connection.reset();
        }
        if end.is_complete && closes {
            connection.shutdown_write();
        }
        if end.is_complete && !closes { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn record(&mut self, state: &HttpState, end: &ReplyEnd, status: u16) {
        let HandedRun { run, since, recorder, .. } = &self.run;
        let (outcome, took) = (end.outcome, since.elapsed());
        self.pending.awaited.count(outcome);
        if let Some(first_byte) = end.first_byte {
            state.metrics.reply_first_byte(first_byte.saturating_duration_since(*since));
            state.metrics.reply_last_byte(took);
            state.metrics.reply_size(end.bytes);
        }
        if let Some(name) = self.pending.name.take() {
            name.end(outcome);
        }
        recorder.ended(outcome, status, end.first_byte, end.bytes);
        let run = run.escape_ascii();
        tracing::debug!(%run, outcome = outcome.text(), bytes = end.bytes, seconds = took.as_secs_f64(), "a reply has ended");
    }
}

impl HandedRun {
    fn fields(&self, style: ResponseStyle) -> Vec<u8> {
        let controller = self.controller.as_ref();
        let name = controller.map(NamedController::name);
        match style {
            ResponseStyle::Native => {
                let metadata = controller.and_then(NamedController::metadata);
                caller_fields(&self.run, name, metadata)
            }
            ResponseStyle::Invoke | ResponseStyle::InvokeStream => {
                let mut fields = Vec::with_capacity(192);
                append_field(&mut fields, "x-amzn-requestid", &self.run);
                if let Some(version) = &self.version {
                    append_field(&mut fields, "x-amz-executed-version", version.as_bytes());
                }
                append_controller(&mut fields, name);
                fields
            }
        }
    }
}

fn append_controller(fields: &mut Vec<u8>, name: Option<&str>) {
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        append_field(fields, "pilotlight-controller", name.as_bytes());
    }
}

/// Fields of the response that say who has answered. The texts are printable ASCII: they were checked when they came.
pub(super) fn caller_fields(run: &[u8], controller: Option<&str>, metadata: Option<&str>) -> Vec<u8> {
    let mut fields = Vec::with_capacity(128);
    append_field(&mut fields, "pilotlight-run", run);
    append_controller(&mut fields, controller);
    if let Some(metadata) = metadata {
        append_field(&mut fields, "pilotlight-metadata", metadata.as_bytes());
    }
    fields
}

/// What the caller is told if no byte of a reply has come, and it has not left.
fn refusal(
    style: ResponseStyle,
    end: &ReplyEnd,
    run: &HandedRun,
    wait: Duration,
    closes: bool,
) -> Option<HttpResponse> {
    if end.first_byte.is_some() || end.outcome == ReplyOutcome::Cancelled {
        return None;
    }
    let response = match style {
        ResponseStyle::Native => {
            let is_late = end.outcome == ReplyOutcome::ReplyTimeout;
            let problem = if is_late { Problem::reply_timeout(wait) } else { Problem::reply_broken() };
            // A run without a name of its caller's is found in the records by this.
            problem.with_member("run", String::from_utf8_lossy(&run.run)).into()
        }
        ResponseStyle::Invoke => {
            let error = FunctionError::of_end(end.outcome, wait);
            let mut fields = run.fields(style);
            append_field(&mut fields, FUNCTION_ERROR, b"Unhandled");
            HttpResponse { fields, ..HttpResponse::json(StatusCode::OK, error.document) }
        }
        ResponseStyle::InvokeStream => {
            let error = FunctionError::of_end(end.outcome, wait);
            let mut body = Vec::new();
            Completion { error: Some(&error), log_tail: None }.write_event(&mut body);
            HttpResponse {
                fields: run.fields(style),
                ..HttpResponse::new(StatusCode::OK, EVENT_STREAM, body)
            }
        }
    };
    Some(HttpResponse { close: closes, ..response.of_reply(end.outcome) })
}

/// Counts a POST that asks for a reply and is refused before its dispatch. The same response with the reply's outcome.
pub(in crate::http) fn refuse_reply(
    state: &HttpState,
    outcome: ReplyOutcome,
    response: HttpResponse,
) -> HttpResponse {
    state.metrics.reply_ended(outcome);
    response.of_reply(outcome)
}

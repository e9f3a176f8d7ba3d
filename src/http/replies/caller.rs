//! Owns a caller's wait for the reply to its run, and what it is told if there is none.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::dispatch::NamedController;
use crate::http::h1::write_response;
use crate::http::problem::Problem;
use crate::http::response::{HttpResponse, append_field};
use crate::http::state::HttpState;
use crate::metrics::Route;
use crate::model::ReplyOutcome;
use crate::reply::{AwaitedReply, Caller, NamedRun, Reply, ReplyEnd};
use crate::transport::Connection;

/// So many bytes wait in the kernel for a caller that reads slowly, beside those that are on their way.
const MAX_UNSENT_BYTES: u32 = 16 * 1024;

/// A POST that awaits the reply to its run.
pub(in crate::http) struct PendingReply {
    awaited: AwaitedReply,
    /// How long its first byte is waited for, from the POST's last byte on.
    wait: Duration,
    /// Set if the run has a name of its own.
    name: Option<NamedRun>,
    run: Bytes,
    since: Instant,
    controller: Option<NamedController>,
    route: Route,
}

/// What the request of a caller says of its connection.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct CallerTerms {
    pub(in crate::http) is_http_11: bool,
    /// Whether the connection ends with the response.
    pub(in crate::http) closes: bool,
}

impl PendingReply {
    /// Before the dispatch: no worker can answer yet. An error if the run was posted before, or a limit is reached.
    pub(in crate::http) fn begin(
        state: &HttpState,
        wait: Duration,
        name: Option<[u8; 16]>,
        route: Route,
    ) -> Result<Self, Problem> {
        let remember_for = state.limits().remember_runs;
        let name = name.map(|name| state.replies.name(name, remember_for)).transpose();
        let name = name.map_err(|earlier| Problem::run_posted_before(Some(earlier)))?;
        let awaited = state.replies.begin().ok_or_else(Problem::too_many_replies)?;
        let (run, since, controller) = (Bytes::new(), Instant::now(), None);
        Ok(Self { awaited, wait, name, run, since, controller, route })
    }

    /// The same for the dispatch.
    pub(in crate::http) fn reply(&self) -> &Arc<Reply> {
        self.awaited.reply()
    }

    /// The run was handed to this controller. `since` is when the POST's last byte came.
    pub(in crate::http) fn handed_over(
        self,
        run: Bytes,
        controller: Option<NamedController>,
        since: Instant,
    ) -> Self {
        Self { run, since, controller, ..self }
    }

    /// Waits for the reply, which its worker writes. `Break` if the connection is over with it.
    pub(in crate::http) async fn relay(
        mut self,
        state: &HttpState,
        connection: &Arc<Connection>,
        terms: CallerTerms,
    ) -> ControlFlow<()> {
        connection.limit_unsent(MAX_UNSENT_BYTES);
        let CallerTerms { is_http_11, closes } = terms;
        let (connection_of_caller, fields) = (connection.clone(), self.fields());
        self.awaited.accept(Caller { connection: connection_of_caller, is_http_11, closes, fields });
        let first_byte_by = self.since + self.wait;
        let idle = state.limits().reply_idle;
        let end = tokio::select! {
            biased;
            end = self.awaited.ended(first_byte_by.into(), idle) => end,
            () = connection.closed() => self.awaited.cancel(),
        };
        self.record(state, &end);
        if end.outcome == ReplyOutcome::Cancelled {
            return ControlFlow::Break(());
        }
        if end.first_byte.is_none() {
            let response = self.refusal(closes, end.outcome);
            state.metrics.answered(self.route, response.status.as_u16());
            return write_response(connection, &response).await;
        }
        state.metrics.answered(self.route, end.status);
        if !end.is_complete && !is_http_11 {
            // To this client, an ordinary end of the connection would be the end of the body.
            connection.reset();
        }
        if end.is_complete && !closes { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// What the caller is told if no byte of a reply has come.
    fn refusal(&self, closes: bool, outcome: ReplyOutcome) -> HttpResponse {
        let problem = if outcome == ReplyOutcome::ReplyTimeout {
            Problem::reply_timeout(self.wait)
        } else {
            Problem::reply_broken()
        };
        let mut response = HttpResponse::from(problem).of_reply(outcome);
        response.close = closes;
        response
    }

    fn record(&mut self, state: &HttpState, end: &ReplyEnd) {
        let took = self.since.elapsed();
        let metrics = &state.metrics;
        metrics.reply_ended(end.outcome);
        if let Some(first_byte) = end.first_byte {
            metrics.reply_first_byte(first_byte.saturating_duration_since(self.since));
            metrics.reply_last_byte(took);
            metrics.reply_size(end.bytes);
        }
        if let Some(name) = self.name.take() {
            name.end(end.outcome);
        }
        tracing::debug!(run = %self.run.escape_ascii(), outcome = end.outcome.text(), bytes = end.bytes, ?took, "a reply has ended");
    }

    /// Fields of the response that say who has answered.
    fn fields(&self) -> Vec<u8> {
        let mut fields = Vec::with_capacity(128);
        append_field(&mut fields, "pilotlight-run", &self.run);
        if let Some(controller) = self.controller.as_ref().filter(|controller| !controller.name().is_empty())
        {
            append_field(&mut fields, "pilotlight-controller", controller.name().as_bytes());
        }
        if let Some(metadata) = self.controller.as_ref().and_then(NamedController::metadata) {
            append_field(&mut fields, "pilotlight-metadata", metadata.as_bytes());
        }
        append_field(&mut fields, "pilotlight-proof", b"replied");
        fields
    }
}

/// The response to a POST that asks for a reply and is refused before its dispatch, which is counted.
pub(in crate::http) fn refuse_reply(state: &HttpState, problem: Problem) -> HttpResponse {
    let outcome = problem.reply_outcome();
    state.metrics.reply_ended(outcome);
    HttpResponse::from(problem).of_reply(outcome)
}

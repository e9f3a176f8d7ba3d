//! Owns the dispatch of a POST, the same for every dialect: head, body, dispatcher, response, record.

use std::time::Instant;

use tracing::field::display;

use super::interface::{Dialect, ParsedDispatch};
use crate::dispatch::{DispatchRecorder, DispatchRequest, Outcome};
use crate::http::h1::{RequestBody, RequestHead, read_body};
use crate::http::problem::Problem;
use crate::http::response::HttpResponse;
use crate::http::state::HttpState;
use crate::model::MissReason;
use crate::transport::Run;

/// Dispatches a run, and counts the request. Its body has at most `body_limit` bytes.
pub(in crate::http) async fn dispatch(
    dialect: &dyn Dialect,
    state: &HttpState,
    head: &RequestHead<'_>,
    body: RequestBody,
    body_limit: usize,
) -> HttpResponse {
    let response = read_and_dispatch(dialect, state, head, body, body_limit).await;
    state.metrics.answered(dialect.dispatch_route(), response.status.as_u16());
    response
}

async fn read_and_dispatch(
    dialect: &dyn Dialect,
    state: &HttpState,
    head: &RequestHead<'_>,
    body: RequestBody,
    body_limit: usize,
) -> HttpResponse {
    let mut recorder = state.dispatcher.begin();
    let is_whole = matches!(body, RequestBody::Whole(_));
    // A fault in the head is reported before the body is asked for.
    let read = match dialect.parse_dispatch_head(head) {
        Ok(parsed) => read_body(&state.admission, head, body, body_limit).await.map(|body| (parsed, body)),
        Err(problem) if is_whole => Err(problem),
        Err(problem) => Err(problem.closing()),
    };
    if !is_whole {
        recorder.body_read();
    }
    let (parsed_head, body) = match read {
        Ok(read) => read,
        Err(problem) => return refuse(problem, None, recorder),
    };
    let limits = state.limits();
    let parsed = match dialect.parse_dispatch_body(state, &limits, parsed_head, &body) {
        Ok(parsed) => parsed,
        Err(problem) => return refuse(problem, None, recorder),
    };
    state.metrics.payload(parsed.payload.len());
    let ParsedDispatch { key, run, idempotency_key, content, payload_kind, content_type, payload, .. } =
        parsed;
    let Some(key) = key else {
        let outcome = Outcome { offers: 0, result: Err(MissReason::NoDeployment) };
        recorder.finish(&outcome, Instant::now());
        return dialect.render("", &outcome).after(recorder);
    };
    let id = recorder.name_run(&body, &run, key.as_ref(), state.trace_parent(head));
    let request = DispatchRequest {
        key: key.as_ref(),
        payload_kind,
        run: Run { id, content_type, payload },
        proof: parsed.proof.unwrap_or(limits.proof),
        redeliver: parsed.redeliver,
        idempotency_key,
        content,
        names_controller: dialect.names_controller(),
        wait: parsed.wait,
        deadline: recorder.since() + limits.dispatch_budget,
        times: limits.dispatch_times(),
    };
    drop(limits);
    let Ok(outcome) = state.dispatcher.dispatch(request, &mut recorder).await else {
        return refuse(Problem::run_name_conflict(state.limits().remember_runs), Some(&run), recorder);
    };
    tracing::debug!(run = %run.escape_default(), offers = outcome.offers,
        proof = outcome.result.as_ref().ok().map(|hit| hit.proof.text()),
        reason = outcome.result.as_ref().err().map(|miss| miss.text()),
        "dispatched");
    dialect.render(&run, &outcome).after(recorder)
}

/// `run` is the run's name, if it is known.
fn refuse(problem: Problem, run: Option<&str>, mut recorder: DispatchRecorder) -> HttpResponse {
    recorder.refuse(problem.outcome());
    let run = run.map(|run| display(run.escape_default()));
    tracing::debug!(run, why = problem.detail(), "a run was refused");
    HttpResponse::from(problem).after(recorder)
}

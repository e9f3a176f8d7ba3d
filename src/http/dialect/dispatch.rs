//! Owns the dispatch of a POST, the same for every dialect: head, body, dispatcher, response, record.

use tracing::field::display;

use super::interface::{Dialect, ParsedDispatch};
use crate::dispatch::{DispatchRecorder, DispatchRequest, Outcome};
use crate::http::h1::{RequestBody, RequestHead, read_body};
use crate::http::problem::Problem;
use crate::http::response::HttpResponse;
use crate::http::state::HttpState;
use crate::model::MissReason;
use crate::transport::Run;

/// Dispatches a run, and counts the request.
pub(in crate::http) async fn dispatch(
    dialect: &dyn Dialect,
    state: &HttpState,
    head: RequestHead<'_>,
    body: RequestBody,
) -> HttpResponse {
    let response = read_and_dispatch(dialect, state, head, body).await;
    state.metrics.answered(dialect.dispatch_route(), response.status.as_u16());
    response
}

async fn read_and_dispatch(
    dialect: &dyn Dialect,
    state: &HttpState,
    head: RequestHead<'_>,
    body: RequestBody,
) -> HttpResponse {
    let mut recorder = state.dispatcher.begin();
    let trace = state.trace_parent(&head);
    let limit = state.limits().body_limit;
    // A fault in the head is reported before the body is asked for.
    let read = match dialect.parse_dispatch_head(&head) {
        Ok(parsed) => read_body(&state.admission, &head, body, limit).await.map(|body| (parsed, body)),
        Err(problem) if matches!(body, RequestBody::Whole(_)) => Err(problem),
        Err(problem) => Err(problem.closing()),
    };
    let since = recorder.body_read();
    let (parsed_head, body) = match read {
        Ok(read) => read,
        Err(problem) => return refuse(problem, None, recorder),
    };
    let parsed = match dialect.parse_dispatch_body(state, parsed_head, &body) {
        Ok(parsed) => parsed,
        Err(problem) => return refuse(problem, None, recorder),
    };
    state.metrics.payload(parsed.payload.len());
    let ParsedDispatch { key, run, idempotency_key, content, payload_kind, content_type, payload, .. } =
        parsed;
    let Some(key) = key else {
        let outcome = Outcome { offers: 0, result: Err(MissReason::NoDeployment) };
        recorder.finish(&outcome);
        return dialect.render(&head, "", &outcome).after(recorder);
    };
    recorder.name_run(&run, key.as_ref(), trace);
    let limits = state.limits();
    let request = DispatchRequest {
        key: key.as_ref(),
        payload_kind,
        run: Run { id: run.as_ref().into(), content_type, payload },
        proof: parsed.proof.unwrap_or(limits.proof),
        redeliver: parsed.redeliver,
        idempotency_key,
        content,
        wait: parsed.wait,
        deadline: since + limits.dispatch_budget,
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
    dialect.render(&head, &run, &outcome).after(recorder)
}

/// `run` is the run's name, if it is known.
fn refuse(problem: Problem, run: Option<&str>, mut recorder: DispatchRecorder) -> HttpResponse {
    recorder.refuse(problem.outcome());
    let run = run.map(|run| display(run.escape_default()));
    tracing::debug!(run, why = problem.detail(), "a run was refused");
    HttpResponse::from(problem).after(recorder)
}

//! Owns the dispatch of a POST, the same for every dialect: head, body, dispatcher, response, record.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::field::display;

use super::interface::{Dialect, ParsedDispatch};
use crate::dispatch::{DispatchRecorder, DispatchRequest, IdempotencyKey, Outcome};
use crate::http::h1::{RequestBody, RequestHead, read_body};
use crate::http::problem::Problem;
use crate::http::replies::{HandedReply, HandedRun, PendingReply, refuse_reply};
use crate::http::response::HttpResponse;
use crate::http::state::HttpState;
use crate::model::MissReason;
use crate::reply::{ReplyForm, ResponseStyle};
use crate::transport::Run;

/// What a dispatch has come to.
pub(in crate::http) enum Dispatched {
    /// It is answered.
    Answered(HttpResponse),
    /// The run was handed over, and its reply is awaited.
    HandedOver(Box<HandedReply>),
}

/// Dispatches a run, and counts the request, or leaves that to its reply. Its body has at most `body_limit` bytes, unless the
/// dialect has a limit of its own.
pub(in crate::http) async fn dispatch(
    dialect: &dyn Dialect,
    state: &HttpState,
    head: &RequestHead<'_>,
    body: RequestBody,
    body_limit: usize,
) -> Dispatched {
    let dispatched = read_and_dispatch(dialect, state, head, body, body_limit).await;
    if let Dispatched::Answered(response) = &dispatched {
        state.metrics.answered(dialect.dispatch_route(), response.status.as_u16());
    }
    dispatched
}

async fn read_and_dispatch(
    dialect: &dyn Dialect,
    state: &HttpState,
    head: &RequestHead<'_>,
    body: RequestBody,
    body_limit: usize,
) -> Dispatched {
    let mut recorder = state.dispatcher.begin();
    let is_whole = matches!(body, RequestBody::Whole(_));
    let refuse =
        |problem, run, pending, recorder| refusal(dialect, state, head, problem, run, pending, recorder);
    // A fault in the head is reported before the body is asked for.
    let read = match dialect.parse_dispatch_head(state, head) {
        Ok(parsed) => read_body(&state.admission, head, body, parsed.body_limit.unwrap_or(body_limit))
            .await
            .map(|body| (parsed, body)),
        Err(problem) if is_whole => Err(problem),
        Err(problem) => Err(problem.closing()),
    };
    if !is_whole {
        recorder.body_read();
    }
    let (parsed_head, body) = match read {
        Ok(read) => read,
        Err(problem) => return refuse(problem, None, None, recorder),
    };
    let limits = state.limits();
    let parsed = match dialect.parse_dispatch_body(state, &limits, parsed_head, &body) {
        Ok(parsed) => parsed,
        Err(problem) => return refuse(problem, None, None, recorder),
    };
    if parsed.is_dry_run {
        recorder.discard();
        return Dispatched::Answered(dialect.dry_run(&parsed.run));
    }
    state.metrics.payload(parsed.payload.len());
    let ParsedDispatch { key, run, idempotency_key, content, payload_kind, content_type, payload, .. } =
        parsed;
    let Some(key) = key else {
        let outcome = Outcome { offers: 0, result: Err(MissReason::NoDeployment) };
        recorder.finish(&outcome, Instant::now());
        return Dispatched::Answered(dialect.render("", &outcome).after(recorder));
    };
    let begin = |wait| begin_reply(dialect, state, wait, idempotency_key, parsed.wants_log);
    let pending = match parsed.reply.map(begin).transpose() {
        Ok(pending) => pending,
        Err(problem) => return refuse(problem, Some(&run), None, recorder),
    };
    let id = recorder.name_run(&body, &run, key.as_ref(), state.trace_parent(head));
    let request = DispatchRequest {
        key: key.as_ref(),
        payload_kind,
        run: Run { id: id.clone(), content_type, payload, reply: None, fields: parsed.fields },
        proof: parsed.proof.unwrap_or(limits.proof),
        redeliver: parsed.redeliver,
        idempotency_key,
        content,
        names_controller: dialect.names_controller(),
        reply: pending.as_ref().map(|pending| pending.reply().clone()),
        wait: parsed.wait,
        deadline: recorder.since() + limits.dispatch_budget,
        times: limits.dispatch_times(),
    };
    drop(limits);
    let Ok(outcome) = state.dispatcher.dispatch(request, &mut recorder).await else {
        let problem = Problem::run_name_conflict(state.limits().remember_runs);
        return refuse(problem, Some(&run), pending, recorder);
    };
    log_dispatched(&run, &outcome);
    match pending {
        None => Dispatched::Answered(dialect.render(&run, &outcome).after(recorder)),
        Some(pending) => {
            let asked = Asked { dialect, head, name: &run, version: &key.version };
            follow_with_reply(&asked, id, outcome, pending, recorder)
        }
    }
}

/// Before the dispatch of a run whose reply is awaited. An error if there can be none.
fn begin_reply(
    dialect: &dyn Dialect,
    state: &HttpState,
    wait: Duration,
    name: Option<IdempotencyKey>,
    wants_log: bool,
) -> Result<Box<PendingReply>, Problem> {
    let form = ReplyForm { style: dialect.reply_style(), wants_log };
    PendingReply::begin(state, wait, name, dialect.dispatch_route(), form)
}

fn log_dispatched(run: &str, outcome: &Outcome) {
    tracing::debug!(run = %run.escape_default(), offers = outcome.offers,
        proof = outcome.result.as_ref().ok().map(|hit| hit.proof.text()),
        reason = outcome.result.as_ref().err().map(|miss| miss.text()),
        "dispatched");
}

/// The request of a run whose reply is awaited.
struct Asked<'a> {
    dialect: &'a dyn Dialect,
    head: &'a RequestHead<'a>,
    name: &'a str,
    version: &'a str,
}

/// What follows the dispatch of a run whose reply is awaited.
fn follow_with_reply(
    asked: &Asked<'_>,
    run: Bytes,
    outcome: Outcome,
    mut pending: Box<PendingReply>,
    recorder: DispatchRecorder,
) -> Dispatched {
    let Asked { dialect, head, name, version } = *asked;
    let response = match &outcome.result {
        Ok(_) if pending.reply().was_offered() => {
            let controller = outcome.result.ok().and_then(|hit| hit.controller);
            // With it, the record of the dispatch is complete.
            let (since, recorder) = (recorder.since(), recorder.into_reply());
            let names_version = dialect.reply_style() != ResponseStyle::Native;
            let version = names_version.then(|| version.into());
            let run = HandedRun { run, controller, version, since, recorder };
            return Dispatched::HandedOver(Box::new(pending.handed_over(run)));
        }
        // An earlier POST has delivered the run, and has asked for no reply.
        Ok(_) => refuse_pending(dialect, head, &mut pending, Problem::run_posted_before(None)),
        Err(reason) => pending.miss(*reason, dialect.render(name, &outcome)),
    };
    Dispatched::Answered(response.after(recorder))
}

/// The response to a dispatch that is refused. If it asks for a reply, that is counted.
pub(in crate::http) fn refuse(
    dialect: &dyn Dialect,
    state: &HttpState,
    head: &RequestHead<'_>,
    problem: Problem,
) -> HttpResponse {
    let outcome = problem.reply_outcome();
    let response = dialect.refuse(head, problem);
    if dialect.asks_for_reply(head) { refuse_reply(state, outcome, response) } else { response }
}

/// The same once the reply is counted as awaited.
fn refuse_pending(
    dialect: &dyn Dialect,
    head: &RequestHead<'_>,
    pending: &mut PendingReply,
    problem: Problem,
) -> HttpResponse {
    pending.refuse(problem.reply_outcome(), dialect.refuse(head, problem))
}

/// `run` is the run's name, if it is known.
fn refusal(
    dialect: &dyn Dialect,
    state: &HttpState,
    head: &RequestHead<'_>,
    problem: Problem,
    run: Option<&str>,
    pending: Option<Box<PendingReply>>,
    mut recorder: DispatchRecorder,
) -> Dispatched {
    recorder.refuse(problem.outcome());
    let run = run.map(|run| display(run.escape_default()));
    tracing::debug!(run, why = problem.detail(), "a run was refused");
    let response = match pending {
        Some(mut pending) => refuse_pending(dialect, head, &mut pending, problem),
        None => refuse(dialect, state, head, problem),
    };
    Dispatched::Answered(response.after(recorder))
}

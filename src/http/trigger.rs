//! Owns the dialect of Trigger.dev: its three routes, as its stock clients expect them.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;

use super::body::{self, Source};
use super::head::RequestHead;
use super::message::{Message, MessageError};
use super::problem::Problem;
use super::response::HttpResponse;
use super::{Action, ClientAddr, HttpState, PollRequest, run_response};
use crate::auth::{MAX_TOKEN_BYTES, TokenError};
use crate::broker::{AcceptedPayload, Key, Number, PayloadKind, check_part};
use crate::dispatch::{DispatchRecorder, DispatchRequest, IdempotencyKey, Outcome, RunNameConflict};
use crate::journal::TraceParent;
use crate::logging::Throttle;
use crate::model::MissReason;
use crate::transport::{CloseReason, CloseResponse, ResponseFormat, Run};

const CONTROLLER: &str = "x-trigger-workload-controller-id";
const DEPLOYMENT: &str = "x-trigger-deployment-id";
const VERSION: &str = "x-trigger-deployment-version";
const CPU: &str = "x-trigger-machine-cpu";
const MEMORY: &str = "x-trigger-machine-memory";
const INSTANCE: &str = "x-trigger-worker-instance-name";

/// The client's timer starts before its request is seen here: this long before its end it is offered nothing.
const RETIRE_GUARD: Duration = Duration::from_millis(250);
/// The client ends a poll itself; one that outlives its time by this much has nobody behind it.
const GRACE: Duration = Duration::from_secs(2);

/// How a stock controller is answered.
static WIRE: ResponseFormat = ResponseFormat {
    head: |run, keep_alive, head| run_response::head(run, keep_alive, false, head),
    close_response: goodbye,
};

/// Only two of a stock controller's ends have a status: elsewhere is 307, for good is 410. Any other would end it.
fn goodbye(farewell: CloseReason, _: Option<u64>) -> CloseResponse {
    let answer: &[u8] = match farewell {
        CloseReason::Expired | CloseReason::Replaced => b"",
        CloseReason::Drained => {
            b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /warm-start\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        }
        CloseReason::Retired => b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    };
    CloseResponse { bytes: answer.into(), reusable: false }
}

/// `GET /connect`: how to wait.
pub(super) fn connect(front: &HttpState, _: ClientAddr, _: &RequestHead<'_>) -> Action {
    Action::Respond(times(front))
}

/// How long to wait, and for how long to go on.
pub(super) fn times(front: &HttpState) -> HttpResponse {
    let terms = front.limits();
    let body = format!(
        r#"{{"connectionTimeoutMs":{},"keepaliveMs":{}}}"#,
        terms.connection_timeout.as_millis(),
        terms.keepalive.as_millis()
    );
    HttpResponse::json(StatusCode::OK, body)
}

/// `GET /warm-start`: a controller waits.
pub(super) fn poll(front: &HttpState, from: ClientAddr, head: &RequestHead<'_>) -> Action {
    match read_poll(front, from, head) {
        Ok(wait) => Action::Park(wait),
        Err(problem) => {
            // A controller that cannot say who it is will never be matched: the status that ends it is deliberate.
            // One line a second: strangers must not be able to fill a disk. The metrics count them all.
            static LINES: Throttle = Throttle::new();
            if LINES.is_open() {
                tracing::warn!(why = problem.detail(), "a poll was refused");
            }
            problem.into()
        }
    }
}

fn read_poll(
    front: &HttpState,
    from: ClientAddr,
    head: &RequestHead<'_>,
) -> Result<Box<PollRequest>, Problem> {
    let text = |name: &'static str| match head.fields.single(name) {
        Ok(Some(text)) if !text.is_empty() => Ok(text),
        Ok(_) => Err(Problem::bad_key(name, "is missing or empty")),
        Err(()) => Err(Problem::bad_key(name, "stands more than once, or is not printable ASCII")),
    };
    let part = |name, text| check_part(text).map(Box::from).map_err(|error| Problem::bad_key(name, error));
    let number =
        |name| text(name).and_then(|t| Number::parse(t).map_err(|error| Problem::bad_key(name, error)));
    let deployment = text(DEPLOYMENT)?;
    if deployment.len() > MAX_TOKEN_BYTES {
        return Err(Problem::bad_key(DEPLOYMENT, "is longer than 4096 bytes"));
    }
    let version = text(VERSION)?;
    let terms = front.limits();
    let deployment = terms.access.resolve_deployment(deployment, version).and_then(|named| {
        let out_of_role = terms.access.is_supervisor_credential(head.fields.values("authorization").next());
        if out_of_role { Err(TokenError::WrongRole) } else { Ok(named) }
    });
    let deployment = deployment.map_err(|why| Problem::bad_token(front, DEPLOYMENT, why))?;
    let name = |name| match head.fields.single(name) {
        Ok(None | Some("")) => Ok(""),
        Ok(Some(text)) => check_part(text).map_err(|error| Problem::bad_key(name, error)),
        Err(()) => Err(Problem::bad_key(name, "stands more than once, or is not printable ASCII")),
    };
    Ok(Box::new(PollRequest {
        key: Key {
            deployment: part(DEPLOYMENT, &deployment)?,
            version: part(VERSION, version)?,
            cpu: number(CPU)?,
            memory: number(MEMORY)?,
        },
        accepts: AcceptedPayload::TriggerMessage,
        controller: name(CONTROLLER)?.into(),
        host: front.exchange.host_id(from.origin(), name(INSTANCE)?),
        client: from,
        format: &WIRE,
        reusable: head.is_reusable(),
        timeout: terms.connection_timeout,
        guard: Some(RETIRE_GUARD),
        grace: GRACE,
    }))
}

/// `POST /warm-start`: a supervisor posts a run.
pub(super) async fn dispatch(state: &HttpState, head: RequestHead<'_>, body: Source) -> HttpResponse {
    let mut recorder = state.dispatcher.begin();
    let trace = state.trace(&head);
    let limit = state.limits().body_limit;
    let read = body::read(&state.admission, &head, body, limit).await;
    let since = recorder.body_read();
    match read {
        Ok(body) => dispatch_body(state, &body, since, trace, recorder).await,
        Err(problem) => refuse(problem, recorder),
    }
}

async fn dispatch_body(
    state: &HttpState,
    body: &Bytes,
    since: Instant,
    trace: Option<TraceParent>,
    mut recorder: DispatchRecorder,
) -> HttpResponse {
    let limits = state.limits();
    let (payload, message) = match Message::in_body(body, limits.message_check) {
        Ok(read) => read,
        Err(error) => return refuse(record_refusal(state, &error), recorder),
    };
    state.metrics.payload(payload.len());
    let Some(key) = message.key() else {
        let outcome = Outcome { offers: 0, result: Err(MissReason::NoDeployment) };
        recorder.finish(&outcome);
        return render(&outcome).after(recorder);
    };
    recorder.name_run(message.run(), key, trace);
    let request = DispatchRequest {
        key,
        payload_kind: PayloadKind::TriggerMessage,
        run: Run {
            id: message.run().into(),
            content_type: Bytes::from_static(b"application/json"),
            payload: body.slice_ref(payload.as_bytes()),
        },
        proof: limits.proof,
        // The platform refuses a second start of a run, so one that may be lost is offered again.
        redeliver: true,
        idempotency_key: Some(IdempotencyKey::new(message.run(), message.snapshot(), key)),
        content: None,
        wait: Duration::ZERO,
        deadline: since + limits.dispatch_budget,
        times: limits.dispatch_times(),
    };
    drop(limits);
    match state.dispatcher.dispatch(request, &mut recorder).await {
        Ok(outcome) => {
            tracing::debug!(run = %message.run().escape_default(), offers = outcome.offers,
                proof = outcome.result.as_ref().ok().map(|hit| hit.proof.text()),
                reason = outcome.result.as_ref().err().map(|miss| miss.text()),
                "dispatched");
            render(&outcome).after(recorder)
        }
        Err(RunNameConflict) => refuse(Problem::run_name_conflict(state.limits().remember_runs), recorder),
    }
}

fn refuse(problem: Problem, mut recorder: DispatchRecorder) -> HttpResponse {
    recorder.refuse(problem.outcome());
    tracing::debug!(why = problem.detail(), "a run was refused");
    HttpResponse::from(problem).after(recorder)
}

/// Counts a message that would end a stock controller. A platform that is newer than the broker sends nothing else, and
/// its supervisors start every run cold without a word: so it is a line of the log, once for each field.
fn record_refusal(state: &HttpState, error: &MessageError) -> Problem {
    static SAID: AtomicU32 = AtomicU32::new(0);
    let field = error.field();
    state.metrics.message_refused(field);
    let bit = 1 << field as u32;
    if SAID.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
        tracing::warn!(
            field = field.text(),
            why = %error,
            "a message was refused, and its run starts cold; this line comes once for each field, \
             pilotlight_messages_refused_total counts them all"
        );
    }
    Problem::bad_body(error)
}

fn render(outcome: &Outcome) -> HttpResponse {
    let mut body = Vec::with_capacity(64);
    // Writing into a Vec cannot fail.
    let _ = match &outcome.result {
        Ok(hit) => {
            write!(
                body,
                r#"{{"didWarmStart":true,"proof":"{}","offers":{}}}"#,
                hit.proof.text(),
                outcome.offers
            )
        }
        Err(miss) => {
            write!(body, r#"{{"didWarmStart":false,"reason":"{}","offers":{}}}"#, miss.text(), outcome.offers)
        }
    };
    HttpResponse::json(StatusCode::OK, body)
}

//! Owns the broker's own dialect, `/v1/pools/…`: one URL is one pool, the payload is opaque bytes.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;
use percent_encoding::percent_decode_str;

use super::body::{self, Source};
use super::head::RequestHead;
use super::message::Message;
use super::problem::Problem;
use super::response::HttpResponse;
use super::{Action, ClientAddr, HttpState, PollRequest, run_response};
use crate::broker::{AcceptedPayload, Key, Number, PayloadKind, check_part};
use crate::config::CAN_PROVE;
use crate::dispatch::{DispatchRequest, IdempotencyKey, Outcome, content_hash};
use crate::model::Proof;
use crate::transport::{CloseReason, CloseResponse, ResponseFormat, Run};

pub(super) const PREFIX: &str = "/v1/pools/";
const CONTROLLER: &str = "pilotlight-controller";
const RUN: &str = "pilotlight-run";

/// How a controller of this dialect is answered.
static WIRE: ResponseFormat = ResponseFormat {
    head: |run, keep_alive, head| run_response::head(run, keep_alive, true, head),
    close_response: goodbye,
};

fn goodbye(farewell: CloseReason, keep_alive: Option<u64>) -> CloseResponse {
    let last = |answer: &'static [u8]| CloseResponse { bytes: answer.into(), reusable: false };
    match farewell {
        CloseReason::Expired => {
            let mut answer = b"HTTP/1.1 204 No Content".to_vec();
            run_response::connection(keep_alive, &mut answer);
            answer.extend_from_slice(b"\r\n\r\n");
            CloseResponse { bytes: answer.into(), reusable: true }
        }
        // "No run came" is true of a drain as well, and what a client does then is right: it asks again.
        CloseReason::Drained => last(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"),
        CloseReason::Retired => last(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
        CloseReason::Replaced => last(b""),
    }
}

/// The query of either route; each route refuses what it has no use for.
#[derive(Debug, Default)]
struct Query {
    timeout: Option<Duration>,
    wait: Option<Duration>,
    redeliver: Option<bool>,
    proof: Option<Proof>,
}

impl Query {
    fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&&*name) {
                let known = known.join(", ");
                return Err(Problem::bad_parameter(
                    "The query",
                    format!("has an unknown name; known: {known}"),
                ));
            }
            let duration = |what| {
                humantime::parse_duration(&value)
                    .map(Some)
                    .map_err(|_| Problem::bad_parameter(what, "is not a duration such as 200ms or 30s"))
            };
            match &*name {
                "timeout" => parsed.timeout = duration("timeout")?,
                "wait" => parsed.wait = duration("wait")?,
                "redeliver" => {
                    let bad = || Problem::bad_parameter("redeliver", "is neither true nor false");
                    parsed.redeliver = Some(value.parse().map_err(|_| bad())?);
                }
                _ => parsed.proof = Some(proof(&value)?),
            }
        }
        Ok(parsed)
    }
}

fn proof(value: &str) -> Result<Proof, Problem> {
    match value {
        "written" => Ok(Proof::Written),
        "acked" | "received" if !CAN_PROVE => {
            Err(Problem::bad_parameter("proof", "is above what can be proved on this system: written"))
        }
        "acked" => Ok(Proof::Acked),
        "received" => Ok(Proof::Received),
        _ => Err(Problem::bad_parameter("proof", "is none of written, acked, received")),
    }
}

/// The key that a path names: four segments, each percent-encoded.
pub(super) fn key(path: &str) -> Result<Key, Problem> {
    let segments: Vec<&str> = path.strip_prefix(PREFIX).unwrap_or_default().split('/').collect();
    let [deployment, version, cpu, memory] = segments[..] else {
        return Err(Problem::bad_key("The path", "is not /v1/pools/{deployment}/{version}/{cpu}/{memory}"));
    };
    let part = |name, segment| {
        check_part(&decoded(name, segment)?).map(Box::from).map_err(|error| Problem::bad_key(name, error))
    };
    let number = |name, segment| {
        Number::parse(&decoded(name, segment)?).map_err(|error| Problem::bad_key(name, error))
    };
    Ok(Key {
        deployment: part("The deployment", deployment)?,
        version: part("The version", version)?,
        cpu: number("The cpu figure", cpu)?,
        memory: number("The memory figure", memory)?,
    })
}

fn decoded<'a>(name: &str, segment: &'a str) -> Result<Cow<'a, str>, Problem> {
    if !is_encoded(segment) {
        return Err(Problem::bad_key(name, "has a % without two hexadecimal digits after it"));
    }
    let decoded = percent_decode_str(segment).decode_utf8();
    decoded.map_err(|_| Problem::bad_key(name, "is not percent-encoded UTF-8"))
}

/// Whether each % begins an encoded byte: decoders differ in what they make of one that does not.
fn is_encoded(segment: &str) -> bool {
    segment.split('%').skip(1).all(|after| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// A name in a header: short printable text, at most once; empty if absent.
fn name(head: &RequestHead<'_>, header: &'static str) -> Result<Box<str>, Problem> {
    match head.fields.single(header) {
        Ok(None) => Ok("".into()),
        Ok(Some(text)) => {
            check_part(text).map(Box::from).map_err(|error| Problem::bad_parameter(header, error))
        }
        Err(()) => Err(Problem::bad_parameter(header, "stands more than once, or is not printable ASCII")),
    }
}

/// `GET /v1/pools/…`: a controller waits.
pub(super) fn poll(front: &HttpState, from: ClientAddr, head: &RequestHead<'_>) -> Action {
    read_poll(front, from, head).map_or_else(Action::from, Action::Park)
}

fn read_poll(
    front: &HttpState,
    from: ClientAddr,
    head: &RequestHead<'_>,
) -> Result<Box<PollRequest>, Problem> {
    let terms = front.limits();
    let cap = terms.connection_timeout;
    let query = Query::parse(head.query, &["timeout"])?;
    let timeout = query.timeout.unwrap_or(cap);
    if timeout > cap {
        let why = format!("is at most {} here", humantime::format_duration(cap));
        return Err(Problem::bad_parameter("timeout", why));
    }
    let key = key(head.path)?;
    let authorization = head.fields.values("authorization").next();
    let admitted = terms.access.authorize_poll(authorization, &key.deployment, &key.version);
    admitted.map_err(|why| Problem::bad_token(front, "The Authorization header", why))?;
    Ok(Box::new(PollRequest {
        key,
        accepts: AcceptedPayload::Any,
        controller: name(head, CONTROLLER)?,
        host: front.exchange.host_id(from.origin(), ""),
        client: from,
        format: &WIRE,
        reusable: head.is_reusable(),
        timeout,
        guard: None,
        grace: Duration::ZERO,
    }))
}

/// What a POST of this dialect asks for, besides its body.
struct DispatchHead {
    key: Key,
    query: Query,
    /// The run's name as the supervisor gave it; empty if it gave none.
    run: Box<str>,
    content_type: Bytes,
}

fn read_dispatch(head: &RequestHead<'_>) -> Result<DispatchHead, Problem> {
    let content_type = head.fields.values("content-type").next();
    Ok(DispatchHead {
        key: key(head.path)?,
        query: Query::parse(head.query, &["wait", "redeliver", "proof"])?,
        run: name(head, RUN)?,
        content_type: content_type
            .map_or(Bytes::from_static(b"application/octet-stream"), Bytes::copy_from_slice),
    })
}

/// `POST /v1/pools/…`: a supervisor posts a run.
pub(super) async fn dispatch(state: &HttpState, head: RequestHead<'_>, body: Source) -> HttpResponse {
    let mut recorder = state.dispatcher.begin();
    let trace = state.trace(&head);
    let limit = state.limits().body_limit;
    // A fault in the head is reported before the body is asked for.
    let read = match read_dispatch(&head) {
        Ok(parsed) => body::read(&state.admission, &head, body, limit).await.map(|payload| (parsed, payload)),
        Err(problem) if matches!(body, Source::Whole(_)) => Err(problem),
        Err(problem) => Err(problem.closing()),
    };
    let since = recorder.body_read();
    let (mut head, payload) = match read {
        Ok(read) => read,
        Err(problem) => {
            recorder.refuse(problem.outcome());
            return HttpResponse::from(problem).after(recorder);
        }
    };
    state.metrics.payload(payload.len());
    let is_named = !head.run.is_empty();
    if !is_named {
        head.run = format!("run_{:016x}", fastrand::u64(..)).into();
    }
    recorder.name_run(&head.run, head.key.as_ref(), trace);
    let request = request(state, &head, is_named, payload, since);
    let Ok(outcome) = state.dispatcher.dispatch(request, &mut recorder).await else {
        let problem = Problem::run_name_conflict(state.limits().remember_runs);
        recorder.refuse(problem.outcome());
        tracing::debug!(run = %head.run.escape_default(), why = problem.detail(), "a run was refused");
        return HttpResponse::from(problem).after(recorder);
    };
    tracing::debug!(run = %head.run.escape_default(), offers = outcome.offers,
        proof = outcome.result.as_ref().ok().map(|hit| hit.proof.text()),
        reason = outcome.result.as_ref().err().map(|miss| miss.text()),
        "dispatched");
    render(&head.run, &outcome).after(recorder)
}

fn request<'a>(
    state: &HttpState,
    head: &'a DispatchHead,
    is_named: bool,
    payload: Bytes,
    since: Instant,
) -> DispatchRequest<'a> {
    let limits = state.limits();
    // A stock controller exits on anything but a valid message.
    let is_message = Message::parse(&payload, limits.message_check).is_some();
    DispatchRequest {
        key: head.key.as_ref(),
        payload_kind: if is_message { PayloadKind::TriggerMessage } else { PayloadKind::Opaque },
        proof: head.query.proof.unwrap_or(limits.proof),
        redeliver: head.query.redeliver.unwrap_or(false),
        idempotency_key: is_named.then(|| IdempotencyKey::new(&head.run, "", head.key.as_ref())),
        content: if is_named { content_hash(&payload) } else { None },
        wait: head.query.wait.unwrap_or_default(),
        deadline: since + limits.dispatch_budget,
        times: limits.dispatch_times(),
        run: Run { id: head.run.clone(), content_type: head.content_type.clone(), payload },
    }
}

fn render(run: &str, outcome: &Outcome) -> HttpResponse {
    let body = match &outcome.result {
        Ok(hit) => serde_json::json!({
            "delivered": true,
            "proof": hit.proof.text(),
            "offers": outcome.offers,
            "controller": hit.controller,
            "run": run,
        }),
        Err(miss) => serde_json::json!({
            "delivered": false,
            "reason": miss.text(),
            "offers": outcome.offers,
            "run": run,
        }),
    };
    HttpResponse::json(StatusCode::OK, body.to_string())
}

//! Owns the broker's own dialect, `/v1/pools/…`: one URL is one pool, and the payload is opaque bytes.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use percent_encoding::percent_decode_str;

use super::interface::{
    Dialect, DispatchHead, ParsedDispatch, PollKind, PollRequest, PollTerms, PoolKey, Resource,
};
use super::run_name::RunName;
use super::run_response::write_run_head;
use super::trigger::Message;
use crate::broker::{AcceptedPayload, Number, PayloadKind, check_part};
use crate::config::CAN_PROVE;
use crate::dispatch::{NamedController, Outcome};
use crate::http::client_addr::ClientAddr;
use crate::http::h1::{FieldName, METADATA, REPLY as REPLY_FIELD, RequestHead, Signs};
use crate::http::problem::Problem;
use crate::http::response::{HttpResponse, write_keep_alive};
use crate::http::state::{HttpState, RequestLimits};
use crate::json;
use crate::metrics::Route;
use crate::model::Proof;
use crate::transport::{CloseReason, CloseResponse, MAX_SLOTS, ResponseFormat, accept_key};

const PREFIX: &str = "/v1/pools/";
/// The parameter of a dispatch that asks for a reply.
const REPLY: &str = "reply";
/// The answer to a dispatch is seldom longer.
const USUAL_ANSWER_BYTES: usize = 192;
/// The most bytes of a waiter's metadata.
const MAX_METADATA_BYTES: usize = 1024;

/// How a poll of this dialect is answered.
static RESPONSE_FORMAT: ResponseFormat = ResponseFormat {
    head: |run, keep_alive, head| write_run_head(run, keep_alive, true, head),
    close_response,
};

fn close_response(reason: CloseReason<'_>, keep_alive: Option<u64>) -> CloseResponse {
    let last = |response: &'static [u8]| CloseResponse { bytes: response.into(), reusable: false };
    match reason {
        CloseReason::Expired => {
            let mut response = b"HTTP/1.1 204 No Content".to_vec();
            write_keep_alive(keep_alive, &mut response);
            response.extend_from_slice(b"\r\n\r\n");
            CloseResponse { bytes: response.into(), reusable: true }
        }
        // 204 means that no run came, which is true of a drain as well: the client polls its own URL again. Not every client of
        // this dialect follows a redirect, or would send its token along to another origin, so `redirect_to` is not for it.
        CloseReason::Drained { redirect_to: _ } => {
            last(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        }
        CloseReason::Retired => last(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
        CloseReason::Replaced => last(b""),
    }
}

/// The dialect.
pub(super) struct Native;

impl Dialect for Native {
    fn resource(&self, path: &str) -> Option<Resource> {
        path.starts_with(PREFIX).then_some(Resource::Pool)
    }

    fn poll_route(&self) -> Route {
        Route::NativePoll
    }

    fn dispatch_route(&self) -> Route {
        Route::NativeDispatch
    }

    fn check_pool(&self, head: &RequestHead<'_>) -> HttpResponse {
        parse_key(head.path).map_or_else(HttpResponse::from, |_| HttpResponse::empty())
    }

    /// `GET /v1/pools/…`
    fn parse_poll<'a>(
        &self,
        state: &HttpState,
        limits: &RequestLimits,
        client: ClientAddr,
        head: &RequestHead<'a>,
    ) -> Result<PollRequest<'a>, Problem> {
        let kind = parse_kind(limits, head)?;
        let key = parse_key(head.path)?;
        let authorization = head.fields.value(FieldName::Authorization);
        let authorized = limits.access.authorize_poll(authorization, &key.deployment, &key.version);
        authorized.map_err(|error| state.refuse_token("The Authorization header", error))?;
        Ok(PollRequest {
            key,
            accepts: AcceptedPayload::Any,
            controller: parse_name(head, FieldName::NativeController)?.into(),
            host: state.exchange.host_id(client.origin(), ""),
            client,
            metadata: parse_metadata(head)?,
            kind,
        })
    }

    /// `POST /v1/pools/…`
    fn parse_dispatch_head<'a>(
        &self,
        _: &HttpState,
        head: &RequestHead<'a>,
    ) -> Result<DispatchHead<'a>, Problem> {
        let key = parse_key(head.path)?;
        let query = PoolQuery::parse(head.query, &["wait", "redeliver", "proof", REPLY])?;
        Ok(DispatchHead {
            key: Some(key),
            run: parse_name(head, FieldName::NativeRun)?,
            content_type: head.fields.value(FieldName::ContentType),
            proof: query.proof,
            redeliver: query.redeliver,
            wait: query.wait,
            reply: query.reply,
            ..DispatchHead::default()
        })
    }

    fn asks_for_reply(&self, head: &RequestHead<'_>) -> bool {
        head.query
            .is_some_and(|query| form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == REPLY))
    }

    fn parse_dispatch_body<'a>(
        &self,
        state: &HttpState,
        limits: &RequestLimits,
        head: DispatchHead<'a>,
        body: &'a Bytes,
    ) -> Result<ParsedDispatch<'a>, Problem> {
        let DispatchHead { key, run, content_type, proof, redeliver, wait, reply, .. } = head;
        let max_wait = limits.max_reply_wait;
        if reply.is_some_and(|reply| reply > max_wait) {
            let why = format!("is at most {} here", humantime::format_duration(max_wait));
            return Err(Problem::bad_parameter(REPLY, why));
        }
        let random = || format!("run_{:016x}", fastrand::u64(..));
        let RunName { run, idempotency_key, content } = RunName::new(state, run, key.as_ref(), body, random);
        // A stock controller exits on anything but a valid message, and cannot reply.
        let is_message = reply.is_none() && Message::parse(body, limits.message_check).is_some();
        Ok(ParsedDispatch {
            key,
            run,
            idempotency_key,
            content,
            payload_kind: if is_message { PayloadKind::TriggerMessage } else { PayloadKind::Opaque },
            content_type: content_type
                .map_or(Bytes::from_static(b"application/octet-stream"), Bytes::copy_from_slice),
            payload: body.clone(),
            proof,
            redeliver: redeliver.unwrap_or(false),
            wait: wait.unwrap_or_default(),
            reply,
            fields: None,
            wants_log: false,
            is_dry_run: false,
        })
    }

    fn names_controller(&self) -> bool {
        true
    }

    fn render(&self, run: &str, outcome: &Outcome) -> HttpResponse {
        let mut body = Vec::with_capacity(USUAL_ANSWER_BYTES);
        write_answer(run, outcome, &mut body);
        HttpResponse::json(StatusCode::OK, body)
    }
}

/// Appends the document that answers a dispatch.
fn write_answer(run: &str, outcome: &Outcome, out: &mut Vec<u8>) {
    let mut metadata = None;
    out.push(b'{');
    if let Ok(hit) = &outcome.result {
        let named = hit.controller.as_ref();
        metadata = named.and_then(NamedController::metadata);
        out.extend_from_slice(b"\"controller\":");
        json::append_text(out, named.map_or("", NamedController::name));
        out.push(b',');
    }
    out.extend_from_slice(b"\"delivered\":");
    out.extend_from_slice(if outcome.result.is_ok() { b"true" } else { b"false" });
    if let Some(metadata) = metadata {
        out.extend_from_slice(b",\"metadata\":");
        json::append_text(out, metadata);
    }
    out.extend_from_slice(b",\"offers\":");
    json::append_number(out, outcome.offers);
    let (name, text) = match &outcome.result {
        Ok(hit) => (",\"proof\":", hit.proof.text()),
        Err(miss) => (",\"reason\":", miss.text()),
    };
    out.extend_from_slice(name.as_bytes());
    json::append_text(out, text);
    out.extend_from_slice(b",\"run\":");
    json::append_text(out, run);
    out.push(b'}');
}

/// How the client waits: on a WebSocket or a stream of events if it asks for one, else with one held request.
fn parse_kind(limits: &RequestLimits, head: &RequestHead<'_>) -> Result<PollKind, Problem> {
    if head.fields.show(Signs::WEBSOCKET) && head.is_http_11 {
        PoolQuery::parse(head.query, &[])?;
        return parse_handshake(head).map(PollKind::WebSocket);
    }
    if head.fields.show(Signs::ACCEPTS_EVENTS) {
        let slots = PoolQuery::parse(head.query, &["slots"])?.slots.unwrap_or(1);
        return Ok(PollKind::EventStream { slots, is_chunked: head.is_http_11 });
    }
    let max_timeout = limits.connection_timeout;
    let timeout = PoolQuery::parse(head.query, &["timeout"])?.timeout.unwrap_or(max_timeout);
    if timeout > max_timeout {
        let why = format!("is at most {} here", humantime::format_duration(max_timeout));
        return Err(Problem::bad_parameter("timeout", why));
    }
    let (format, reusable, replies_early) = (&RESPONSE_FORMAT, head.is_reusable(), parse_reply_time(head)?);
    let grace = Duration::ZERO;
    Ok(PollKind::Once(PollTerms { format, reusable, replies_early, timeout, guard: None, grace }))
}

/// The value of `Sec-WebSocket-Accept` for a handshake as RFC 6455, section 4.2.1, wants it.
fn parse_handshake(head: &RequestHead<'_>) -> Result<[u8; 28], Problem> {
    if !head.fields.show(Signs::UPGRADE) {
        return Err(Problem::bad_handshake("has no `Connection: Upgrade`"));
    }
    if !head.fields.show(Signs::WEBSOCKET_13) {
        return Err(Problem::other_websocket_version());
    }
    if !head.fields.show(Signs::PILOTLIGHT_V1) {
        return Err(Problem::bad_handshake("does not offer `Sec-WebSocket-Protocol: pilotlight.v1`"));
    }
    head.websocket_key()
        .and_then(accept_key)
        .ok_or_else(|| Problem::bad_handshake("has not one Sec-WebSocket-Key of 16 bytes in base64"))
}

/// The query of either route. Each route refuses the parameters that it does not use.
#[derive(Debug, Default)]
struct PoolQuery {
    timeout: Option<Duration>,
    wait: Option<Duration>,
    redeliver: Option<bool>,
    proof: Option<Proof>,
    slots: Option<u16>,
    reply: Option<Duration>,
}

impl PoolQuery {
    fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&&*name) {
                let known = known.join(", ");
                return Err(Problem::bad_parameter(
                    "The query",
                    if known.is_empty() {
                        "is to be empty".to_owned()
                    } else {
                        format!("has an unknown name; known: {known}")
                    },
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
                REPLY => {
                    let bad = || Problem::bad_parameter(REPLY, "is not one duration such as 30s, above zero");
                    let reply = duration(REPLY)?.filter(|reply| !reply.is_zero() && parsed.reply.is_none());
                    parsed.reply = Some(reply.ok_or_else(bad)?);
                }
                "slots" => {
                    let bad = || Problem::bad_parameter("slots", "is not one number from 1 to 256");
                    let slots = value.parse().ok().filter(|slots| (1..=MAX_SLOTS).contains(slots));
                    let slots = slots.filter(|_| parsed.slots.is_none());
                    parsed.slots = Some(slots.ok_or_else(bad)?);
                }
                "redeliver" => {
                    let bad = || Problem::bad_parameter("redeliver", "is neither true nor false");
                    parsed.redeliver = Some(value.parse().map_err(|_| bad())?);
                }
                _ => parsed.proof = Some(parse_proof(&value)?),
            }
        }
        Ok(parsed)
    }
}

fn parse_proof(value: &str) -> Result<Proof, Problem> {
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

/// The key in a path: four segments, each percent-encoded.
fn parse_key(path: &str) -> Result<PoolKey<'_>, Problem> {
    let mut segments = path.strip_prefix(PREFIX).unwrap_or_default().split('/');
    let segments: [_; 5] = std::array::from_fn(|_| segments.next());
    let [Some(deployment), Some(version), Some(cpu), Some(memory), None] = segments else {
        return Err(Problem::bad_key("The path", "is not /v1/pools/{deployment}/{version}/{cpu}/{memory}"));
    };
    let part = |name, segment| {
        let text = decode(name, segment)?;
        check_part(&text).map_err(|error| Problem::bad_key(name, error))?;
        Ok(text)
    };
    let number =
        |name, segment| Number::parse(&decode(name, segment)?).map_err(|error| Problem::bad_key(name, error));
    Ok(PoolKey {
        deployment: part("The deployment", deployment)?,
        version: part("The version", version)?,
        cpu: number("The cpu figure", cpu)?,
        memory: number("The memory figure", memory)?,
    })
}

fn decode<'a>(name: &str, segment: &'a str) -> Result<Cow<'a, str>, Problem> {
    // A decoder would look at each byte.
    if !segment.as_bytes().contains(&b'%') {
        return Ok(Cow::Borrowed(segment));
    }
    if !is_encoded(segment) {
        return Err(Problem::bad_key(name, "has a % without two hexadecimal digits after it"));
    }
    let decoded = percent_decode_str(segment).decode_utf8();
    decoded.map_err(|_| Problem::bad_key(name, "is not percent-encoded UTF-8"))
}

/// Whether each % begins an encoded byte. Decoders treat any other % differently.
fn is_encoded(segment: &str) -> bool {
    segment.split('%').skip(1).all(|after| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// A name in a header: short printable text, at most once; empty if absent.
fn parse_name<'a>(head: &RequestHead<'a>, field: FieldName) -> Result<&'a str, Problem> {
    let name = field.text();
    match head.fields.single(field) {
        Ok(None) => Ok(""),
        Ok(Some(text)) => check_part(text).map_err(|error| Problem::bad_parameter(name, error)),
        Err(()) => Err(Problem::bad_parameter(name, "occurs more than once, or is not printable ASCII")),
    }
}

/// Whether the waiter says that it opens its replies at once.
fn parse_reply_time(head: &RequestHead<'_>) -> Result<bool, Problem> {
    if !head.fields.show(Signs::REPLY) {
        return Ok(false);
    }
    match head.all_fields.only(REPLY_FIELD) {
        Some(b"early") => Ok(true),
        Some(_) | None => Err(Problem::bad_parameter(REPLY_FIELD, "is not `early`, once")),
    }
}

/// What the waiter says to whoever claims it: printable ASCII, at most once; none if absent or empty.
fn parse_metadata(head: &RequestHead<'_>) -> Result<Option<Box<str>>, Problem> {
    if !head.fields.show(Signs::METADATA) {
        return Ok(None);
    }
    let refuse = |why| Err(Problem::bad_parameter(METADATA, why));
    let Some(value) = head.all_fields.only(METADATA) else { return refuse("occurs more than once") };
    let text = std::str::from_utf8(value).ok();
    match text.filter(|text| text.bytes().all(|byte| matches!(byte, b' '..=b'~'))) {
        None => refuse("is not printable ASCII"),
        Some(text) if text.len() > MAX_METADATA_BYTES => refuse("is longer than 1024 bytes"),
        Some(text) => Ok((!text.is_empty()).then(|| text.into())),
    }
}

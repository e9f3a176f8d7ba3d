//! Owns the dialect of Trigger.dev: its three routes, as its stock clients expect them.

mod message;

use std::fmt::Display;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;

use super::interface::{
    Dialect, DispatchHead, ParsedDispatch, PollKind, PollRequest, PollTerms, PoolKey, Resource,
};
use super::run_response::write_run_head;
use crate::auth::{MAX_TOKEN_BYTES, TokenError};
use crate::broker::{AcceptedPayload, Number, PayloadKind, check_part};
use crate::dispatch::Outcome;
use crate::http::client_addr::ClientAddr;
use crate::http::h1::{FieldName, RequestHead};
use crate::http::problem::Problem;
use crate::http::response::{HttpResponse, ResponseBody};
use crate::http::state::{HttpState, RequestLimits};
use crate::logging::Throttle;
use crate::metrics::Route;
use crate::transport::{CloseReason, CloseResponse, ResponseFormat, with_write_buffer};

pub use message::{Message, MessageError};

/// The client's timer starts before its request arrives here, so it is offered nothing for this long before its timeout.
const RETIRE_GUARD: Duration = Duration::from_millis(250);
/// The client ends a poll itself. If a poll is this much older than its timeout, its client is gone.
const GRACE: Duration = Duration::from_secs(2);

/// How a stock controller's poll is answered.
static RESPONSE_FORMAT: ResponseFormat = ResponseFormat {
    head: |run, keep_alive, head| write_run_head(run, keep_alive, false, head),
    close_response,
};

/// A stock controller exits on any status but 307, after which it polls again, and 410, which is meant to make it exit.
fn close_response(reason: CloseReason<'_>, _: Option<u64>) -> CloseResponse {
    let response: &[u8] = match reason {
        CloseReason::Expired | CloseReason::Replaced => b"",
        CloseReason::Drained { redirect_to: Some(origin) } => {
            let response = format!(
                "HTTP/1.1 307 Temporary Redirect\r\nlocation: {origin}/warm-start\r\ncontent-length: 0\r\n\
                 connection: close\r\n\r\n"
            );
            return CloseResponse { bytes: response.into_bytes().into(), reusable: false };
        }
        CloseReason::Drained { redirect_to: None } => {
            b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /warm-start\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        }
        CloseReason::Retired => b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    };
    CloseResponse { bytes: response.into(), reusable: false }
}

/// The dialect.
pub(super) struct Trigger;

impl Dialect for Trigger {
    fn resource(&self, path: &str) -> Option<Resource> {
        match path {
            "/warm-start" => Some(Resource::Pool),
            "/connect" => Some(Resource::Times),
            _ => None,
        }
    }

    fn poll_route(&self) -> Route {
        Route::Poll
    }

    fn dispatch_route(&self) -> Route {
        Route::Dispatch
    }

    /// `GET /connect`
    fn times(&self, state: &HttpState) -> HttpResponse {
        let limits = state.limits();
        let body = format!(
            r#"{{"connectionTimeoutMs":{},"keepaliveMs":{}}}"#,
            limits.connection_timeout.as_millis(),
            limits.keepalive.as_millis()
        );
        HttpResponse::json(StatusCode::OK, body.into_bytes())
    }

    /// The path names no key that could be checked.
    fn check_pool(&self, _: &RequestHead<'_>) -> HttpResponse {
        HttpResponse::empty()
    }

    /// `GET /warm-start`
    fn parse_poll<'a>(
        &self,
        state: &HttpState,
        limits: &RequestLimits,
        client: ClientAddr,
        head: &RequestHead<'a>,
    ) -> Result<PollRequest<'a>, Problem> {
        parse_poll(state, limits, client, head).inspect_err(|problem| {
            // A controller without a valid key would never be matched: the status that makes it exit is deliberate.
            // At most one line a second, so that strangers cannot fill a disk; the metrics count all.
            static LINES: Throttle = Throttle::new();
            if LINES.is_open() {
                tracing::warn!(why = problem.detail(), "a poll was refused");
            }
        })
    }

    /// `POST /warm-start`. Everything is in the body.
    fn parse_dispatch_head<'a>(
        &self,
        _: &HttpState,
        _: &RequestHead<'a>,
    ) -> Result<DispatchHead<'a>, Problem> {
        Ok(DispatchHead::default())
    }

    fn parse_dispatch_body<'a>(
        &self,
        state: &HttpState,
        limits: &RequestLimits,
        _: DispatchHead<'a>,
        body: &'a Bytes,
    ) -> Result<ParsedDispatch<'a>, Problem> {
        let (payload, message) =
            Message::in_body(body, limits.message_check).map_err(|error| refuse_message(state, &error))?;
        let idempotency_key =
            message.key().map(|key| state.dispatcher.idempotency_key(message.run(), message.snapshot(), key));
        let Message { deployment, version, cpu, memory, run, .. } = message;
        Ok(ParsedDispatch {
            key: deployment.map(|deployment| PoolKey { deployment, version, cpu, memory }),
            run,
            idempotency_key,
            content: None,
            payload_kind: PayloadKind::TriggerMessage,
            content_type: Bytes::from_static(b"application/json"),
            payload: body.slice_ref(payload.as_bytes()),
            proof: None,
            // The platform refuses a second start of a run, so a run that may be lost is offered again.
            redeliver: true,
            wait: Duration::ZERO,
            reply: None,
            fields: None,
            wants_log: false,
            is_dry_run: false,
        })
    }

    fn names_controller(&self) -> bool {
        false
    }

    fn render(&self, _: &str, outcome: &Outcome) -> HttpResponse {
        let parts = match &outcome.result {
            Ok(hit) => [r#"{"didWarmStart":true,"proof":""#, hit.proof.text()],
            Err(miss) => [r#"{"didWarmStart":false,"reason":""#, miss.text()],
        };
        let mut offers = itoa::Buffer::new();
        let rest = [r#"","offers":"#, offers.format(outcome.offers), "}"];
        let body = with_write_buffer(|body| {
            parts.iter().chain(&rest).for_each(|part| body.extend_from_slice(part.as_bytes()));
            ResponseBody::from_slice(body)
        });
        HttpResponse::json(StatusCode::OK, body)
    }
}

fn parse_poll<'a>(
    state: &HttpState,
    limits: &RequestLimits,
    client: ClientAddr,
    head: &RequestHead<'a>,
) -> Result<PollRequest<'a>, Problem> {
    const NOT_SINGLE: &str = "occurs more than once, or is not printable ASCII";
    let refuse = |field: FieldName, why: &dyn Display| Problem::bad_key(field.text(), why);
    let text = |field| match head.fields.single(field) {
        Ok(Some(text)) if !text.is_empty() => Ok(text),
        Ok(_) => Err(refuse(field, &"is missing or empty")),
        Err(()) => Err(refuse(field, &NOT_SINGLE)),
    };
    let part = |field, text| check_part(text).map_err(|error| refuse(field, &error));
    let number = |field| text(field).and_then(|t| Number::parse(t).map_err(|error| refuse(field, &error)));
    let deployment = text(FieldName::TriggerDeployment)?;
    if deployment.len() > MAX_TOKEN_BYTES {
        return Err(refuse(FieldName::TriggerDeployment, &"is longer than 4096 bytes"));
    }
    let version = text(FieldName::TriggerVersion)?;
    let deployment = limits.access.resolve_deployment(deployment, version).and_then(|resolved| {
        let authorization = head.fields.value(FieldName::Authorization);
        let is_supervisor = limits.access.is_supervisor_credential(authorization);
        if is_supervisor { Err(TokenError::WrongRole) } else { Ok(resolved) }
    });
    let deployment =
        deployment.map_err(|error| state.refuse_token(FieldName::TriggerDeployment.text(), error))?;
    check_part(&deployment).map_err(|error| refuse(FieldName::TriggerDeployment, &error))?;
    let name = |field| match head.fields.single(field) {
        Ok(None | Some("")) => Ok(""),
        Ok(Some(text)) => part(field, text),
        Err(()) => Err(refuse(field, &NOT_SINGLE)),
    };
    Ok(PollRequest {
        key: PoolKey {
            deployment,
            version: part(FieldName::TriggerVersion, version)?.into(),
            cpu: number(FieldName::TriggerCpu)?,
            memory: number(FieldName::TriggerMemory)?,
        },
        accepts: AcceptedPayload::TriggerMessage,
        controller: name(FieldName::TriggerController)?.into(),
        host: state.exchange.host_id(client.origin(), name(FieldName::TriggerInstance)?),
        client,
        metadata: None,
        kind: PollKind::Once(PollTerms {
            replies_early: false,
            format: &RESPONSE_FORMAT,
            reusable: head.is_reusable(),
            timeout: limits.connection_timeout,
            guard: Some(RETIRE_GUARD),
            grace: GRACE,
        }),
    })
}

/// Counts a message on which a stock controller would exit. A platform that is newer than the broker may send no other
/// messages, and its supervisors then start every run cold, so the first refusal of each field is logged.
fn refuse_message(state: &HttpState, error: &MessageError) -> Problem {
    static LOGGED_FIELDS: AtomicU32 = AtomicU32::new(0);
    let field = error.field();
    state.metrics.message_refused(field);
    let bit = 1 << field as u32;
    if LOGGED_FIELDS.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
        tracing::warn!(
            field = field.text(),
            why = %error,
            "a message was refused, and its run starts cold; this line comes once for each field, \
             pilotlight_messages_refused_total counts them all"
        );
    }
    Problem::bad_body(error)
}

//! Owns the errors: problem documents of RFC 9457, each with the fault and its remedy.

use std::time::Duration;

use hyper::StatusCode;

use super::response::HttpResponse;
use crate::auth::TokenError;
use crate::metrics::AuthFailure;
use crate::model::{DispatchOutcome, MissReason, ReplyOutcome};

const BEARER: &str = "Bearer realm=\"pilotlight\"";
const PASSWORD: &str = "Basic realm=\"pilotlight\", Bearer realm=\"pilotlight\"";

/// An error that a client can act on.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: Box<str>,
    extra: Option<(&'static str, &'static str)>,
    /// A member of the document that a program reads.
    member: Option<Box<(&'static str, String)>>,
    closes: bool,
    is_miss: bool,
}

impl Problem {
    /// The media type of a document.
    pub(super) const CONTENT_TYPE: &'static str = "application/problem+json";

    pub(super) fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<Box<str>>,
    ) -> Self {
        let (detail, extra, member) = (detail.into(), None, None);
        Self { status, kind, title, detail, extra, member, closes: false, is_miss: false }
    }

    /// The same with this header field.
    pub(super) fn with_field(self, name: &'static str, value: &'static str) -> Self {
        Self { extra: Some((name, value)), ..self }
    }

    /// The same with this member of the document.
    pub(super) fn with_member(self, name: &'static str, value: impl Into<String>) -> Self {
        Self { member: Some(Box::new((name, value.into()))), ..self }
    }

    pub(crate) fn no_such_route() -> Self {
        let detail = "This listener serves GET /connect, GET and POST /warm-start, GET and POST \
                      /v1/pools/{deployment}/{version}/{cpu}/{memory}, POST /v1/runs/{run}/ack, /ready, /reply and /error, and POST \
                      /2015-03-31/functions/{name}/invocations; POSTs of runs may have a listener of their own. The console, /metrics and /readyz are on the ops listener (--ops-listen).";
        Self::new(StatusCode::NOT_FOUND, "no-such-route", "There is no such route here", detail)
    }

    pub(crate) fn no_such_ops_route() -> Self {
        let detail = "This listener serves GET / (the console), /livez, /readyz, /metrics, /pools, /waiters, /brokers, /runs and /events, \
                      and POST /retire and /drain.";
        Self::new(StatusCode::NOT_FOUND, "no-such-route", "There is no such route here", detail)
    }

    pub(crate) fn other_origin() -> Self {
        let detail = "A page of another origin sent this. Use the console of this listener, or a client that is not a browser.";
        Self::new(StatusCode::FORBIDDEN, "foreign-page", "Pages of other origins may not do this", detail)
    }

    pub(crate) fn other_host() -> Self {
        let detail = "Use an IP address or localhost as the Host of this listener: a page could use any other name to reach it. With the \
                      broker's --ops-token-file, every name is served.";
        Self::new(StatusCode::FORBIDDEN, "foreign-host", "This host name is not served", detail)
    }

    pub(crate) fn too_many_readers() -> Self {
        let detail = "The number of readers of events is at its limit: 256, or four fifths of --max-ops-connections. Close one of them.";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "too-many-readers", "There are too many readers of events", detail)
    }

    pub(crate) fn unknown_run(run: &str) -> Self {
        let detail = format!(
            "The history has no run {run:?}: it was not posted here, or its record was deleted because of its age."
        );
        Self::new(StatusCode::NOT_FOUND, "unknown-run", "The history does not know this run", detail)
    }

    pub(crate) fn history_too_slow() -> Self {
        let detail = "Reading enough of the history to find the matching rows takes more than 2 s. Narrow the query with \
                      since=1h, or ask for one run with /runs/{run}.";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "history-too-slow", "The question takes too long", detail)
    }

    pub(crate) fn history_unreadable() -> Self {
        let detail = "The history's file could not be read; the broker's log says why.";
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, "history-unreadable", "The history could not be read", detail)
    }

    pub(crate) fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("This route takes: {allow}.");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, "method-not-allowed", "The route does not take this method", detail)
            .with_field("allow", allow)
    }

    pub(crate) fn target_too_long() -> Self {
        let detail = "A request target has at most 2048 bytes.";
        Self::new(StatusCode::URI_TOO_LONG, "target-too-long", "The request target is too long", detail)
    }

    pub(super) fn head_too_large() -> Self {
        let detail = "A request's head has at most 16384 bytes and 100 fields.";
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self::new(status, "head-too-large", "The request's head is too large", detail).closing()
    }

    pub(super) fn malformed(why: impl std::fmt::Display) -> Self {
        let detail = format!("The request's head was refused: {why}.");
        Self::new(StatusCode::BAD_REQUEST, "malformed", "The request is malformed", detail).closing()
    }

    pub(super) fn unknown_coding() -> Self {
        let detail = "The only Transfer-Encoding supported here is `chunked`.";
        let status = StatusCode::NOT_IMPLEMENTED;
        Self::new(status, "unknown-coding", "The body's transfer coding is unknown", detail).closing()
    }

    pub(super) fn browser() -> Self {
        let detail = "A browser sent this on behalf of a page. Controllers and supervisors send neither Origin nor Sec-Fetch-Site. The console is on the ops listener (--ops-listen), by default http://127.0.0.1:7071/.";
        Self::new(StatusCode::FORBIDDEN, "foreign-page", "Pages may not do this", detail)
    }

    pub(crate) fn bad_key(what: &str, why: impl std::fmt::Display) -> Self {
        let detail = format!("{what} {why}.");
        Self::new(StatusCode::BAD_REQUEST, "bad-key", "The key of the pool is wrong", detail)
    }

    pub(crate) fn bad_parameter(what: &str, why: impl std::fmt::Display) -> Self {
        let detail = format!("{what} {why}.");
        Self::new(StatusCode::BAD_REQUEST, "bad-parameter", "A parameter is wrong", detail)
    }

    pub(super) fn bad_handshake(why: &str) -> Self {
        let detail = format!("The WebSocket handshake {why}. docs/websocket.md shows a client.");
        Self::new(StatusCode::BAD_REQUEST, "bad-handshake", "The WebSocket handshake is wrong", detail)
    }

    pub(super) fn other_websocket_version() -> Self {
        let detail = "The only version of WebSockets is 13, of RFC 6455.";
        let status = StatusCode::UPGRADE_REQUIRED;
        let extra = Some(("sec-websocket-version", "13"));
        Self {
            extra,
            ..Self::new(status, "other-websocket-version", "The WebSocket version is unknown", detail)
        }
    }

    pub(crate) fn bad_body(why: impl std::fmt::Display) -> Self {
        let detail = format!("The body {why}. Nothing was offered to a controller.");
        Self::new(StatusCode::BAD_REQUEST, "bad-body", "The body cannot be dispatched", detail)
    }

    /// The supervisor has given one name to two runs.
    pub(super) fn run_name_conflict(time: Duration) -> Self {
        let time = humantime::format_duration(time);
        let detail = format!(
            "A run of this name with another payload is in flight, or was or may have been delivered within {time}. Nothing \
             was offered to a controller. Give each run a pilotlight-run of its own, and send the same bytes when you repeat it."
        );
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "name-of-another-run",
            "The run's name is another run's",
            detail,
        )
    }

    /// A poll is refused because of its credential. The status makes a stock controller exit, on purpose: its token stays invalid.
    pub(super) fn bad_token(what: &str, error: TokenError) -> Self {
        if error.is_malformed() {
            return Self::bad_key(what, error);
        }
        let status =
            if error == TokenError::WrongRole { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
        let detail = format!("{what} {error}. A poll needs the platform's token for its deployment.");
        Self { closes: true, ..Self::new(status, error.failure().text(), "The poll is not let in", detail) }
            .with_challenge(BEARER)
    }

    /// A dispatch or an operation is refused because of its credential or address.
    pub(crate) fn not_allowed(failure: AuthFailure) -> Self {
        let (status, detail) = match failure {
            AuthFailure::Address => (
                StatusCode::FORBIDDEN,
                "Requests from this address are not allowed; the broker's --allow-dispatch lists who may.",
            ),
            AuthFailure::NoAddress => (
                StatusCode::FORBIDDEN,
                "Only listed addresses are allowed, and the proxy in between did not send yours in a readable header; the \
                 broker's log says what it should send.",
            ),
            AuthFailure::WrongRole => (
                StatusCode::FORBIDDEN,
                "This is a controller's credential. It permits polls, and no dispatches.",
            ),
            AuthFailure::NoBearer => (
                StatusCode::UNAUTHORIZED,
                "Send `Authorization: Bearer TOKEN` with a token of the broker's token file.",
            ),
            AuthFailure::BadBearer
            | AuthFailure::NoToken
            | AuthFailure::BadToken
            | AuthFailure::ExpiredToken
            | AuthFailure::OtherDeployment => (
                StatusCode::UNAUTHORIZED,
                "The token is not in the broker's token file; ask its operator for one that is.",
            ),
        };
        Self { closes: true, ..Self::new(status, failure.text(), "The request is not let in", detail) }
            .with_challenge(BEARER)
    }

    /// The same with a challenge on which a browser asks its user for a password.
    pub(crate) fn not_an_operator(failure: AuthFailure) -> Self {
        Self::not_allowed(failure).with_challenge(PASSWORD)
    }

    fn with_challenge(mut self, challenge: &'static str) -> Self {
        if self.status == StatusCode::UNAUTHORIZED {
            self.extra = Some(("www-authenticate", challenge));
        }
        self
    }

    /// A POST is refused because of load. Its document is a miss in each dialect, so that a supervisor starts the run cold at once.
    pub(crate) fn overloaded() -> Self {
        let detail =
            "The broker takes no more runs at this moment. Start the run cold, or post it again in a second.";
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self {
            extra: Some(("retry-after", "1")),
            is_miss: true,
            ..Self::new(status, "overloaded", "Too many runs at once", detail)
        }
    }

    pub(crate) fn body_too_large(limit: usize) -> Self {
        let detail = format!("A body has at most {limit} bytes here; the broker's --body-limit sets it.");
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Self { closes: true, ..Self::new(status, "body-too-large", "The body is too large", detail) }
    }

    pub(crate) fn body_too_slow() -> Self {
        let detail = "The whole body must arrive within 10 s.";
        let status = StatusCode::REQUEST_TIMEOUT;
        Self { closes: true, ..Self::new(status, "body-too-slow", "The body came too slowly", detail) }
    }

    pub(crate) fn encoded_body() -> Self {
        let detail = "Send the body without Content-Encoding: its bytes are relayed unchanged.";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "encoded-body", "The body is encoded", detail)
    }

    /// The fault and its remedy, for the log.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// The status of its response.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// The last part of its `type`.
    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    /// The header field that its status requires.
    pub(super) fn field(&self) -> Option<(&'static str, &'static str)> {
        self.extra
    }

    /// The member of the document that a program reads.
    pub(super) fn member(&self) -> Option<(&'static str, &str)> {
        self.member.as_deref().map(|(name, value)| (*name, &**value))
    }

    /// Whether the connection is closed after the response.
    pub(super) fn closes(&self) -> bool {
        self.closes
    }

    /// How a POST that is refused like this is counted: to a supervisor, an overloaded broker is a miss.
    pub(super) fn outcome(&self) -> DispatchOutcome {
        if self.is_miss { DispatchOutcome::Miss(MissReason::Overloaded) } else { DispatchOutcome::Refused }
    }

    /// How a POST that awaits a reply is counted if it is refused like this.
    pub(super) fn reply_outcome(&self) -> ReplyOutcome {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => ReplyOutcome::Limited,
            StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => ReplyOutcome::Duplicate,
            _ => ReplyOutcome::Refused,
        }
    }

    /// The same, and the connection is closed after the response.
    pub(crate) fn closing(mut self) -> Self {
        self.closes = true;
        self
    }
}

impl From<Problem> for HttpResponse {
    fn from(problem: Problem) -> Self {
        let mut document = serde_json::json!({
            "type": format!("urn:pilotlight:problem:{}", problem.kind),
            "title": problem.title,
            "status": problem.status.as_u16(),
            "detail": problem.detail,
        });
        if problem.is_miss {
            document["reason"] = MissReason::Overloaded.text().into();
            document["didWarmStart"] = false.into();
            document["delivered"] = false.into();
        }
        if let Some(member) = problem.member {
            let (name, value) = *member;
            document[name] = value.into();
        }
        let Problem { status, extra, closes, .. } = problem;
        Self {
            extra,
            close: closes,
            ..Self::new(status, Problem::CONTENT_TYPE, document.to_string().into_bytes())
        }
    }
}

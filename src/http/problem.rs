//! Owns the errors: problem documents of RFC 9457, each with what is wrong and what to do about it.

use std::time::Duration;

use hyper::StatusCode;

use super::response::HttpResponse;
use super::{Action, HttpState};
use crate::auth::TokenError;
use crate::metrics::AuthFailure;
use crate::model::{DispatchOutcome, MissReason};

const BEARER: &str = "Bearer realm=\"pilotlight\"";
const PASSWORD: &str = "Basic realm=\"pilotlight\", Bearer realm=\"pilotlight\"";

/// An error that a client can act on.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: String,
    extra: Option<(&'static str, &'static str)>,
    closes: bool,
    is_miss: bool,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, title, detail: detail.into(), extra: None, closes: false, is_miss: false }
    }

    pub(crate) fn no_such_route() -> Self {
        let detail = "This listener serves GET /connect, GET and POST /warm-start, and GET and POST \
                      /v1/pools/{deployment}/{version}/{cpu}/{memory}; POSTs may have a listener of their own. The console, \
                      /metrics and /readyz are on the ops listener (--ops-listen).";
        Self::new(StatusCode::NOT_FOUND, "no-such-route", "There is no such route here", detail)
    }

    pub(crate) fn no_such_ops_route() -> Self {
        let detail = "This listener serves GET / (the console), /livez, /readyz, /metrics, /pools, /waiters, /runs and /events, \
                      and POST /retire and /drain.";
        Self::new(StatusCode::NOT_FOUND, "no-such-route", "There is no such route here", detail)
    }

    pub(crate) fn other_origin() -> Self {
        let detail = "A page of another origin sent this. Use the console of this listener, or a tool that is no browser.";
        Self::new(StatusCode::FORBIDDEN, "foreign-page", "Pages of other origins may not do this", detail)
    }

    pub(crate) fn other_host() -> Self {
        let detail = "Operators reach this listener by an address or as localhost: a name could be anybody's. With the broker's \
                      --ops-token-file any name will do.";
        Self::new(StatusCode::FORBIDDEN, "foreign-host", "This host name is not served", detail)
    }

    pub(crate) fn too_many_readers() -> Self {
        let detail = "256 readers follow the events already, or four fifths of --max-ops-connections; close one of them.";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "too-many-readers", "There are too many readers of events", detail)
    }

    pub(crate) fn unknown_run(run: &str) -> Self {
        let detail = format!(
            "The history has no run {run:?}: it was not posted here, or so long ago that it has left the history."
        );
        Self::new(StatusCode::NOT_FOUND, "unknown-run", "The history does not know this run", detail)
    }

    pub(crate) fn history_too_slow() -> Self {
        let detail = "To find the rows that fit, more of the history must be read than 2 s allow; ask for less of it with \
                      since=1h, or for one run with /runs/{run}.";
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
        Self {
            extra: Some(("allow", allow)),
            ..Self::new(status, "method-not-allowed", "The route does not take this method", detail)
        }
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
        let detail = format!("The request's head is not read: {why}.");
        Self::new(StatusCode::BAD_REQUEST, "malformed", "The request is malformed", detail).closing()
    }

    pub(super) fn unknown_coding() -> Self {
        let detail = "The only Transfer-Encoding that is understood here is `chunked`.";
        let status = StatusCode::NOT_IMPLEMENTED;
        Self::new(status, "unknown-coding", "The body's transfer coding is unknown", detail).closing()
    }

    pub(super) fn browser() -> Self {
        let detail = "A browser sent this for a page. Controllers and supervisors are no pages, and send neither Origin nor \
                      Sec-Fetch-Site. The console is on the ops listener (--ops-listen), by default http://127.0.0.1:7071/.";
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

    pub(crate) fn bad_body(why: impl std::fmt::Display) -> Self {
        let detail = format!("The body {why}. Nothing was offered to a controller.");
        Self::new(StatusCode::BAD_REQUEST, "bad-body", "The body cannot be dispatched", detail)
    }

    /// Names are the supervisor's to give, one for each run.
    pub(super) fn run_name_conflict(time: Duration) -> Self {
        let time = humantime::format_duration(time);
        let detail = format!(
            "A run of this name with another payload is under way, or was delivered within {time}, or may have been. Nothing \
             was offered to a controller. Give each run a pilotlight-run of its own, and send the same bytes when you repeat it."
        );
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "name-of-another-run",
            "The run's name is another run's",
            detail,
        )
    }

    /// Somebody who polls is not let in. The status ends a stock controller, on purpose: its token does not get better.
    pub(super) fn bad_token(front: &HttpState, what: &str, why: TokenError) -> Self {
        front.metrics.denied(why.failure());
        if why.is_malformed() {
            return Self::bad_key(what, why);
        }
        let status =
            if why == TokenError::WrongRole { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
        let detail =
            format!("{what} {why}. Nothing waits here without the platform's token for its deployment.");
        Self { closes: true, ..Self::new(status, why.failure().text(), "The poll is not let in", detail) }
            .asking_for(BEARER)
    }

    /// Somebody who dispatches or operates is not let in.
    pub(crate) fn not_allowed(why: AuthFailure) -> Self {
        let (status, detail) = match why {
            AuthFailure::Address => (
                StatusCode::FORBIDDEN,
                "Requests from this address are not allowed; the broker's --allow-dispatch lists who may.",
            ),
            AuthFailure::NoAddress => (
                StatusCode::FORBIDDEN,
                "Only listed addresses are allowed, and the proxy in between did not name yours in a way that can be read; the \
                 broker's log says what it should send.",
            ),
            AuthFailure::WrongRole => (
                StatusCode::FORBIDDEN,
                "This is a controller's credential. It waits for runs and dispatches none.",
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
        Self { closes: true, ..Self::new(status, why.text(), "The request is not let in", detail) }
            .asking_for(BEARER)
    }

    /// The same for a browser, which asks its user for a password.
    pub(crate) fn not_an_operator(why: AuthFailure) -> Self {
        Self::not_allowed(why).asking_for(PASSWORD)
    }

    fn asking_for(mut self, challenge: &'static str) -> Self {
        if self.status == StatusCode::UNAUTHORIZED {
            self.extra = Some(("www-authenticate", challenge));
        }
        self
    }

    /// A POST that comes at a bad time. Its document says "miss" in both dialects, so that a supervisor starts cold at once.
    pub(crate) fn overloaded() -> Self {
        let detail =
            "The broker takes no more runs at this moment; start it cold, or send it again in a second.";
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
        let detail = "Send the body as it is, without Content-Encoding: its bytes are relayed unchanged.";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "encoded-body", "The body is encoded", detail)
    }

    /// What is wrong and what to do, for the log.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// How a POST that is refused like this is counted: to a supervisor, an overloaded broker is a miss.
    pub(super) fn outcome(&self) -> DispatchOutcome {
        if self.is_miss { DispatchOutcome::Miss(MissReason::Overloaded) } else { DispatchOutcome::Refused }
    }

    /// The same, with the connection ending after the answer.
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
        let Problem { status, extra, closes, .. } = problem;
        Self { extra, close: closes, ..Self::new(status, "application/problem+json", document.to_string()) }
    }
}

impl From<Problem> for Action {
    fn from(problem: Problem) -> Self {
        Self::Respond(problem.into())
    }
}

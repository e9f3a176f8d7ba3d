//! Owns the interface of a dialect: the trait, and what its methods exchange with the code that is the same for all dialects.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use crate::broker::{AcceptedPayload, HostId, KeyRef, Number, PayloadKind};
use crate::dispatch::{IdempotencyKey, Outcome};
use crate::exchange::ContentHash;
use crate::http::client_addr::ClientAddr;
use crate::http::h1::RequestHead;
use crate::http::problem::Problem;
use crate::http::response::HttpResponse;
use crate::http::state::{HttpState, RequestLimits};
use crate::metrics::Route;
use crate::model::Proof;
use crate::reply::ResponseStyle;
use crate::transport::{ResponseFormat, RunFields};

/// How one kind of client writes its requests and reads its responses.
pub(in crate::http) trait Dialect: Sync {
    /// What a path names in this dialect; none if the path is not its own.
    fn resource(&self, path: &str) -> Option<Resource>;

    /// The route as which polls are counted. The default is for dialects without polls, as those of the other methods for polls are.
    fn poll_route(&self) -> Route {
        Route::Other
    }

    /// The route as which dispatches are counted.
    fn dispatch_route(&self) -> Route;

    /// The response for [`Resource::Times`].
    fn times(&self, _: &HttpState) -> HttpResponse {
        Problem::no_such_route().into()
    }

    /// The response to `HEAD` for [`Resource::Pool`], as health checks send it.
    fn check_pool(&self, _: &RequestHead<'_>) -> HttpResponse {
        Problem::no_such_route().into()
    }

    /// Parses a poll, and checks its credential.
    fn parse_poll<'a>(
        &self,
        _state: &HttpState,
        _limits: &RequestLimits,
        _client: ClientAddr,
        _head: &RequestHead<'a>,
    ) -> Result<PollRequest<'a>, Problem> {
        Err(Problem::no_such_route())
    }

    /// Parses the head of a dispatch, before its body is read.
    fn parse_dispatch_head<'a>(
        &self,
        state: &HttpState,
        head: &RequestHead<'a>,
    ) -> Result<DispatchHead<'a>, Problem>;

    /// Whether a dispatch asks for a reply.
    fn asks_for_reply(&self, _: &RequestHead<'_>) -> bool {
        false
    }

    /// How the caller of a run is answered whose reply it awaits.
    fn reply_style(&self) -> ResponseStyle {
        ResponseStyle::Native
    }

    /// Parses the body of a dispatch.
    fn parse_dispatch_body<'a>(
        &self,
        state: &HttpState,
        limits: &RequestLimits,
        head: DispatchHead<'a>,
        body: &'a Bytes,
    ) -> Result<ParsedDispatch<'a>, Problem>;

    /// Whether the response to a dispatch names the controller.
    fn names_controller(&self) -> bool;

    /// The response to a dispatch. `run` is empty if the dispatch named no pool.
    fn render(&self, run: &str, outcome: &Outcome) -> HttpResponse;

    /// The response to a dispatch that was only checked.
    fn dry_run(&self, _run: &str) -> HttpResponse {
        HttpResponse::no_content()
    }

    /// The response to a dispatch that is refused.
    fn refuse(&self, _: &RequestHead<'_>, problem: Problem) -> HttpResponse {
        problem.into()
    }
}

/// What a path of a dialect names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Resource {
    /// `GET` polls, `POST` dispatches.
    Pool,
    /// `GET` returns how long a controller should wait.
    Times,
    /// `POST` dispatches.
    Function,
}

/// A poll that can be parked.
pub(in crate::http) struct PollRequest<'a> {
    pub(in crate::http) key: PoolKey<'a>,
    pub(in crate::http) accepts: AcceptedPayload,
    /// The controller's name for itself; empty if it has none.
    pub(in crate::http) controller: Cow<'a, str>,
    pub(in crate::http) host: HostId,
    pub(in crate::http) client: ClientAddr,
    /// What it says to whoever claims it, which may be a secret.
    pub(in crate::http) metadata: Option<Box<str>>,
    pub(in crate::http) kind: PollKind,
}

/// How the client of a poll waits.
pub(in crate::http) enum PollKind {
    /// For one run, with a request that is held.
    Once(PollTerms),
    /// For many, on a WebSocket; with the key that proves that we speak the protocol.
    WebSocket([u8; 28]),
    /// For many, on a stream of server-sent events, so many at once. An HTTP/1.1 client gets it in chunks.
    EventStream { slots: u16, is_chunked: bool },
}

impl PollKind {
    /// Whether what follows the request is read.
    pub(in crate::http) fn reads_on(&self) -> bool {
        matches!(self, Self::WebSocket(_))
    }
}

/// The terms of a held request.
pub(in crate::http) struct PollTerms {
    /// How the run or the end of the poll is written.
    pub(in crate::http) format: &'static ResponseFormat,
    /// Whether the connection may carry another request.
    pub(in crate::http) reusable: bool,
    /// Whether the client opens the reply to a run as soon as it has read the run, if one is awaited.
    pub(in crate::http) replies_early: bool,
    /// How long the client waits.
    pub(in crate::http) timeout: Duration,
    /// It is offered nothing for at least this long, or four round trips, before its timeout. None if the broker ends the poll,
    /// which makes a race with the client's clock impossible.
    pub(in crate::http) guard: Option<Duration>,
    /// How long it is held after its timeout.
    pub(in crate::http) grace: Duration,
}

impl PollRequest<'_> {
    /// The same without the request that it was parsed from.
    pub(in crate::http) fn into_owned(self) -> PollRequest<'static> {
        let PoolKey { deployment, version, cpu, memory } = self.key;
        let (deployment, version) = (deployment.into_owned().into(), version.into_owned().into());
        let controller = self.controller.into_owned().into();
        PollRequest { key: PoolKey { deployment, version, cpu, memory }, controller, ..self }
    }
}

/// The parameters in the head of a dispatch. The default is for dialects that have all of them in the body.
#[derive(Debug, Default)]
pub(in crate::http) struct DispatchHead<'a> {
    pub(super) key: Option<PoolKey<'a>>,
    /// The run's name; empty if the supervisor gave none.
    pub(super) run: &'a str,
    pub(super) content_type: Option<&'a [u8]>,
    pub(super) proof: Option<Proof>,
    pub(super) redeliver: Option<bool>,
    pub(super) wait: Option<Duration>,
    /// How long the POST awaits a reply, if it does.
    pub(super) reply: Option<Duration>,
    /// The most bytes of the body, if they are not those of any run.
    pub(super) body_limit: Option<usize>,
    /// What else the run's worker is told.
    pub(super) fields: Option<RunFields>,
    /// Whether the caller wants the end of the log with the reply.
    pub(super) wants_log: bool,
    /// Whether the POST is only checked.
    pub(super) is_dry_run: bool,
}

/// A valid dispatch.
#[derive(Debug)]
pub(in crate::http) struct ParsedDispatch<'a> {
    /// None for a run without a deployment: no pool can fit it.
    pub(super) key: Option<PoolKey<'a>>,
    pub(super) run: Cow<'a, str>,
    /// Equal for the POSTs of one run; none if each POST is a run of its own.
    pub(super) idempotency_key: Option<IdempotencyKey>,
    /// A hash of the payload; none if it is not compared. Two POSTs with equal keys conflict if their hashes differ.
    pub(super) content: ContentHash,
    pub(super) payload_kind: PayloadKind,
    pub(super) content_type: Bytes,
    pub(super) payload: Bytes,
    /// None for the proof that is configured.
    pub(super) proof: Option<Proof>,
    pub(super) redeliver: bool,
    pub(super) wait: Duration,
    /// How long the POST awaits a reply, if it does.
    pub(super) reply: Option<Duration>,
    /// What else the run's worker is told.
    pub(super) fields: Option<RunFields>,
    /// Whether the caller wants the end of the log with the reply.
    pub(super) wants_log: bool,
    /// Whether the POST is only checked.
    pub(super) is_dry_run: bool,
}

/// A key whose text is borrowed from the request where that is possible.
#[derive(Debug)]
pub(in crate::http) struct PoolKey<'a> {
    pub(super) deployment: Cow<'a, str>,
    pub(super) version: Cow<'a, str>,
    pub(super) cpu: Number,
    pub(super) memory: Number,
}

impl PoolKey<'_> {
    pub(in crate::http) fn as_ref(&self) -> KeyRef<'_> {
        KeyRef { deployment: &self.deployment, version: &self.version, cpu: self.cpu, memory: self.memory }
    }
}

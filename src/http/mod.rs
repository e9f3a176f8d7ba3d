//! Owns the requests of controllers and supervisors: routes, both dialects, and the only statuses they see.

mod admission;
mod body;
mod browser_page;
mod client_addr;
mod connection;
mod fast_path;
#[cfg(fuzzing)]
pub mod fuzz;
mod head;
mod health;
mod hyper_fallback;
mod message;
mod native;
mod problem;
mod response;
mod run_response;
mod shared_names;
mod trigger;
mod validate;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use hyper::Method;
use ipnet::IpNet;

use crate::auth::Authorizer;
use crate::broker::{AcceptedPayload, HostId, Key};
use crate::config::MessageCheck;
use crate::dispatch::{DispatchTimes, Dispatcher};
use crate::journal::{Journal, TraceParent};
use crate::logging::Throttle;
use crate::metrics::{AuthFailure, Listener, Metrics, Route};
use crate::model::MissReason;
use crate::model::{DispatchOutcome, Proof};
use crate::transport::{Exchange, IdleConnections, ResponseFormat};

pub use admission::Admission;
use body::Source;
use client_addr::ClientAddr;
pub use connection::serve;
use head::RequestHead;
pub use message::{Message, MessageError};
pub use problem::Problem;
pub use response::HttpResponse;
use shared_names::SharedNames;

/// The longest accepted request target, in bytes.
const MAX_TARGET_BYTES: usize = 2048;

/// What requests are served with.
pub struct HttpState {
    /// The pools.
    pub exchange: Arc<Exchange>,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
    /// What is told of what happens.
    pub journal: Arc<Journal>,
    /// Replaced whole when the settings are read again.
    limits: ArcSwap<RequestLimits>,
    separate_dispatch: bool,
    dispatcher: Dispatcher,
    shared_names: SharedNames,
    /// How hard the broker is pressed.
    pub admission: Admission,
    /// The connections that rest between two requests.
    pub idle: Arc<IdleConnections>,
}

/// The limits and times that requests meet.
#[derive(Debug)]
pub struct RequestLimits {
    /// Advertised to controllers; the age cap of a poll.
    pub connection_timeout: Duration,
    /// Advertised to controllers; zero ends them.
    pub keepalive: Duration,
    /// Every POST is answered within it, counted from its last byte.
    pub dispatch_budget: Duration,
    /// The largest accepted body, in bytes.
    pub body_limit: usize,
    /// What a `true` needs.
    pub proof: Proof,
    /// How long an acknowledged run may stay unread.
    pub proof_timeout: Duration,
    /// Proxies that stand in between: what they forward is believed, and a receipt is theirs.
    pub proxies: Vec<IpNet>,
    /// Whether these proxies begin each connection with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// A run posted again within this time is answered like the first time; zero makes every POST a run of its own.
    pub remember_runs: Duration,
    /// What of a Trigger.dev message is checked.
    pub message_check: MessageCheck,
    /// So many POSTs may be under way.
    pub max_posts: usize,
    /// So many POSTs may come in a second, if that has a limit.
    pub max_post_rate: Option<u32>,
    /// Whether health is told on the public listeners, too.
    pub public_livez: bool,
    /// Who may do what.
    pub access: Authorizer,
}

impl RequestLimits {
    fn dispatch_times(&self) -> DispatchTimes {
        let Self {
            dispatch_budget: budget, proof_timeout: read_timeout, remember_runs: remember_for, ..
        } = *self;
        DispatchTimes { budget, read_timeout, remember_for }
    }
}

impl HttpState {
    /// Ready to serve. With a `separate_dispatch`, POSTs have a listener of their own.
    pub fn new(
        exchange: Arc<Exchange>,
        metrics: Arc<Metrics>,
        journal: Arc<Journal>,
        terms: RequestLimits,
        separate_dispatch: bool,
    ) -> Self {
        Self {
            dispatcher: Dispatcher::new(exchange.clone(), metrics.clone(), journal.clone()),
            exchange,
            metrics,
            journal,
            limits: ArcSwap::from_pointee(terms),
            separate_dispatch,
            shared_names: SharedNames::default(),
            admission: Admission::default(),
            idle: Arc::default(),
        }
    }

    /// Gives back what nobody will ask for any more.
    pub fn shrink(&self) {
        self.exchange.shrink();
        self.dispatcher.shrink(self.limits().remember_runs);
    }

    /// The limits and times of now.
    pub fn limits(&self) -> Guard<Arc<RequestLimits>> {
        self.limits.load()
    }

    /// From now on requests meet these. Held polls stay as they are.
    pub fn set_limits(&self, terms: RequestLimits) {
        self.limits.store(Arc::new(terms));
    }

    /// POSTs in flight.
    pub fn posts_in_flight(&self) -> usize {
        self.dispatcher.in_flight()
    }

    /// The supervisor's trace, if it is to be continued.
    fn trace(&self, head: &RequestHead<'_>) -> Option<TraceParent> {
        let header = self.journal.exports_traces().then(|| head.fields.single("traceparent"));
        header?.ok().flatten().and_then(TraceParent::parse)
    }
}

/// What becomes of a request.
enum Action {
    /// It is answered now.
    Respond(HttpResponse),
    /// It is held until a run comes.
    Park(Box<PollRequest>),
    /// Its connection closes without a word: any status would say more to a controller than is meant.
    Close,
}

/// A poll that is ready to be held.
struct PollRequest {
    key: Key,
    accepts: AcceptedPayload,
    controller: Box<str>,
    host: HostId,
    client: ClientAddr,
    format: &'static ResponseFormat,
    reusable: bool,
    /// The time that the client knows of.
    timeout: Duration,
    /// It is offered nothing in the last part of its time, at least so long before the end, or four round trips.
    /// None if the broker itself ends it, so that there is no race with the client's clock.
    guard: Option<Duration>,
    /// It is held for so long after its time.
    grace: Duration,
}

/// What a request is answered with at once, counted unless it is held: a held poll is counted when it ends.
/// `Err` with its route if it is a dispatch, which takes its time.
fn route_now(
    front: &HttpState,
    listener: Listener,
    peer: IpAddr,
    head: &RequestHead<'_>,
) -> Result<Action, Route> {
    let (route, answer) = match route(front, listener, peer, head) {
        (route, Some(answer)) => (route, answer),
        (route, None) => return Err(route),
    };
    if let Action::Respond(reply) = &answer {
        front.metrics.answered(route, reply.status.as_u16());
    }
    match route {
        Route::Poll | Route::NativePoll if !matches!(answer, Action::Park(_)) => front.metrics.poll_refused(),
        Route::Poll
        | Route::NativePoll
        | Route::Dispatch
        | Route::NativeDispatch
        | Route::Connect
        | Route::Ops
        | Route::Other => {}
    }
    Ok(answer)
}

/// Dispatches a run, and counts the request.
async fn dispatch(front: &Arc<HttpState>, route: Route, head: RequestHead<'_>, body: Source) -> HttpResponse {
    let reply = if route == Route::NativeDispatch {
        native::dispatch(front, head, body).await
    } else {
        trigger::dispatch(front, head, body).await
    };
    front.metrics.answered(route, reply.status.as_u16());
    reply
}

/// The one place where a request finds its route. No answer yet if it is a dispatch.
fn route(
    front: &HttpState,
    listener: Listener,
    peer: IpAddr,
    head: &RequestHead<'_>,
) -> (Route, Option<Action>) {
    let dispatches = listener == Listener::Dispatch || !front.separate_dispatch;
    let polls = listener == Listener::Public;
    let target = head.path.len() + head.query.map_or(0, |query| 1 + query.len());
    let native = head.path.starts_with(native::PREFIX);
    if target > MAX_TARGET_BYTES {
        return (Route::Other, Some(Problem::target_too_long().into()));
    }
    if head.is_browser() {
        return (Route::Other, Some(Action::Respond(browser_page::refuse(head, Problem::browser()))));
    }
    let both = match (polls, dispatches) {
        (true, true) => "GET, HEAD, POST",
        (true, false) => "GET, HEAD",
        (false, _) => "POST",
    };
    if let Some((route, answer)) = health::check(front, polls, both, head) {
        return (route, Some(answer));
    }
    let terms = front.limits();
    let from = || ClientAddr::read(&terms.proxies, peer, head.fields);
    let wait = |answer: fn(&HttpState, ClientAddr, &RequestHead<'_>) -> Action| {
        let from = from();
        match terms.access.may_poll_from(from.client) {
            Ok(()) => answer(front, from, head),
            Err(why) => {
                record_denial(front, why, peer);
                Action::Close
            }
        }
    };
    let refuse = || refuse_dispatch(front, &terms, peer, head);
    let wrong = |problem: Problem| (Route::Other, Some(problem.into()));
    match (head.method, head.path) {
        (&Method::GET, "/warm-start") if polls => (Route::Poll, Some(wait(trigger::poll))),
        (&Method::POST, "/warm-start") if dispatches => (Route::Dispatch, refuse()),
        (&Method::GET, "/connect") if polls => (Route::Connect, Some(wait(trigger::connect))),
        (&Method::GET, _) if native && polls => (Route::NativePoll, Some(wait(native::poll))),
        (&Method::POST, _) if native && dispatches => (Route::NativeDispatch, refuse()),
        (_, "/connect") if polls => wrong(Problem::method_not_allowed("GET, HEAD")),
        (&Method::CONNECT, _) | (_, "*" | "/warm-start") => wrong(Problem::method_not_allowed(both)),
        _ if native => wrong(Problem::method_not_allowed(both)),
        _ => (Route::Other, Some(Action::Respond(browser_page::refuse(head, Problem::no_such_route())))),
    }
}

/// Counts a request that is not let in, and says so where only the operator of a proxy can help.
fn record_denial(front: &HttpState, why: AuthFailure, proxy: IpAddr) {
    static LINES: Throttle = Throttle::new();
    front.metrics.denied(why);
    if why == AuthFailure::NoAddress && LINES.is_open() {
        tracing::warn!(
            %proxy,
            "a request was refused: only listed addresses are let in, and this proxy of --behind-proxy did not name its client. \
             Let it add one readable address to X-Forwarded-For, or to Forwarded; if it adds both, the same"
        );
    }
}

/// What a POST is answered with that is not let in, or not now. Nothing of its body is read.
fn refuse_dispatch(
    front: &HttpState,
    terms: &RequestLimits,
    peer: IpAddr,
    head: &RequestHead<'_>,
) -> Option<Action> {
    let RequestLimits { access, max_posts, max_post_rate, .. } = terms;
    let is_listed = if access.restricts_dispatch_addresses() {
        access.may_dispatch_from(ClientAddr::read(&terms.proxies, peer, head.fields).client)
    } else {
        Ok(())
    };
    let bearer = || access.authorize_dispatch(head.fields.values("authorization").next());
    if let Err(why) = is_listed.and_then(|()| bearer()) {
        record_denial(front, why, peer);
        front.metrics.dispatched(DispatchOutcome::Refused, Duration::ZERO);
        return Some(Problem::not_allowed(why).into());
    }
    let pressure = &front.admission;
    let is_well = !pressure.is_short_of_memory()
        && front.posts_in_flight() < *max_posts
        && max_post_rate.is_none_or(|rate| pressure.is_within_rate(rate));
    if is_well {
        return None;
    }
    front.metrics.dispatched(DispatchOutcome::Miss(MissReason::Overloaded), Duration::ZERO);
    Some(Problem::overloaded().into())
}

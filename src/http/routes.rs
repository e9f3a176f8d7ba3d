//! Owns the routes: which dialect or response a request gets, which clients are let in, and the count of both.

use std::net::IpAddr;
use std::time::Duration;

use hyper::Method;

use super::client_addr::ClientAddr;
use super::dialect::{self, Dialect, PollRequest, Resource};
use super::h1::{FieldName, MAX_TARGET_BYTES, RequestHead, Signs};
use super::problem::Problem;
use super::receipts::{self, PeerReceipt, Received};
use super::response::HttpResponse;
use super::run_request::{RunPath, RunResource};
use super::state::{HttpState, RequestLimits};
use super::{browser_page, health};
use crate::logging::Throttle;
use crate::metrics::{AuthFailure, Listener, Route};
use crate::model::{DispatchOutcome, MissReason};

/// What is done with a request.
pub(super) enum Action<'a> {
    /// It is answered.
    Respond(HttpResponse),
    /// It is held until a run comes.
    Park(PollRequest<'a>),
    /// Its connection is closed without a response, because a stock controller would act on any status.
    Close,
}

impl From<Problem> for Action<'_> {
    fn from(problem: Problem) -> Self {
        Self::Respond(problem.into())
    }
}

/// A request that has found its route.
pub(super) enum Routed<'a> {
    /// What is done with it is known at once.
    Now(Action<'a>),
    /// It is a dispatch, which [`dialect::dispatch`] handles and counts, with a body of at most this many bytes.
    Dispatch(&'static dyn Dialect, usize),
    /// It is a reply, which [`receive`](super::replies::receive) relays and which is counted then.
    Reply(RunPath<'a>),
    /// It is a receipt for another broker, to which [`receipts::pass_on`] sends it, and counts it.
    PassOn(PeerReceipt),
}

/// Whether the bodies of POSTs to this path are read as they come: a reply is open from its head on.
pub(super) fn is_streamed(path: &str) -> bool {
    let path = RunPath::find(path);
    path.is_some_and(|path| matches!(path.resource, RunResource::Reply | RunResource::Error))
}

/// Routes a request, and counts it unless it is a dispatch, is passed on or is held: a held poll is counted when it ends.
pub(super) fn route<'a>(
    state: &HttpState,
    listener: Listener,
    peer: IpAddr,
    head: &RequestHead<'a>,
) -> Routed<'a> {
    let (route, action) = match find(state, listener, peer, head) {
        (_, later @ (Routed::Dispatch(..) | Routed::PassOn(_) | Routed::Reply(_))) => return later,
        (route, Routed::Now(action)) => (route, action),
    };
    if let Action::Respond(response) = &action {
        state.metrics.answered(route, response.status.as_u16());
    }
    match route {
        Route::Poll | Route::NativePoll if !matches!(action, Action::Park(_)) => state.metrics.poll_refused(),
        Route::Poll
        | Route::NativePoll
        | Route::Dispatch
        | Route::NativeDispatch
        | Route::Invoke
        | Route::Connect
        | Route::Receipt
        | Route::Reply
        | Route::Ops
        | Route::Other => {}
    }
    Routed::Now(action)
}

/// The one place where a request finds its route.
fn find<'a>(
    state: &HttpState,
    listener: Listener,
    peer: IpAddr,
    head: &RequestHead<'a>,
) -> (Route, Routed<'a>) {
    let dispatches = listener == Listener::Dispatch || !state.separate_dispatch;
    let polls = listener == Listener::Public;
    let other = |action: Action<'a>| (Route::Other, Routed::Now(action));
    if head.path.len() + head.query.map_or(0, |query| 1 + query.len()) > MAX_TARGET_BYTES {
        return other(Problem::target_too_long().into());
    }
    if head.fields.show(Signs::BROWSER) {
        return other(Action::Respond(browser_page::refuse(head, Problem::browser())));
    }
    let pool_methods = match (polls, dispatches) {
        (true, true) => "GET, HEAD, POST",
        (true, false) => "GET, HEAD",
        (false, _) => "POST",
    };
    let limits = state.limits();
    if let Some(response) = health::check(limits.public_livez, pool_methods, head) {
        return other(Action::Respond(response));
    }
    match (dialect::find(head.path), head.method) {
        (Some((dialect, Resource::Pool)), &Method::GET) if polls => {
            let poll = |client| match dialect.parse_poll(state, &limits, client, head) {
                Ok(poll) => Action::Park(poll),
                Err(problem) => problem.into(),
            };
            (
                dialect.poll_route(),
                Routed::Now(admit_controller(state, &limits, peer, head, poll).unwrap_or(Action::Close)),
            )
        }
        (Some((dialect, Resource::Pool)), &Method::HEAD) if polls => {
            other(Action::Respond(dialect.check_pool(head)))
        }
        (Some((dialect, Resource::Pool | Resource::Function)), &Method::POST) if dispatches => {
            (dialect.dispatch_route(), admit_dispatch(state, &limits, peer, head, dialect))
        }
        (Some((dialect, Resource::Times)), &Method::GET) if polls => {
            let times = |_| Action::Respond(dialect.times(state));
            (
                Route::Connect,
                Routed::Now(admit_controller(state, &limits, peer, head, times).unwrap_or(Action::Close)),
            )
        }
        (Some((dialect, Resource::Times)), &Method::HEAD) if polls => {
            (Route::Connect, Routed::Now(Action::Respond(dialect.times(state))))
        }
        (Some((_, Resource::Times)), _) if polls => other(Problem::method_not_allowed("GET, HEAD").into()),
        (Some((dialect, Resource::Function)), &Method::POST) => {
            other(Action::Respond(dialect.refuse(head, Problem::no_such_route())))
        }
        (Some((_, Resource::Function)), _) => other(Problem::method_not_allowed("POST").into()),
        (Some((_, Resource::Pool)), _) | (_, &Method::CONNECT) => {
            other(Problem::method_not_allowed(pool_methods).into())
        }
        _ if head.path == "*" => other(Problem::method_not_allowed(pool_methods).into()),
        _ => match RunPath::find(head.path).filter(|_| polls) {
            Some(path) => receive_of_worker(state, &limits, peer, head, path),
            None => other(Action::Respond(browser_page::refuse(head, Problem::no_such_route()))),
        },
    }
}

/// Handles a request on the path of a run. No limit of dispatches refuses it: a receipt would cost the offer that it is for, and a
/// reply the run that was worked on.
fn receive_of_worker<'a>(
    state: &HttpState,
    limits: &RequestLimits,
    peer: IpAddr,
    head: &RequestHead<'a>,
    path: RunPath<'a>,
) -> (Route, Routed<'a>) {
    if head.method != Method::POST {
        return (Route::Other, Routed::Now(Problem::method_not_allowed("POST").into()));
    }
    if let RunResource::Reply | RunResource::Error = path.resource {
        let reply = admit_controller(state, limits, peer, head, |_| Routed::Reply(path));
        return (Route::Reply, reply.unwrap_or(Routed::Now(Action::Close)));
    }
    let receive = |_| match receipts::receive(state, path, head.query) {
        Received::Answered(response) => Routed::Now(Action::Respond(response)),
        Received::ForPeer(receipt) => Routed::PassOn(receipt),
    };
    let received = admit_controller(state, limits, peer, head, receive);
    (Route::Receipt, received.unwrap_or(Routed::Now(Action::Close)))
}

/// Handles a controller's request. None if its address may not poll: then its connection is to be closed.
fn admit_controller<T>(
    state: &HttpState,
    limits: &RequestLimits,
    peer: IpAddr,
    head: &RequestHead<'_>,
    handle: impl FnOnce(ClientAddr) -> T,
) -> Option<T> {
    let client = ClientAddr::read(&limits.proxies, peer, head.fields);
    match limits.access.may_poll_from(client.client) {
        Ok(()) => Some(handle(client)),
        Err(failure) => {
            record_denial(state, failure, peer);
            None
        }
    }
}

/// Counts a request that is not let in, and logs it where only the operator of a proxy can help.
fn record_denial(state: &HttpState, failure: AuthFailure, proxy: IpAddr) {
    static LINES: Throttle = Throttle::new();
    state.metrics.denied(failure);
    if failure == AuthFailure::NoAddress && LINES.is_open() {
        tracing::warn!(
            %proxy,
            "a request was refused: only listed addresses are let in, and this proxy of --behind-proxy did not name its client. \
             Let it add one readable address to X-Forwarded-For, or to Forwarded; if it adds both, the same"
        );
    }
}

/// Handles the head of a dispatch.
fn admit_dispatch<'a>(
    state: &HttpState,
    limits: &RequestLimits,
    peer: IpAddr,
    head: &RequestHead<'a>,
    dialect: &'static dyn Dialect,
) -> Routed<'a> {
    match refuse_dispatch(state, limits, peer, head) {
        None => Routed::Dispatch(dialect, limits.body_limit),
        Some(problem) => Routed::Now(Action::Respond(dialect::refuse(dialect, state, head, problem))),
    }
}

/// Why a dispatch is refused before anything of its body is read.
fn refuse_dispatch(
    state: &HttpState,
    limits: &RequestLimits,
    peer: IpAddr,
    head: &RequestHead<'_>,
) -> Option<Problem> {
    let RequestLimits { access, max_posts, max_post_rate, .. } = limits;
    let is_listed = if access.restricts_dispatch_addresses() {
        access.may_dispatch_from(ClientAddr::read(&limits.proxies, peer, head.fields).client)
    } else {
        Ok(())
    };
    let has_bearer = || access.authorize_dispatch(head.fields.value(FieldName::Authorization));
    if let Err(failure) = is_listed.and_then(|()| has_bearer()) {
        record_denial(state, failure, peer);
        state.metrics.dispatched(DispatchOutcome::Refused, Duration::ZERO);
        return Some(Problem::not_allowed(failure));
    }
    let is_admitted = !state.admission.is_short_of_memory()
        && state.posts_in_flight() < *max_posts
        && max_post_rate.is_none_or(|rate| state.admission.is_within_rate(rate));
    if is_admitted {
        return None;
    }
    state.metrics.dispatched(DispatchOutcome::Miss(MissReason::Overloaded), Duration::ZERO);
    Some(Problem::overloaded())
}

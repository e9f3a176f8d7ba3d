//! Owns the requests of controllers and supervisors: routes, both dialects, and the only statuses they see.

mod body;
mod connection;
mod dispatch;
mod from;
mod head;
mod message;
mod native;
mod problem;
mod quick;
mod reply;
mod trigger;
mod wire;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::Method;
use ipnet::IpNet;

use crate::broker::{Accepts, Key, Machine};
use crate::exchange::Repeats;
use crate::journal::{Journal, Parent};
use crate::metrics::{Listener, Metrics, Proof, Route};
use crate::transport::{Exchange, Wire};

use body::Source;
pub use connection::serve;
use from::From;
use head::Head;
pub use message::{Message, MessageError};
pub use problem::Problem;
pub use reply::Reply;

/// The longest accepted request target, in bytes.
const MAX_TARGET_BYTES: usize = 2048;

/// What requests are served with.
pub struct Front {
    /// The pools.
    pub exchange: Arc<Exchange>,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
    /// The limits and times that requests meet.
    pub terms: Terms,
    /// What is told of what happens.
    pub journal: Arc<Journal>,
    repeats: Arc<Repeats<dispatch::Delivered>>,
    posts: AtomicUsize,
}

/// The limits and times that requests meet.
#[derive(Debug, Clone)]
pub struct Terms {
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
    /// Whether POSTs have a listener of their own.
    pub separate_dispatch: bool,
}

impl Front {
    /// Ready to serve.
    pub fn new(exchange: Arc<Exchange>, metrics: Arc<Metrics>, journal: Arc<Journal>, terms: Terms) -> Self {
        Self { exchange, metrics, terms, journal, repeats: Arc::default(), posts: AtomicUsize::new(0) }
    }

    /// The supervisor's trace, if it is to be continued.
    fn trace(&self, head: &Head<'_>) -> Option<Parent> {
        let header = self.journal.traces().then(|| head.fields.single("traceparent"));
        header?.ok().flatten().and_then(Parent::parse)
    }

    /// POSTs that are not answered yet.
    pub fn posts_in_flight(&self) -> usize {
        self.posts.load(Ordering::Relaxed)
    }
}

/// What becomes of a request.
enum Answer {
    /// It is answered now.
    Reply(Reply),
    /// It is held until a run comes.
    Wait(Box<Wait>),
}

/// A poll that is ready to be held.
struct Wait {
    key: Key,
    accepts: Accepts,
    controller: Box<str>,
    machine: Machine,
    from: From,
    wire: &'static Wire,
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
fn answer_now(front: &Front, listener: Listener, peer: IpAddr, head: &Head<'_>) -> Result<Answer, Route> {
    let (route, answer) = match route(front, listener, peer, head) {
        (route, Some(answer)) => (route, answer),
        (route, None) => return Err(route),
    };
    if let Answer::Reply(reply) = &answer {
        front.metrics.answered(route, reply.status.as_u16());
        if matches!(route, Route::Poll | Route::NativePoll) {
            front.metrics.poll_refused();
        }
    }
    Ok(answer)
}

/// Dispatches a run, and counts the request.
async fn dispatch(front: &Arc<Front>, route: Route, head: Head<'_>, body: Source) -> Reply {
    let reply = if route == Route::NativeDispatch {
        native::dispatch(front, head, body).await
    } else {
        trigger::dispatch(front, head, body).await
    };
    front.metrics.answered(route, reply.status.as_u16());
    reply
}

/// The one place where a request finds its route. No answer yet if it is a dispatch.
fn route(front: &Front, listener: Listener, peer: IpAddr, head: &Head<'_>) -> (Route, Option<Answer>) {
    let dispatches = listener == Listener::Dispatch || !front.terms.separate_dispatch;
    let polls = listener == Listener::Public;
    let target = head.path.len() + head.query.map_or(0, |query| 1 + query.len());
    let native = head.path.starts_with(native::PREFIX);
    if target > MAX_TARGET_BYTES {
        return (Route::Other, Some(Problem::target_too_long().into()));
    }
    let both = match (polls, dispatches) {
        (true, true) => "GET, POST",
        (true, false) => "GET",
        (false, _) => "POST",
    };
    let from = || From::read(&front.terms.proxies, peer, head.fields);
    let wrong = |problem: Problem| (Route::Other, Some(problem.into()));
    match (head.method, head.path) {
        (&Method::GET, "/warm-start") if polls => (Route::Poll, Some(trigger::poll(front, from(), head))),
        (&Method::POST, "/warm-start") if dispatches => (Route::Dispatch, None),
        (&Method::GET, "/connect") if polls => (Route::Connect, Some(trigger::connect(front))),
        (&Method::GET, _) if native && polls => (Route::NativePoll, Some(native::poll(front, from(), head))),
        (&Method::POST, _) if native && dispatches => (Route::NativeDispatch, None),
        (_, "/warm-start") => wrong(Problem::method_not_allowed(both)),
        (_, "/connect") if polls => wrong(Problem::method_not_allowed("GET")),
        _ if native => wrong(Problem::method_not_allowed(both)),
        _ => wrong(Problem::no_such_route()),
    }
}

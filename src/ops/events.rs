//! Owns `GET /events`: server-sent events of a topic. A subscriber that lags behind the log is disconnected.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame};
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response};
use parking_lot::Mutex;

use crate::broker::check_part;
use crate::http::{HttpState, Problem};
use crate::journal::{EventBatch, EventKinds, EventReader, Topic};

/// The interval of comments on a stream without events, so that neither end nor a proxy takes the connection for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Resolves once the connection's subscriber lags.
pub(super) type LagSignal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The body of a subscriber's response. It does not end by itself.
pub(super) struct EventStream {
    reader: Arc<EventReader>,
    next: Pin<Box<dyn Future<Output = Bytes> + Send>>,
}

/// Subscribes to the events that a request selects.
pub(super) fn subscribe<B>(
    state: &HttpState,
    request: &Request<B>,
) -> Result<(Response<EventStream>, LagSignal), Problem> {
    let topic = parse_topic(request.uri().query().unwrap_or_default())?;
    let last = request.headers().get("last-event-id").and_then(|id| id.to_str().ok());
    let reader = state.journal.subscribe(last, topic).ok_or_else(Problem::too_many_readers)?;
    let lag: LagSignal = Box::pin(reader.lagged());
    let reader = Arc::new(reader);
    // The first bytes show at once that the stream is open, and set the client's delay before it reconnects.
    let first = Box::pin(async { Bytes::from_static(b"retry: 1000\n\n") });
    Ok((with_headers(EventStream { reader, next: first }), lag))
}

/// The response to a HEAD request, which does not subscribe.
pub(super) fn head() -> Response<Full<Bytes>> {
    with_headers(Full::default())
}

fn with_headers<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Without this header, nginx buffers events.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The topic that a query selects: all events, unless it names kinds, a deployment, a version or a run.
fn parse_topic(query: &str) -> Result<Topic, Problem> {
    let mut topic = Topic::from(EventKinds::all());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let part = || match check_part(&value) {
            Ok(part) => Ok(Some(part.into())),
            Err(error) => Err(Problem::bad_parameter(&name, error)),
        };
        match &*name {
            "deployment" => topic.deployment = part()?,
            "version" => topic.version = part()?,
            "run" => topic.run = part()?,
            "kind" | "kinds" => topic.kinds = parse_kinds(&name, &value)?,
            _ => {
                let why = "has an unknown name; known: deployment, version, run, kind";
                return Err(Problem::bad_parameter("The query", why));
            }
        }
    }
    if topic.possible_kinds().is_empty() {
        let why = "has only poll and retire, which have no run, so that no event would ever be sent";
        return Err(Problem::bad_parameter("kind", why));
    }
    Ok(topic)
}

/// Kinds, separated by commas.
fn parse_kinds(name: &str, list: &str) -> Result<EventKinds, Problem> {
    let by_name =
        |text: &str| EventKinds::NAMED.iter().find(|(name, _)| *name == text).map(|(_, kind)| *kind);
    let kinds: Option<EventKinds> = list.split(',').map(by_name).collect();
    let why = "has something other than poll, dispatch, verdict, drain, retire, reply";
    kinds.ok_or_else(|| Problem::bad_parameter(name, why))
}

/// Waits until the connection's subscriber lags. A connection without a subscriber waits forever.
pub(super) async fn lagged(lag: &Mutex<Option<LagSignal>>) {
    poll_fn(|cx| lag.lock().as_mut().map_or(Poll::Pending, |lag| lag.as_mut().poll(cx))).await;
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = ready!(self.next.as_mut().poll(cx));
        let reader = self.reader.clone();
        self.next = Box::pin(async move {
            match tokio::time::timeout(HEARTBEAT, reader.next()).await {
                Ok(EventBatch(bytes)) => bytes,
                Err(_) => reader.heartbeat().0,
            }
        });
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

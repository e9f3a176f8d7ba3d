//! Owns `GET /events`: server-sent events, each reader at its own pace, cut off when it falls behind.

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

use crate::http::{HttpState, Problem};
use crate::journal::{EventBatch, EventKinds, EventReader};

/// Silence is broken after this time, so that both ends and every proxy between know that the other lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Comes to an end when the connection's reader has fallen behind.
pub(super) type Watch = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A reader's answer, which has no end of its own.
pub(super) struct Events {
    reader: Arc<EventReader>,
    next: Pin<Box<dyn Future<Output = Bytes> + Send>>,
}

/// Begins to follow.
pub(super) fn follow<B>(
    front: &HttpState,
    request: &Request<B>,
) -> Result<(Response<Events>, Watch), Problem> {
    let kinds = kinds(request.uri().query().unwrap_or_default())?;
    let last = request.headers().get("last-event-id").and_then(|id| id.to_str().ok());
    let reader = front.journal.subscribe(last, kinds).ok_or_else(Problem::too_many_readers)?;
    let watch: Watch = Box::pin(reader.lagged());
    let reader = Arc::new(reader);
    // What comes first says how soon to come back, and that the stream is open.
    let hello = Box::pin(async { Bytes::from_static(b"retry: 1000\n\n") });
    Ok((described(Events { reader, next: hello }), watch))
}

/// What is said of the stream to whoever asks for its head only: nobody follows it.
pub(super) fn head() -> Response<Full<Bytes>> {
    described(Full::default())
}

fn described<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would gather events until a buffer is full.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The kinds that a reader names in `?kinds=`; without it, all of them.
fn kinds(query: &str) -> Result<EventKinds, Problem> {
    let mut kinds = EventKinds::all();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name != "kinds" {
            return Err(Problem::bad_parameter("The query", "has an unknown name; known: kinds"));
        }
        let by_name =
            |text: &str| EventKinds::NAMED.iter().find(|(name, _)| *name == text).map(|(_, kind)| *kind);
        let parsed: Option<EventKinds> = value.split(',').map(by_name).collect();
        let bad = || {
            Problem::bad_parameter("kinds", "has something other than poll, dispatch, verdict, drain, retire")
        };
        kinds = parsed.ok_or_else(bad)?;
    }
    Ok(kinds)
}

/// Waits for the connection's reader to fall behind, if it ever has one.
pub(super) async fn falls_behind(watch: &Mutex<Option<Watch>>) {
    poll_fn(|cx| watch.lock().as_mut().map_or(Poll::Pending, |watch| watch.as_mut().poll(cx))).await;
}

impl Body for Events {
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
                Err(_) => Bytes::from_static(b": still here\n\n"),
            }
        });
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

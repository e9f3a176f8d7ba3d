//! Owns hyper's part: one request whose head was judged, with its body in any form.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;

use super::body::{self, Source};
use super::head::{HeaderFields, RequestHead};
use super::validate::HEAD_BYTES;
use super::{Action, HttpState, dispatch, route_now};
use crate::metrics::{Listener, Route};
use crate::transport::{Connection, PrefixedIo};

/// hyper has the whole head already; without a timer it would panic, or never notice.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// What came of one request that hyper has read.
pub(super) struct HyperRead {
    pub(super) action: Action,
    /// What stands behind the request.
    pub(super) unread: BytesMut,
}

/// Lets hyper read one request, its body in any form, and finds the answer. None if the connection is over.
pub(super) async fn read_with_hyper(
    front: &Arc<HttpState>,
    listener: Listener,
    connection: &Arc<Connection>,
    begun: Bytes,
) -> Option<HyperRead> {
    // hyper is never told the answer: the way out is the same for all requests.
    let found = Mutex::new(None);
    let service = service_fn(async |request: Request<Incoming>| {
        let answer = serve_hyper(front, listener, connection, request).await;
        *found.lock() = Some(answer);
        pending::<Result<Response<Full<Bytes>>, Infallible>>().await
    });
    let mut http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(PrefixedIo::new(connection.clone(), begun)), service);
    let answer = poll_fn(|cx| match Pin::new(&mut http).poll(cx) {
        Poll::Ready(done) => Poll::Ready(Err(done)),
        Poll::Pending => found.lock().take().map_or(Poll::Pending, |answer| Poll::Ready(Ok(answer))),
    });
    match answer.await {
        Ok(answer) => {
            let parts = http.into_parts();
            // hyper has read so far, and nobody yet beyond.
            let mut rest = BytesMut::from(parts.read_buf);
            rest.extend_from_slice(&parts.io.into_inner().into_unread());
            Some(HyperRead { action: answer, unread: rest })
        }
        Err(done) => {
            if done.is_err_and(|error| error.is_parse()) {
                // hyper has said 400 already.
                front.metrics.answered(Route::Other, 400);
            }
            None
        }
    }
}

async fn serve_hyper(
    front: &Arc<HttpState>,
    listener: Listener,
    connection: &Connection,
    request: Request<Incoming>,
) -> Action {
    let (parts, body) = request.into_parts();
    let head = RequestHead {
        method: &parts.method,
        path: parts.uri.path(),
        query: parts.uri.query(),
        is_http_11: parts.version == Version::HTTP_11,
        fields: HeaderFields::Map(&parts.headers),
    };
    let mut reply = match route_now(front, listener, connection.origin(), &head) {
        Ok(Action::Park(wait)) => {
            if body::discard(body).await {
                return Action::Park(wait);
            }
            front.metrics.poll_refused();
            return Action::Close;
        }
        Ok(Action::Close) => return Action::Close,
        Ok(Action::Respond(mut reply)) => {
            // What is not read would be taken for the next request; and who waits to be asked for it is not asked.
            reply.close = reply.close || head.fields.has("expect") || !body::discard(body).await;
            reply
        }
        Err(route) => dispatch(front, route, head, Source::Stream(body)).await,
    };
    reply.close |= !head.is_reusable() || front.admission.closes_connections();
    reply.omits_body = head.method == Method::HEAD;
    Action::Respond(reply)
}

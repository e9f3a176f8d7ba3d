//! Owns the use of hyper: it reads one request whose head is validated, with a body in any form.

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
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;

use super::validate::MAX_HEAD_BYTES;
use crate::transport::{Connection, PrefixedIo};

/// hyper has the whole head already. Without a timer it would panic; with one, it needs a timeout that never matters.
const HYPER_HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// One request that hyper has read.
pub(in crate::http) struct HyperRead<T> {
    /// The handler's result.
    pub(in crate::http) handled: T,
    /// The bytes after the request.
    pub(in crate::http) unread: BytesMut,
}

/// Why hyper has read no request. The connection is over.
pub(in crate::http) enum HyperEnd {
    /// hyper has found the request malformed, and has answered 400.
    BadRequest,
    /// The connection has ended.
    Closed,
}

/// Lets hyper read one request and runs `handle` on it. hyper is dropped once that is done: the caller writes the response,
/// in the same way for all requests. `begun` is everything that was read so far.
/// With `may_half_close`, the handler goes on if the client ends its side after the request; otherwise it is dropped then.
pub(in crate::http) async fn read_with_hyper<T, F: Future<Output = T>>(
    connection: &Arc<Connection>,
    begun: Bytes,
    may_half_close: bool,
    handle: impl Fn(Request<Incoming>) -> F,
) -> Result<HyperRead<T>, HyperEnd> {
    let result = Mutex::new(None);
    let service = service_fn(async |request: Request<Incoming>| {
        let handled = handle(request).await;
        *result.lock() = Some(handled);
        pending::<Result<Response<Full<Bytes>>, Infallible>>().await
    });
    let mut http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HYPER_HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .half_close(may_half_close)
        .serve_connection(TokioIo::new(PrefixedIo::new(connection.clone(), begun)), service);
    let handled = poll_fn(|cx| match Pin::new(&mut http).poll(cx) {
        Poll::Ready(ended) => Poll::Ready(Err(ended)),
        Poll::Pending => result.lock().take().map_or(Poll::Pending, |handled| Poll::Ready(Ok(handled))),
    });
    match handled.await {
        Ok(handled) => {
            let parts = http.into_parts();
            // hyper's buffer comes first, then what it has not taken over.
            let mut unread = BytesMut::from(parts.read_buf);
            unread.extend_from_slice(&parts.io.into_inner().into_unread());
            Ok(HyperRead { handled, unread })
        }
        Err(Err(error)) if error.is_parse() => Err(HyperEnd::BadRequest),
        Err(_) => Err(HyperEnd::Closed),
    }
}

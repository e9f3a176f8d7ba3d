//! Owns one connection's life: a request is read, quickly or by hyper; a poll is held; what comes next is read again.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use httparse::EMPTY_HEADER;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::body::Source;
use super::head::{Fields, Head};
use super::quick::{self, MOST_FIELDS, Read};
use super::{Answer, Front, Reply, Wait, serve_request};
use crate::broker::Ticket;
use crate::metrics::{Listener, Rejected};
use crate::transport::{Connection, Farewell, Held, Io, Place, Waiter, hold};

/// A request's head must be complete within this time.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// The largest accepted head, in bytes.
const HEAD_BYTES: usize = 16 * 1024;
/// A connection that has carried a request may rest so long before the next: longer than common clients keep it.
const IDLE_TIME: Duration = Duration::from_secs(75);
/// What has begun to come and is not whole after this time is left to hyper.
const SOON: Duration = Duration::from_millis(100);
/// An answer must be taken off our hands within this time.
const REPLY_TIME: Duration = Duration::from_secs(5);

/// Serves one connection until it is over.
pub async fn serve(front: Arc<Front>, listener: Listener, connection: Arc<Connection>) {
    let mut time = HEAD_TIME;
    loop {
        // Boxed, so that all that it takes to talk is freed while the poll is held.
        let Some(wait) = Box::pin(talk(&front, listener, &connection, time)).await else {
            return;
        };
        time = IDLE_TIME;
        let Some(place) = park(&front, &connection, *wait) else {
            return;
        };
        match hold(connection.clone(), place).await {
            Held::Again => {}
            Held::Over => return,
            Held::Pipelined => {
                front.metrics.rejected(Rejected::Pipelined);
                tracing::debug!("bytes followed a held poll; closed");
                return;
            }
        }
    }
}

/// Answers requests until the connection is over (none) or a poll is to be held. The next request begins within `time`.
async fn talk(
    front: &Arc<Front>,
    listener: Listener,
    connection: &Arc<Connection>,
    mut time: Duration,
) -> Option<Box<Wait>> {
    let mut bytes = BytesMut::new();
    loop {
        match timeout(time, connection.read(&mut bytes)).await {
            Ok(Ok(0) | Err(_)) => return None,
            Ok(Ok(_)) => {}
            Err(_) if bytes.is_empty() => return None,
            Err(_) => return Box::pin(speak(front, listener, connection, bytes.freeze())).await,
        }
        let whole = bytes.freeze();
        let mut fields = [EMPTY_HEADER; MOST_FIELDS];
        let (head, body) = match quick::read(&whole, &mut fields) {
            Read::Plain(head, body) => (head, body),
            Read::Partial => {
                bytes = whole.into();
                time = SOON;
                continue;
            }
            Read::Other => return Box::pin(speak(front, listener, connection, whole)).await,
        };
        let reusable = head.is_reusable();
        let answer =
            serve_request(front, listener, connection.origin(), head, Source::Whole(whole.slice(body)));
        let mut reply = match unless_gone(connection, answer).await? {
            Answer::Reply(reply) => reply,
            Answer::Wait(wait) => return Some(wait),
            Answer::Close => return None,
        };
        reply.closes |= !reusable;
        let written = timeout(REPLY_TIME, write(connection, &reply)).await;
        if reply.closes || !written.is_ok_and(|done| done.is_ok()) {
            return None;
        }
        (bytes, time) = (BytesMut::new(), IDLE_TIME);
    }
}

/// None if the client leaves before its answer is there.
async fn unless_gone(connection: &Connection, answer: impl Future<Output = Answer>) -> Option<Answer> {
    let (mut answer, mut gone) = (pin!(answer), pin!(connection.gone()));
    poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => gone.as_mut().poll(cx).map(|()| None),
    })
    .await
}

async fn write(connection: &Connection, reply: &Reply) -> std::io::Result<()> {
    let mut out = Vec::with_capacity(192 + reply.body.len());
    reply.write(&mut out);
    connection.write(&out).await
}

/// Speaks HTTP with all its forms until the connection is over (none) or a poll is to be held.
async fn speak(
    front: &Arc<Front>,
    listener: Listener,
    connection: &Arc<Connection>,
    begun: Bytes,
) -> Option<Box<Wait>> {
    // A request that is not answered by hyper stays pending there; what becomes of it is said here.
    let left = Mutex::new(None);
    let service = service_fn(async |request: Request<Incoming>| {
        let wait = match serve_hyper(front, listener, connection, request).await {
            Answer::Reply(reply) => return Ok::<Response<Full<Bytes>>, Infallible>(reply.into()),
            Answer::Wait(wait) => Some(wait),
            Answer::Close => None,
        };
        *left.lock() = Some(wait);
        pending().await
    });
    let mut http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(Io::new(connection.clone(), begun)), service);
    let wait = poll_fn(|cx| match Pin::new(&mut http).poll(cx) {
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => left.lock().take().map_or(Poll::Pending, Poll::Ready),
    })
    .await?;
    if http.into_parts().read_buf.is_empty() {
        return Some(wait);
    }
    front.metrics.poll_refused();
    front.metrics.rejected(Rejected::Pipelined);
    None
}

async fn serve_hyper(
    front: &Arc<Front>,
    listener: Listener,
    connection: &Connection,
    request: Request<Incoming>,
) -> Answer {
    let (parts, body) = request.into_parts();
    let head = Head {
        method: &parts.method,
        path: parts.uri.path(),
        query: parts.uri.query(),
        is_http_11: parts.version == Version::HTTP_11,
        fields: Fields::Map(&parts.headers),
    };
    serve_request(front, listener, connection.origin(), head, Source::Stream(body)).await
}

/// Gives the poll its place. None if a limit refuses it: then the connection closes without an answer,
/// because any status would end a stock controller.
fn park(front: &Arc<Front>, connection: &Arc<Connection>, wait: Wait) -> Option<Place> {
    let now = front.exchange.now();
    let Wait { key, accepts, controller, machine, from, wire, reusable, timeout, guard, grace } = wait;
    let guard = guard.map_or(Duration::ZERO, |least| least.max(4 * connection.round_trip()));
    let ticket = Ticket {
        key,
        accepts,
        controller,
        origin: from.origin,
        machine,
        offer_until: now.plus(timeout.saturating_sub(guard)),
        deadline: now.plus(timeout + grace),
        waiter: Waiter::new(connection.clone(), wire, reusable, from.through_proxy),
    };
    match front.exchange.park(ticket) {
        Ok((place, replaced)) => {
            if let Some(replaced) = replaced {
                replaced.waiter.dismiss(Farewell::Replaced);
            }
            Some(place)
        }
        Err(full) => {
            tracing::debug!(?full, "a poll was closed without an answer");
            None
        }
    }
}

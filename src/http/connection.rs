//! Owns one connection's life: a request is read, quickly or by hyper; a poll is held; what comes next is read again.

use std::convert::Infallible;
use std::future::{pending, poll_fn, ready};
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

use super::body::{self, Source};
use super::head::{Fields, Head};
use super::quick::{self, MOST_FIELDS, Read};
use super::{Answer, Front, Reply, Wait, answer_now, dispatch};
use crate::broker::Ticket;
use crate::metrics::{Listener, Rejected};
use crate::transport::{Connection, Farewell, Held, Hold, Io, Place, Waiter};

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

/// Serves one connection until it is over. Its guest goes with it.
///
/// What this future keeps while a poll is held is paid for by every held connection: a test knows its size.
#[expect(clippy::manual_async_fn, reason = "an async fn would keep each argument twice")]
pub fn serve<G: AsRef<Arc<Connection>> + Send + 'static>(
    front: Arc<Front>,
    listener: Listener,
    guest: G,
) -> impl Future<Output = ()> + Send + 'static {
    async move {
        let mut is_new = true;
        loop {
            let time = if std::mem::take(&mut is_new) { HEAD_TIME } else { IDLE_TIME };
            let connection = guest.as_ref();
            let wait = match next(&front, listener, connection, time) {
                Ok(wait) => wait,
                Err(talk) => match talk.await {
                    Some(wait) => wait,
                    None => break,
                },
            };
            let Some(place) = park(&front, connection, *wait) else { break };
            match Hold::new(connection, place).await {
                Held::Again => {}
                Held::Over => break,
                Held::Pipelined => {
                    front.metrics.rejected(Rejected::Pipelined);
                    tracing::debug!("bytes followed a held poll; closed");
                    break;
                }
            }
        }
        drop(guest);
    }
}

/// Talking, boxed: all that it takes is freed while the poll is held. None if the connection is over with it.
type Talk<'a> = Pin<Box<dyn Future<Output = Option<Box<Wait>>> + Send + 'a>>;

/// The next poll, or what has to be said before it.
fn next<'a>(
    front: &'a Arc<Front>,
    listener: Listener,
    connection: &'a Arc<Connection>,
    time: Duration,
) -> Result<Box<Wait>, Talk<'a>> {
    match glance(front, listener, connection) {
        Ok(Answer::Wait(wait)) => Ok(wait),
        Ok(Answer::Reply(reply)) => Err(Box::pin(async move {
            say(connection, reply).await?;
            talk(front, listener, connection, BytesMut::new(), IDLE_TIME).await
        })),
        Ok(Answer::Close) => Err(Box::pin(ready(None))),
        Err(begun) => Err(Box::pin(talk(front, listener, connection, begun, time))),
    }
}

/// Reads a request that is there already, as a poll is after each run of a kept connection, and answers it if it is
/// no dispatch; or returns what has been read.
fn glance(front: &Front, listener: Listener, connection: &Connection) -> Result<Answer, BytesMut> {
    let mut bytes = BytesMut::new();
    if connection.read_now(&mut bytes).is_err() {
        return Err(bytes);
    }
    let mut fields = [EMPTY_HEADER; MOST_FIELDS];
    let Read::Plain(head, _) = quick::read(&bytes, &mut fields) else { return Err(bytes) };
    let Ok(mut answer) = answer_now(front, listener, connection.origin(), &head) else { return Err(bytes) };
    if let Answer::Reply(reply) = &mut answer {
        reply.closes |= !head.is_reusable();
    }
    Ok(answer)
}

/// Answers requests until the connection is over (none) or a poll is to be held. The first has `begun`, or begins
/// within `time`.
async fn talk(
    front: &Arc<Front>,
    listener: Listener,
    connection: &Arc<Connection>,
    mut begun: BytesMut,
    mut time: Duration,
) -> Option<Box<Wait>> {
    loop {
        if begun.is_empty() {
            // Nothing is reserved before something is there.
            match timeout(time, connection.read(&mut begun)).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) | Err(_) => return None,
            }
        }
        let whole = begun.freeze();
        let mut fields = [EMPTY_HEADER; MOST_FIELDS];
        let (head, body) = match quick::read(&whole, &mut fields) {
            Read::Plain(head, body) => (head, body),
            Read::Partial => {
                begun = whole.into();
                match timeout(SOON, connection.read(&mut begun)).await {
                    Ok(Ok(1..)) => continue,
                    Ok(Ok(0) | Err(_)) => return None,
                    Err(_) => return Box::pin(speak(front, listener, connection, begun.freeze())).await,
                }
            }
            Read::Other => return Box::pin(speak(front, listener, connection, whole)).await,
        };
        let reusable = head.is_reusable();
        let mut reply = match answer_now(front, listener, connection.origin(), &head) {
            Ok(Answer::Reply(reply)) => reply,
            Ok(Answer::Wait(wait)) => return Some(wait),
            Ok(Answer::Close) => return None,
            Err(route) => {
                let body = Source::Whole(whole.slice(body));
                unless_gone(connection, pin!(dispatch(front, route, head, body))).await?
            }
        };
        reply.closes |= !reusable || front.pressure.is_short_of_room();
        say(connection, reply).await?;
        (begun, time) = (BytesMut::new(), IDLE_TIME);
    }
}

/// None if the client leaves before its answer is there.
async fn unless_gone(
    connection: &Connection,
    mut answer: Pin<&mut impl Future<Output = Reply>>,
) -> Option<Reply> {
    let mut gone = pin!(connection.gone());
    poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => gone.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// None if the connection is over with it.
async fn say(connection: &Connection, reply: Reply) -> Option<()> {
    let mut out = Vec::with_capacity(192 + reply.body.len());
    reply.write(&mut out);
    let written = timeout(REPLY_TIME, connection.write(&out)).await;
    (written.is_ok_and(|done| done.is_ok()) && !reply.closes).then_some(())
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
        match serve_hyper(front, listener, connection, request).await {
            Answer::Reply(reply) => return Ok::<Response<Full<Bytes>>, Infallible>(reply.into()),
            Answer::Wait(wait) => *left.lock() = Some(Some(wait)),
            Answer::Close => *left.lock() = Some(None),
        }
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
    match answer_now(front, listener, connection.origin(), &head) {
        Ok(Answer::Wait(wait)) => {
            if body::discard(body).await {
                return Answer::Wait(wait);
            }
            front.metrics.poll_refused();
            Answer::Close
        }
        Ok(answer) => answer,
        Err(route) => Answer::Reply(dispatch(front, route, head, Source::Stream(body)).await),
    }
}

/// Gives the poll its place. None if a limit refuses it: then the connection closes without an answer,
/// because any status would end a stock controller.
fn park(front: &Arc<Front>, connection: &Arc<Connection>, wait: Wait) -> Option<Place> {
    if front.pressure.is_short_of_memory() {
        front.metrics.poll_refused();
        return None;
    }
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

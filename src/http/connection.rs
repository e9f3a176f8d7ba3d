//! Owns one connection's life: a request is read, quickly or by hyper; a poll is held; what comes next is read again.

use std::future::{poll_fn, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use httparse::EMPTY_HEADER;
use hyper::Method;
use tokio::time::{Instant, timeout, timeout_at};

use super::body::Source;
use super::fast_path::{self, FastParse, MAX_FIELDS};
use super::head::RequestHead;
use super::hyper_fallback::{HyperRead, read_with_hyper};
use super::shared_names;
use super::validate::{self, HEAD_BYTES, HeadCheck};
use super::{Action, HttpResponse, HttpState, PollRequest, Problem, dispatch, route_now};
use crate::broker::ParkRequest;
use crate::metrics::{Listener, RejectReason, Route};
use crate::transport::{CloseReason, Connection, HeldPoll, HoldEnd, LongPoll, ParkedGuard, Waiter};

/// A request's head must be complete within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A plain request whose body is not whole after this time is left to hyper.
const BODY_GRACE: Duration = Duration::from_millis(100);
/// An answer must be taken off our hands within this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Who is told that the connection ends may go on talking for so long,
const LINGER_TIME: Duration = Duration::from_secs(1);
/// and so much.
const LINGER_BYTES: usize = 256 * 1024;

/// Serves one connection until it is over. Its guest goes with it.
///
/// What this future keeps while a poll is held is paid for by every held connection: a test knows its size.
#[expect(clippy::manual_async_fn, reason = "an async fn would keep each argument twice")]
pub fn serve<G: AsRef<Arc<Connection>> + Send + 'static>(
    front: Arc<HttpState>,
    listener: Listener,
    guest: G,
) -> impl Future<Output = ()> + Send + 'static {
    async move {
        let mut is_new = true;
        loop {
            let connection = guest.as_ref();
            let time = if std::mem::take(&mut is_new) { HEAD_TIMEOUT } else { connection.idle_timeout() };
            let wait = match next_poll(&front, listener, connection, time) {
                Ok(wait) => wait,
                Err(talk) => match talk.await {
                    Some(wait) => wait,
                    None => break,
                },
            };
            let Some(place) = park(&front, connection, *wait) else { break };
            match HeldPoll::new(connection, place).await {
                HoldEnd::NextRequest => {}
                HoldEnd::Closed => break,
                HoldEnd::Pipelined => {
                    front.metrics.rejected(RejectReason::Pipelined);
                    tracing::debug!("bytes followed a held poll; closed");
                    break;
                }
            }
        }
        drop(guest);
    }
}

/// Talking, boxed: all that it takes is freed while the poll is held. None if the connection is over with it.
type RequestLoop<'a> = Pin<Box<dyn Future<Output = Option<Box<PollRequest>>> + Send + 'a>>;

/// The next poll, or what has to be said before it.
fn next_poll<'a>(
    front: &'a Arc<HttpState>,
    listener: Listener,
    connection: &'a Arc<Connection>,
    time: Duration,
) -> Result<Box<PollRequest>, RequestLoop<'a>> {
    match try_ready_request(front, listener, connection) {
        Ok(Action::Park(wait)) => Ok(wait),
        Ok(Action::Respond(reply)) => Err(Box::pin(async move {
            write_response(connection, reply).await?;
            request_loop(front, listener, connection, BytesMut::new(), connection.idle_timeout()).await
        })),
        Ok(Action::Close) => Err(Box::pin(ready(None))),
        Err(begun) => Err(Box::pin(request_loop(front, listener, connection, begun, time))),
    }
}

/// Reads a request that is there already, as a poll is after each run of a kept connection, and answers it if it is
/// no dispatch; or returns what has been read.
fn try_ready_request(
    front: &HttpState,
    listener: Listener,
    connection: &Connection,
) -> Result<Action, BytesMut> {
    let mut bytes = BytesMut::new();
    if connection.try_read(&mut bytes).is_err() {
        // The room for a request is not kept for one that may come much later.
        return Err(BytesMut::new());
    }
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    let FastParse::Complete(head, _) = fast_path::parse(&bytes, &mut fields) else { return Err(bytes) };
    if head.method != Method::GET {
        // A dispatch takes its time, and is asked for its place only once.
        return Err(bytes);
    }
    let Ok(mut answer) = route_now(front, listener, connection.origin(), &head) else { return Err(bytes) };
    if let Action::Respond(reply) = &mut answer {
        reply.close |= !head.is_reusable() || front.admission.closes_connections();
    }
    Ok(answer)
}

/// Answers requests until the connection is over (none) or a poll is to be held. The first has `begun`, or begins
/// within `time`.
async fn request_loop(
    front: &Arc<HttpState>,
    listener: Listener,
    connection: &Arc<Connection>,
    mut begun: BytesMut,
    mut time: Duration,
) -> Option<Box<PollRequest>> {
    // A newcomer's silence counts as a part of its head's time.
    let mut head_by = (time == HEAD_TIMEOUT).then(|| Instant::now() + HEAD_TIMEOUT);
    loop {
        if begun.is_empty() {
            // Nothing is reserved before something is there.
            read_more(connection, &mut begun, Instant::now() + time).await?;
        }
        let by = head_by.take().unwrap_or_else(|| Instant::now() + HEAD_TIMEOUT);
        let whole = begun.freeze();
        let mut fields = [EMPTY_HEADER; MAX_FIELDS];
        if let FastParse::Complete(head, body) = fast_path::parse(&whole, &mut fields) {
            let body = whole.slice(body);
            match handle_complete(front, listener, connection, head, body).await? {
                Action::Park(wait) => return Some(wait),
                Action::Close => return None,
                Action::Respond(reply) => write_response(connection, reply).await?,
            }
            (begun, time) = (BytesMut::new(), connection.idle_timeout());
            yield_between_requests(connection, &begun).await;
            continue;
        }
        begun = match read_head(front, connection, whole.into(), by).await? {
            HeadRead::Complete(whole) => whole,
            HeadRead::Validated(judged) => {
                let HyperRead { action: answer, unread: rest } =
                    Box::pin(read_with_hyper(front, listener, connection, judged)).await?;
                match answer {
                    Action::Park(wait) if rest.is_empty() => return Some(wait),
                    Action::Park(_) => {
                        front.metrics.poll_refused();
                        front.metrics.rejected(RejectReason::Pipelined);
                        return None;
                    }
                    Action::Close => return None,
                    Action::Respond(reply) => write_and_linger(connection, reply).await?,
                }
                time = connection.idle_timeout();
                rest
            }
            HeadRead::Refused(problem) => {
                let reply = HttpResponse::from(problem);
                front.metrics.answered(Route::Other, reply.status.as_u16());
                return write_and_linger(connection, reply).await.and(None);
            }
        };
        yield_between_requests(connection, &begun).await;
    }
}

/// Who has sent many requests at once has one answered at a turn: then everybody else on this thread has theirs.
async fn yield_between_requests(connection: &Connection, begun: &BytesMut) {
    if !begun.is_empty() || connection.may_have_more() {
        tokio::task::yield_now().await;
    }
}

/// The answer to a plain request. None if the client leaves before it is there.
async fn handle_complete(
    front: &Arc<HttpState>,
    listener: Listener,
    connection: &Connection,
    head: RequestHead<'_>,
    body: Bytes,
) -> Option<Action> {
    let reusable = head.is_reusable();
    let mut answer = match route_now(front, listener, connection.origin(), &head) {
        Ok(answer) => answer,
        Err(route) => {
            let dispatched = dispatch(front, route, head, Source::Whole(body));
            Action::Respond(abort_on_disconnect(connection, pin!(dispatched)).await?)
        }
    };
    if let Action::Respond(reply) = &mut answer {
        reply.close |= !reusable || front.admission.closes_connections();
    }
    Some(answer)
}

/// What the beginning of a request turned out to be.
enum HeadRead {
    /// A plain request, whole and alone.
    Complete(BytesMut),
    /// A head that is fine, of a request that is not plain, not alone, or whose body is still to come.
    Validated(Bytes),
    /// Not a request that is served.
    Refused(Problem),
}

/// Reads until the head is whole, and a little longer for the rest of a plain request. None if the connection is over.
async fn read_head(
    front: &HttpState,
    connection: &Connection,
    mut begun: BytesMut,
    head_by: Instant,
) -> Option<HeadRead> {
    let mut body_by = None;
    loop {
        let mut fields = [EMPTY_HEADER; MAX_FIELDS];
        let may_become_plain = match fast_path::parse(&begun, &mut fields) {
            FastParse::Complete(..) => return Some(HeadRead::Complete(begun)),
            FastParse::Partial => true,
            FastParse::Fallback => false,
        };
        match validate::validate_head(&begun, front.limits().body_limit) {
            HeadCheck::Refused(problem) => return Some(HeadRead::Refused(problem)),
            HeadCheck::Valid if may_become_plain => {
                let by = *body_by.get_or_insert_with(|| Instant::now() + BODY_GRACE);
                if read_more(connection, &mut begun, by).await.is_none() {
                    return Some(HeadRead::Validated(begun.freeze()));
                }
            }
            HeadCheck::Valid => return Some(HeadRead::Validated(begun.freeze())),
            HeadCheck::Partial => loop {
                let known = begun.len();
                read_more(connection, &mut begun, head_by).await?;
                // Behind the first line only a line's end can bring news: fields that drip are not parsed at each drop.
                let is_first_line = !begun[..known].contains(&b'\n');
                if is_first_line || begun[known..].contains(&b'\n') || begun.len() > HEAD_BYTES {
                    break;
                }
            },
        }
    }
}

/// Reads what comes until then. None if nothing came, or only the end.
async fn read_more(connection: &Connection, begun: &mut BytesMut, by: Instant) -> Option<()> {
    matches!(timeout_at(by, connection.read(begun)).await, Ok(Ok(1..))).then_some(())
}

/// Says an answer to somebody who may still be talking: what comes is thrown away for a moment, because an end of the
/// connection with unread bytes can overtake the answer. None if the connection is over with it.
async fn write_and_linger(connection: &Connection, reply: HttpResponse) -> Option<()> {
    let closes = reply.close;
    let said = write_response(connection, reply).await;
    if closes {
        connection.shutdown_write();
        let by = Instant::now() + LINGER_TIME;
        let mut thrown = 0;
        while thrown < LINGER_BYTES {
            let mut bytes = BytesMut::new();
            read_more(connection, &mut bytes, by).await?;
            thrown += bytes.len();
        }
    }
    said
}

/// None if the client leaves before its answer is there.
async fn abort_on_disconnect(
    connection: &Connection,
    mut answer: Pin<&mut impl Future<Output = HttpResponse>>,
) -> Option<HttpResponse> {
    let mut gone = pin!(connection.closed());
    poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => gone.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// None if the connection is over with it.
async fn write_response(connection: &Connection, reply: HttpResponse) -> Option<()> {
    let mut out = Vec::with_capacity(192 + reply.body.len());
    reply.write(connection.keep_alive_seconds(), &mut out);
    let written = timeout(WRITE_TIMEOUT, connection.write_all(&out)).await;
    (written.is_ok_and(|done| done.is_ok()) && !reply.close).then_some(())
}

/// Gives the poll its place. None if a limit refuses it: then the connection closes without an answer,
/// because any status would end a stock controller.
fn park(front: &Arc<HttpState>, connection: &Arc<Connection>, wait: PollRequest) -> Option<ParkedGuard> {
    if front.admission.is_short_of_memory() {
        front.metrics.poll_refused();
        return None;
    }
    let now = front.exchange.now();
    let PollRequest {
        key,
        accepts,
        controller,
        host: machine,
        client: from,
        format: wire,
        reusable,
        timeout,
        guard,
        grace,
    } = wait;
    let guard = guard.map_or(Duration::ZERO, |least| least.max(4 * connection.round_trip()));
    let origin = from.origin();
    let ticket = ParkRequest {
        key,
        accepts,
        controller,
        origin,
        host: machine,
        offer_until: now.plus(timeout.saturating_sub(guard)),
        deadline: now.plus(timeout + grace),
        waiter: Waiter::LongPoll(LongPoll::new(connection.clone(), wire, reusable, from.through_proxy)),
    };
    match front.exchange.park(ticket) {
        Ok((place, replaced)) => {
            if let Some(replaced) = replaced {
                shared_names::replaced(front, &replaced.controller, origin);
                replaced.waiter.close(CloseReason::Replaced);
            }
            Some(place)
        }
        Err(full) => {
            tracing::debug!(limit = full.limit(), "a poll was closed without an answer");
            None
        }
    }
}

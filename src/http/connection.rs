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
use super::head::Head;
use super::quick::{self, MOST_FIELDS, Read};
use super::shared_names;
use super::speak::{Spoken, speak};
use super::strict::{self, HEAD_BYTES, Judged};
use super::{Answer, Front, Problem, Reply, Wait, answer_now, dispatch};
use crate::broker::Ticket;
use crate::metrics::{Listener, Rejected, Route};
use crate::transport::{Connection, Farewell, Held, Hold, Place, Waiter};

/// A request's head must be complete within this time.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// A plain request whose body is not whole after this time is left to hyper.
const SOON: Duration = Duration::from_millis(100);
/// An answer must be taken off our hands within this time.
const REPLY_TIME: Duration = Duration::from_secs(5);
/// Who is told that the connection ends may go on talking for so long,
const LINGER_TIME: Duration = Duration::from_secs(1);
/// and so much.
const LINGER_BYTES: usize = 256 * 1024;

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
            let connection = guest.as_ref();
            let time = if std::mem::take(&mut is_new) { HEAD_TIME } else { connection.idle_timeout() };
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
            talk(front, listener, connection, BytesMut::new(), connection.idle_timeout()).await
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
        // The room for a request is not kept for one that may come much later.
        return Err(BytesMut::new());
    }
    let mut fields = [EMPTY_HEADER; MOST_FIELDS];
    let Read::Plain(head, _) = quick::read(&bytes, &mut fields) else { return Err(bytes) };
    if head.method != Method::GET {
        // A dispatch takes its time, and is asked for its place only once.
        return Err(bytes);
    }
    let Ok(mut answer) = answer_now(front, listener, connection.origin(), &head) else { return Err(bytes) };
    if let Answer::Reply(reply) = &mut answer {
        reply.closes |= !head.is_reusable() || front.pressure.ends_connections();
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
    // A newcomer's silence counts as a part of its head's time.
    let mut head_by = (time == HEAD_TIME).then(|| Instant::now() + HEAD_TIME);
    loop {
        if begun.is_empty() {
            // Nothing is reserved before something is there.
            read_more(connection, &mut begun, Instant::now() + time).await?;
        }
        let by = head_by.take().unwrap_or_else(|| Instant::now() + HEAD_TIME);
        let whole = begun.freeze();
        let mut fields = [EMPTY_HEADER; MOST_FIELDS];
        if let Read::Plain(head, body) = quick::read(&whole, &mut fields) {
            let body = whole.slice(body);
            match answer_plain(front, listener, connection, head, body).await? {
                Answer::Wait(wait) => return Some(wait),
                Answer::Close => return None,
                Answer::Reply(reply) => say(connection, reply).await?,
            }
            (begun, time) = (BytesMut::new(), connection.idle_timeout());
            give_way(connection, &begun).await;
            continue;
        }
        begun = match whole_or_judged(front, connection, whole.into(), by).await? {
            Begun::Whole(whole) => whole,
            Begun::Judged(judged) => {
                let Spoken { answer, rest } = Box::pin(speak(front, listener, connection, judged)).await?;
                match answer {
                    Answer::Wait(wait) if rest.is_empty() => return Some(wait),
                    Answer::Wait(_) => {
                        front.metrics.poll_refused();
                        front.metrics.rejected(Rejected::Pipelined);
                        return None;
                    }
                    Answer::Close => return None,
                    Answer::Reply(reply) => say_to_talker(connection, reply).await?,
                }
                time = connection.idle_timeout();
                rest
            }
            Begun::Wrong(problem) => {
                let reply = Reply::from(problem);
                front.metrics.answered(Route::Other, reply.status.as_u16());
                return say_to_talker(connection, reply).await.and(None);
            }
        };
        give_way(connection, &begun).await;
    }
}

/// Who has sent many requests at once has one answered at a turn: then everybody else on this thread has theirs.
async fn give_way(connection: &Connection, begun: &BytesMut) {
    if !begun.is_empty() || connection.may_have_more() {
        tokio::task::yield_now().await;
    }
}

/// The answer to a plain request. None if the client leaves before it is there.
async fn answer_plain(
    front: &Arc<Front>,
    listener: Listener,
    connection: &Connection,
    head: Head<'_>,
    body: Bytes,
) -> Option<Answer> {
    let reusable = head.is_reusable();
    let mut answer = match answer_now(front, listener, connection.origin(), &head) {
        Ok(answer) => answer,
        Err(route) => {
            let dispatched = dispatch(front, route, head, Source::Whole(body));
            Answer::Reply(unless_gone(connection, pin!(dispatched)).await?)
        }
    };
    if let Answer::Reply(reply) = &mut answer {
        reply.closes |= !reusable || front.pressure.ends_connections();
    }
    Some(answer)
}

/// What the beginning of a request turned out to be.
enum Begun {
    /// A plain request, whole and alone.
    Whole(BytesMut),
    /// A head that is fine, of a request that is not plain, not alone, or whose body is still to come.
    Judged(Bytes),
    /// Not a request that is served.
    Wrong(Problem),
}

/// Reads until the head is whole, and a little longer for the rest of a plain request. None if the connection is over.
async fn whole_or_judged(
    front: &Front,
    connection: &Connection,
    mut begun: BytesMut,
    head_by: Instant,
) -> Option<Begun> {
    let mut body_by = None;
    loop {
        let mut fields = [EMPTY_HEADER; MOST_FIELDS];
        let may_become_plain = match quick::read(&begun, &mut fields) {
            Read::Plain(..) => return Some(Begun::Whole(begun)),
            Read::Partial => true,
            Read::Other => false,
        };
        match strict::judge(&begun, front.terms().body_limit) {
            Judged::Wrong(problem) => return Some(Begun::Wrong(problem)),
            Judged::Fine if may_become_plain => {
                let by = *body_by.get_or_insert_with(|| Instant::now() + SOON);
                if read_more(connection, &mut begun, by).await.is_none() {
                    return Some(Begun::Judged(begun.freeze()));
                }
            }
            Judged::Fine => return Some(Begun::Judged(begun.freeze())),
            Judged::Partial => loop {
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
async fn say_to_talker(connection: &Connection, reply: Reply) -> Option<()> {
    let closes = reply.closes;
    let said = say(connection, reply).await;
    if closes {
        connection.finish();
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
    reply.write(connection.keep_alive_seconds(), &mut out);
    let written = timeout(REPLY_TIME, connection.write(&out)).await;
    (written.is_ok_and(|done| done.is_ok()) && !reply.closes).then_some(())
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
    let origin = from.origin();
    let ticket = Ticket {
        key,
        accepts,
        controller,
        origin,
        machine,
        offer_until: now.plus(timeout.saturating_sub(guard)),
        deadline: now.plus(timeout + grace),
        waiter: Waiter::new(connection.clone(), wire, reusable, from.through_proxy),
    };
    match front.exchange.park(ticket) {
        Ok((place, replaced)) => {
            if let Some(replaced) = replaced {
                shared_names::replaced(front, &replaced.controller, origin);
                replaced.waiter.dismiss(Farewell::Replaced);
            }
            Some(place)
        }
        Err(full) => {
            tracing::debug!(limit = full.limit(), "a poll was closed without an answer");
            None
        }
    }
}

//! Owns one connection's life: hyper reads a request; a poll leaves hyper and is held; what comes next is hyper's again.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;

use super::{Answer, Front, Reply, Wait, serve_request};
use crate::broker::Ticket;
use crate::metrics::{Listener, Rejected};
use crate::transport::{Connection, Farewell, Held, Io, Place, Waiter, hold};

/// A request's head must be complete within this time; an idle kept-alive connection ends after it, too.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// The largest accepted head, in bytes.
const HEAD_BYTES: usize = 16 * 1024;

/// Serves one connection until it is over.
pub async fn serve(front: Arc<Front>, listener: Listener, connection: Arc<Connection>) {
    loop {
        // Boxed, so that hyper's state and buffers are freed while the poll is held.
        let Some(wait) = Box::pin(speak(&front, listener, &connection)).await else {
            return;
        };
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

/// Speaks HTTP until the connection is over (none) or a poll is to be held.
async fn speak(front: &Arc<Front>, listener: Listener, connection: &Arc<Connection>) -> Option<Box<Wait>> {
    // A request that is not answered by hyper stays pending there; what becomes of it is said here.
    let left = Mutex::new(None);
    let service = service_fn(async |request| {
        let wait = match serve_request(front, listener, connection, request).await {
            Answer::Reply(reply) => return Ok::<Reply, Infallible>(reply),
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
        .serve_connection(TokioIo::new(Io(connection.clone())), service);
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

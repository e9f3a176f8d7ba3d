//! Owns a reply: it is opened before the program has said anything, so that the end of one side reaches the other at once.

use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures_util::future::pending;
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TRAILER};
use hyper::http::request::Builder;
use hyper::{Method, Response, StatusCode};
use tokio::time::{sleep, timeout};

use super::body::{Broken, WorkerConnection, whole};
use super::reply_head::ReplyHead;
use super::run::ReplyAddress;
use crate::commands::client::Client;
use crate::commands::worker::back_off::BackOff;
use crate::lambda::LOG_TAIL;

/// How often a broker is tried that cannot be reached.
const ATTEMPTS: u32 = 5;
/// A run is not delayed for longer by a broker that is lost just then.
const HEAD_TIMEOUT: Duration = Duration::from_millis(100);
/// The time for telling a broker that a run has failed.
const ERROR_TIMEOUT: Duration = Duration::from_secs(10);
/// How many pieces of a reply may wait to be written. The program waits meanwhile.
const PIECES: usize = 1;

/// Why nobody waits for a reply any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::commands::worker) enum Gone {
    /// The caller has left, or was answered otherwise: the run's work is for nobody.
    Caller,
    /// The broker cannot be reached: the run's work may still be worth something.
    Broker,
}

type Exchange = Pin<Box<dyn Future<Output = anyhow::Result<(WorkerConnection, Response<Incoming>)>> + Send>>;

/// The reply to one run. Without a caller, whatever is written to it is dropped.
pub(in crate::commands::worker) struct Reply {
    open: Option<OpenReply>,
    slot: usize,
}

struct OpenReply {
    client: Client,
    target: String,
    head: ReplyHead,
    /// Whether a part of the body was written.
    has_begun: bool,
    /// Whether the head is on its way. It need not be at once, but over the connection of a poll that has promised it.
    is_sent: Arc<AtomicBool>,
    /// From the connection to the broker's answer. It goes on only while it is awaited. It is dropped before the pieces are,
    /// because a reply whose pieces end first has ended well.
    exchange: Exchange,
    pieces: Sender<Bytes, Broken>,
}

impl Reply {
    /// A reply, if somebody waits for one. If the poll's connection was kept for it, its head is sent now, as the poll has promised;
    /// else it is opened while the futures below are awaited.
    pub(in crate::commands::worker) async fn open(
        address: Option<ReplyAddress>,
        content_type: &HeaderValue,
        slot: usize,
    ) -> Self {
        let head = ReplyHead::new(content_type.clone());
        let open = |ReplyAddress { client, target, connection }| open(client, target, connection, head);
        let mut reply = Self { open: address.map(open), slot };
        reply.send_head().await;
        reply
    }

    async fn send_head(&mut self) {
        let Some(open) = &mut self.open else { return };
        let sent = poll_fn(|cx| match open.exchange.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if open.is_sent.load(Ordering::Relaxed) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        if let Ok(Some(ended)) = timeout(HEAD_TIMEOUT, sent).await {
            open.exchange = Box::pin(ready(ended));
        }
    }

    /// Whether somebody waits for it.
    pub(in crate::commands::worker) fn is_awaited(&self) -> bool {
        self.open.is_some()
    }

    /// Whether a part of it was written, so that its head has gone to the caller.
    pub(in crate::commands::worker) fn has_begun(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.has_begun)
    }

    /// Gives the reply another head, if nothing was written so far: it is opened anew on another connection, which replaces
    /// the first one.
    pub(in crate::commands::worker) async fn reopen(&mut self, head: ReplyHead) -> Result<(), Gone> {
        let Some(old) = &mut self.open else { return Ok(()) };
        if old.has_begun || old.head == head {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            let mut new = open(old.client.clone(), old.target.clone(), None, head.clone());
            tokio::select! {
                biased;
                _ = old.exchange.as_mut() => {
                    // It was replaced. If it ended otherwise, so does the new one, which will tell.
                    self.open = Some(new);
                    return Ok(());
                }
                // The first one came to the broker after the new one, and replaced it. Now it is there.
                _ = new.exchange.as_mut() => {}
            }
        }
        Err(self.gone().await)
    }

    /// Returns when the caller has left; never, if nobody waits. A broker that is lost is noted here.
    pub(in crate::commands::worker) async fn gone(&mut self) -> Gone {
        let Some(open) = &mut self.open else { return pending().await };
        let gone = judge(&open.exchange.as_mut().await, self.slot);
        self.open = None;
        gone
    }

    /// Sends a piece once there is room for it.
    pub(in crate::commands::worker) async fn write(&mut self, piece: Bytes) -> Result<(), Gone> {
        let Some(open) = &mut self.open else { return Ok(()) };
        tokio::select! {
            biased;
            ended = open.exchange.as_mut() => {
                self.open = None;
                Err(judge(&ended, self.slot))
            }
            sent = open.pieces.send_data(piece) => match sent {
                Ok(()) => {
                    open.has_begun = true;
                    Ok(())
                }
                // The connection has ended, which the other future tells.
                Err(_) => Err(self.gone().await),
            }
        }
    }

    /// Ends the reply. Returns the connection, for the next poll, when the last byte was handed to the caller.
    pub(in crate::commands::worker) async fn finish(self) -> Option<WorkerConnection> {
        self.finish_with(HeaderMap::new()).await
    }

    /// The same with trailers, which the head has to announce.
    pub(in crate::commands::worker) async fn finish_with(
        mut self,
        trailers: HeaderMap,
    ) -> Option<WorkerConnection> {
        if !trailers.is_empty() {
            self.send_trailers(trailers).await;
        }
        let OpenReply { pieces, exchange, .. } = self.open?;
        drop(pieces);
        let answered = exchange.await;
        if !matches!(&answered, Ok((_, response)) if response.status() == StatusCode::OK) {
            judge(&answered, self.slot);
            return None;
        }
        let (connection, response) = answered.ok()?;
        response.into_body().collect().await.ok()?;
        Some(connection)
    }

    async fn send_trailers(&mut self, trailers: HeaderMap) {
        let Some(open) = &mut self.open else { return };
        tokio::select! {
            biased;
            ended = open.exchange.as_mut() => {
                judge(&ended, self.slot);
                self.open = None;
            }
            // An error means that the connection has ended, which is seen where the answer is awaited.
            _ = open.pieces.send_trailers(trailers) => {}
        }
    }

    /// Tells the caller that the run failed; a reply that has begun is broken off.
    pub(in crate::commands::worker) async fn fail(self, text: String) {
        let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
        self.fail_with(ReplyHead::new(content_type), text.into()).await;
    }

    /// The same with an error that has this head and body.
    pub(in crate::commands::worker) async fn fail_with(self, head: ReplyHead, body: Bytes) {
        let Some(OpenReply { client, target, exchange, pieces, .. }) = self.open else { return };
        let told = timeout(ERROR_TIMEOUT, send_error(&client, &target, &head, body)).await;
        if let Ok(Err(error)) = told {
            tracing::warn!(slot = self.slot, "the broker was not told of the error: {error:#}");
        }
        // The order matters: a reply that ends first would have ended well.
        drop(exchange);
        drop(pieces);
    }
}

fn open(client: Client, target: String, kept: Option<WorkerConnection>, head: ReplyHead) -> OpenReply {
    let (pieces, body) = Channel::new(PIECES);
    let request = with_head(client.request_without_token(Method::POST, &target), &head);
    let request = request.body(body.boxed_unsync());
    let connecting = client.clone();
    let is_sent = Arc::new(AtomicBool::new(kept.is_none()));
    let is_sending = is_sent.clone();
    let exchange = Box::pin(async move {
        let request = request.context("the address of the reply is malformed")?;
        let mut connection = match WorkerConnection::if_open(kept).await {
            Some(connection) => connection,
            None => connect(&connecting).await?,
        };
        is_sending.store(true, Ordering::Relaxed);
        let response =
            connection.send(request).await.context("the broker was lost before the reply's end")?;
        Ok((connection, response))
    });
    OpenReply { client, target, head, has_begun: false, is_sent, exchange, pieces }
}

fn with_head(request: Builder, head: &ReplyHead) -> Builder {
    let ReplyHead { content_type, log_tail, trailers } = head;
    let request = request.header(CONTENT_TYPE, content_type);
    let request = match trailers {
        Some(names) => request.header(TRAILER, *names),
        None => request,
    };
    match log_tail {
        Some(tail) => request.header(LOG_TAIL, tail),
        None => request,
    }
}

async fn connect(client: &Client) -> anyhow::Result<WorkerConnection> {
    let mut back_off = BackOff::new();
    for _ in 1..ATTEMPTS {
        if let Ok(connection) = client.connect().await {
            return Ok(connection);
        }
        sleep(back_off.pause()).await;
    }
    client.connect().await
}

async fn send_error(client: &Client, target: &str, head: &ReplyHead, body: Bytes) -> anyhow::Result<()> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.strip_suffix("/reply").context("the address of the reply is malformed")?;
    let request = client.request_without_token(Method::POST, &format!("{path}/error?{query}"));
    let request = with_head(request, head).body(whole(body))?;
    let mut connection: WorkerConnection = connect(client).await?;
    let response = connection.send(request).await?;
    // The caller may have left meanwhile.
    anyhow::ensure!(
        response.status().is_success() || response.status() == StatusCode::GONE,
        "it answers {}",
        response.status()
    );
    Ok(())
}

/// What the end of a reply means that this side has not ended.
fn judge(answered: &anyhow::Result<(WorkerConnection, Response<Incoming>)>, slot: usize) -> Gone {
    match answered.as_ref().map(|(_, response)| response.status()) {
        Ok(StatusCode::GONE) => Gone::Caller,
        Ok(status) => {
            tracing::warn!(slot, "the broker refuses the reply ({status})");
            Gone::Broker
        }
        Err(error) => {
            tracing::warn!(slot, "no reply is possible: {error:#}");
            Gone::Broker
        }
    }
}

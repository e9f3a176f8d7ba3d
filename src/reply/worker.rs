//! Owns the worker's side of a reply: it is opened with a token, and its bytes are written down the caller's connection.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use super::caller::{Caller, ResponseStyle};
use super::state::{Opened, Reply};
use crate::model::ReplyOutcome;
use crate::transport::{Connection, with_write_buffer};

/// So many bytes may be written before it is checked whether the caller takes them.
const MAX_UNCHECKED_BYTES: usize = 6 * 1024;

/// Parts of so many bytes together are written as one.
const MAX_JOINED_BYTES: usize = 2 * 1024;

/// Nobody wants the answer any more: the caller has left, an error has replaced it, or its time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyGone;

/// A reply that a worker has opened. Dropped before its end, it is broken.
pub struct OpenReply {
    reply: Arc<Reply>,
    opened: Opened,
    is_error: bool,
    caller: Option<Arc<Caller>>,
    /// The status with which the next write begins the caller's response.
    begins: Option<u16>,
    /// Bytes written since few were known to be unsent.
    unchecked: usize,
}

impl OpenReply {
    pub(super) fn new(reply: Arc<Reply>, opened: Opened, is_error: bool) -> Self {
        Self { reply, opened, is_error, caller: None, begins: None, unchecked: 0 }
    }

    /// Whether it is an error that has broken off the caller's response: its body is for nobody.
    pub fn comes_late(&self) -> bool {
        self.opened.comes_late
    }

    /// How it is written to its caller.
    pub fn style(&self) -> ResponseStyle {
        self.reply.style()
    }

    /// Whether its caller gets the end of the worker's log.
    pub fn wants_log(&self) -> bool {
        self.reply.wants_log()
    }

    /// Whether it says that the run has failed.
    pub fn is_error(&self) -> bool {
        self.is_error
    }

    /// Ready once nobody wants the answer any more.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.opened.cancelled).poll(cx).map(drop)
    }

    /// Waits until the dispatch has ended. The next write begins the caller's response with this status.
    pub async fn begin(&mut self, status: u16) -> Result<Arc<Caller>, ReplyGone> {
        let reply = self.reply.clone();
        let accepted = async {
            loop {
                if let Some(caller) = reply.caller() {
                    return caller;
                }
                reply.accepted.notified().await;
            }
        };
        let caller = tokio::select! {
            biased;
            _ = &mut self.opened.cancelled => return Err(ReplyGone),
            caller = accepted => caller,
        };
        self.caller = Some(caller.clone());
        self.begins = Some(status);
        Ok(caller)
    }

    /// Writes these parts, of which so many bytes belong to the body. Waits for the caller where its window is full.
    pub fn write<'a>(
        &'a mut self,
        parts: [&'a [u8]; 3],
        body_bytes: usize,
    ) -> impl Future<Output = Result<(), ReplyGone>> + 'a {
        // A closure instead of an async block, because every open reply pays for its size.
        let mut sent = 0;
        poll_fn(move |cx| {
            if self.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(ReplyGone));
            }
            let Self { reply, opened, caller, begins, unchecked, .. } = &mut *self;
            let Some(caller) = caller else { return Poll::Ready(Err(ReplyGone)) };
            let mut write = || (poll_write(&caller.connection, cx, parts, &mut sent, unchecked), sent > 0);
            let written = match *begins {
                None => write().0,
                Some(status) => {
                    let Some((written, has_begun)) = reply.begin(opened.number, status, write) else {
                        return Poll::Ready(Err(ReplyGone));
                    };
                    *begins = begins.filter(|_| !has_begun);
                    written
                }
            };
            if ready!(written).is_err() {
                reply.end_by(opened.number, ReplyOutcome::Cancelled, false);
                return Poll::Ready(Err(ReplyGone));
            }
            reply.bytes.fetch_add(body_bytes as u64, Ordering::Relaxed);
            Poll::Ready(Ok(()))
        })
    }

    /// The next write is the last one.
    pub fn begin_finish(&self) {
        self.reply.begin_finish(self.opened.number);
    }

    /// The caller's response is complete.
    pub fn finish(&self) {
        let outcome = if self.is_error { ReplyOutcome::WorkerError } else { ReplyOutcome::Replied };
        self.end(outcome, true);
    }

    /// The reply has ended so. Unless the caller's response `is_complete`, it is broken off.
    pub fn end(&self, outcome: ReplyOutcome, is_complete: bool) {
        self.reply.end_by(self.opened.number, outcome, is_complete);
    }
}

impl Drop for OpenReply {
    fn drop(&mut self) {
        self.reply.end_by(self.opened.number, ReplyOutcome::ReplyBroken, false);
    }
}

/// Writes all of the parts, of which so many bytes were `sent` before. `unchecked` is how much was written since the caller's connection
/// was known to have few bytes unsent.
fn poll_write(
    connection: &Connection,
    cx: &mut Context<'_>,
    parts: [&[u8]; 3],
    sent: &mut usize,
    unchecked: &mut usize,
) -> Poll<io::Result<()>> {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    while *sent < total {
        if *unchecked >= MAX_UNCHECKED_BYTES {
            ready!(connection.poll_unsent_is_low(cx))?;
            *unchecked = 0;
        }
        let written = write_now(connection, &window(parts, *sent, MAX_UNCHECKED_BYTES - *unchecked))?;
        *sent += written;
        *unchecked += written;
        if written == 0 {
            ready!(connection.poll_write_ready(cx))?;
        }
    }
    Poll::Ready(Ok(()))
}

/// Writes as much of the parts as the kernel takes now. Short ones are joined, because several parts cost the kernel more than a copy.
fn write_now(connection: &Connection, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    if parts.iter().map(|part| part.len()).sum::<usize>() > MAX_JOINED_BYTES {
        return connection.write_now(parts);
    }
    with_write_buffer(|joined| {
        for part in parts {
            joined.extend_from_slice(part);
        }
        connection.write_now(&[IoSlice::new(joined)])
    })
}

/// At most so many bytes of the parts, from this position on.
fn window(parts: [&[u8]; 3], mut skip: usize, mut take: usize) -> [IoSlice<'_>; 3] {
    parts.map(|part| {
        let begin = skip.min(part.len());
        let length = take.min(part.len() - begin);
        skip -= begin;
        take -= length;
        IoSlice::new(&part[begin..begin + length])
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use tokio::net::TcpStream;

    use super::*;
    use crate::metrics::Metrics;
    use crate::reply::{Replies, ReplyForm, ReplyToken};
    use crate::transport::IdleConnections;

    #[tokio::test]
    async fn an_error_replaces_a_reply_until_its_first_byte_is_written() {
        let replies = Replies::new(Arc::new(Metrics::new().unwrap()), None);
        for writes_first in [false, true] {
            let mut awaited = replies.begin(ReplyForm::default()).unwrap();
            let target = awaited.reply().begin_offer(b"run").unwrap();
            let token = ReplyToken::parse(target.path().split_once("token=").unwrap().1).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut peer, address) = listener.accept().unwrap();
            let connection =
                Arc::new(Connection::new(stream, address.ip(), None, Arc::<IdleConnections>::default()));
            awaited.accept(Caller { connection, is_http_11: true, closes: false, fields: Vec::new() });

            let mut reply = replies.open(&token, "run", false).unwrap();
            reply.begin(200).await.unwrap();
            if writes_first {
                reply.write([b"reply", b"", b""], 0).await.unwrap();
            }
            let mut error = replies.open(&token, "run", true).unwrap();
            assert_eq!(error.comes_late(), writes_first);
            assert_eq!(reply.write([b"more", b"", b""], 0).await, Err(ReplyGone));
            if !writes_first {
                error.begin(502).await.unwrap();
                error.write([b"error", b"", b""], 0).await.unwrap();
            }
            let mut read = [0; 5];
            peer.read_exact(&mut read).unwrap();
            assert_eq!(&read, if writes_first { b"reply" } else { b"error" });
        }
    }

    #[test]
    fn windows_of_any_size_have_every_byte_once() {
        let parts: [&[u8]; 3] = [b"5\r\n", b"hello", b"\r\n"];
        for take in 1..12 {
            let mut written = Vec::new();
            while written.len() < 10 {
                for slice in window(parts, written.len(), take) {
                    written.extend_from_slice(&slice);
                }
            }
            assert_eq!(written, b"5\r\nhello\r\n", "{take}");
        }
    }
}

//! Owns the worker's side of a reply: it is opened with a token, and its bytes are written down the caller's connection.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::caller::Caller;
use super::state::{Opened, Reply};
use crate::model::ReplyOutcome;
use crate::transport::Connection;

/// Nobody wants the answer any more: the caller has left, an error has replaced it, or its time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyGone;

/// A reply that a worker has opened. Dropped before its end, it is broken.
pub struct OpenReply {
    reply: Arc<Reply>,
    opened: Opened,
    is_error: bool,
    caller: Option<Arc<Caller>>,
}

impl OpenReply {
    pub(super) fn new(reply: Arc<Reply>, opened: Opened, is_error: bool) -> Self {
        Self { reply, opened, is_error, caller: None }
    }

    /// Whether it is an error that has broken off the caller's response: its body is for nobody.
    pub fn comes_late(&self) -> bool {
        self.opened.comes_late
    }

    /// Whether it says that the run has failed.
    pub fn is_error(&self) -> bool {
        self.is_error
    }

    /// Runs `work` until it is done, or until nobody wants the answer any more.
    pub async fn unless_gone<T>(&mut self, work: impl Future<Output = T>) -> Result<T, ReplyGone> {
        tokio::select! {
            biased;
            _ = &mut self.opened.cancelled => Err(ReplyGone),
            done = work => Ok(done),
        }
    }

    /// Waits until the dispatch has ended, and begins the caller's response with this status.
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
        let caller = self.unless_gone(accepted).await?;
        if !self.reply.begin(self.opened.number, status) {
            return Err(ReplyGone);
        }
        self.caller = Some(caller.clone());
        Ok(caller)
    }

    /// Writes these parts, of which so many bytes belong to the body. Waits for the caller where its window is full.
    pub async fn write(&mut self, parts: [&[u8]; 3], body_bytes: usize) -> Result<(), ReplyGone> {
        let caller = self.caller.clone().ok_or(ReplyGone)?;
        let written = self.unless_gone(write_parts(&caller.connection, parts)).await?;
        if written.is_err() {
            self.reply.end_by(self.opened.number, ReplyOutcome::Cancelled, false);
            return Err(ReplyGone);
        }
        self.reply.bytes.fetch_add(body_bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// The caller's response is complete.
    pub fn finish(self) {
        let outcome = if self.is_error { ReplyOutcome::WorkerError } else { ReplyOutcome::Replied };
        self.reply.end_by(self.opened.number, outcome, true);
    }
}

impl Drop for OpenReply {
    fn drop(&mut self) {
        self.reply.end_by(self.opened.number, ReplyOutcome::ReplyBroken, false);
    }
}

async fn write_parts(connection: &Connection, parts: [&[u8]; 3]) -> io::Result<()> {
    let mut sent = 0;
    loop {
        let mut skipped = sent;
        let slices = parts.map(|part| {
            let from = skipped.min(part.len());
            skipped -= from;
            IoSlice::new(&part[from..])
        });
        sent += connection.write_now(&slices)?;
        if sent == parts.iter().map(|part| part.len()).sum::<usize>() {
            return Ok(());
        }
        connection.writable().await?;
    }
}

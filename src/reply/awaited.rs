//! Owns the wait for a reply: until when, and what ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::caller::Caller;
use super::state::{Reply, ReplyEnd};
use crate::metrics::Metrics;
use crate::model::ReplyOutcome;

/// The last write to a caller that has left ends within this time.
const LAST_WRITE: Duration = Duration::from_millis(100);

/// A reply that is awaited by its POST. Dropped before its end, it tells the worker that the caller has left.
pub struct AwaitedReply {
    reply: Arc<Reply>,
    /// All that are awaited.
    awaited: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    is_handed_over: bool,
    is_counted: bool,
}

impl AwaitedReply {
    pub(super) fn new(reply: Arc<Reply>, awaited: Arc<AtomicUsize>, metrics: Arc<Metrics>) -> Self {
        Self { reply, awaited, metrics, is_handed_over: false, is_counted: false }
    }

    /// The same for a dispatch, which names it in its offers.
    pub fn reply(&self) -> &Arc<Reply> {
        &self.reply
    }

    /// The run was delivered: whatever its worker answers is for this caller.
    pub fn accept(&mut self, caller: Caller) {
        self.is_handed_over = true;
        self.metrics.reply_opened();
        self.reply.accept(Arc::new(caller));
    }

    /// Counts how the reply has ended, or that there will be none.
    pub fn count(&mut self, outcome: ReplyOutcome) {
        self.is_counted = true;
        self.metrics.reply_ended(outcome);
    }

    /// The caller has left. If it may have read the last bytes before, the result of their write is waited for.
    pub async fn caller_left(&self) -> ReplyEnd {
        if self.reply.is_finishing() {
            let ended = async {
                loop {
                    if let Some(end) = self.reply.result() {
                        return end;
                    }
                    self.reply.changed.notified().await;
                }
            };
            if let Ok(end) = tokio::time::timeout(LAST_WRITE, ended).await {
                return end;
            }
        }
        self.cancel()
    }

    /// Nobody wants the answer any more.
    fn cancel(&self) -> ReplyEnd {
        self.reply.break_off(ReplyOutcome::Cancelled)
    }

    /// Returns when the reply has ended: by its worker; at the deadline, if it has not begun by then; when nothing was sent to the
    /// caller for `idle` after that.
    pub async fn ended(&self, first_byte_by: Instant, idle: Duration) -> ReplyEnd {
        let (mut wakes_at, mut has_begun, mut seen) = (first_byte_by, false, 0);
        loop {
            if let Some(end) = self.reply.result() {
                return end;
            }
            if !has_begun && self.reply.has_begun() {
                (has_begun, wakes_at) = (true, Instant::now() + idle);
            }
            if tokio::time::timeout_at(wakes_at, self.reply.changed.notified()).await.is_ok() {
                continue;
            }
            let bytes = self.reply.bytes.load(Ordering::Relaxed);
            if !has_begun {
                self.reply.give_up(ReplyOutcome::ReplyTimeout);
            } else if bytes == seen {
                return self.reply.break_off(ReplyOutcome::ReplyBroken);
            } else {
                (seen, wakes_at) = (bytes, Instant::now() + idle);
            }
        }
    }
}

impl Drop for AwaitedReply {
    fn drop(&mut self) {
        self.cancel();
        self.awaited.fetch_sub(1, Ordering::Relaxed);
        if !self.is_counted {
            self.count(ReplyOutcome::Cancelled);
        }
        if self.is_handed_over {
            self.metrics.reply_closed();
        }
    }
}

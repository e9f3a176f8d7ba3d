//! Owns one waiter on a plain socket: looked at, written to and sent away by whoever took it out of its pool.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Instant;

use super::connection::{Ending, Look};
use super::{Connection, Farewell, Run, Wire};
use crate::metrics::Verdict;

/// A held poll, as the exchange keeps it. Dropped without an ending, it closes its connection.
pub struct Waiter {
    connection: Arc<Connection>,
    wire: &'static Wire,
    reusable: bool,
}

impl Waiter {
    /// Makes the waiter before it is parked: from then on its taker can reach the connection.
    pub fn new(connection: Arc<Connection>, wire: &'static Wire, reusable: bool) -> Self {
        connection.begin();
        Self { connection, wire, reusable }
    }

    /// Hands over a run, with everything written by `until`.
    ///
    /// The caller's task does the work: waking the waiter's own task would double the latency.
    pub async fn offer(self, run: &Run, until: Instant) -> Verdict {
        if self.connection.look() != Look::Quiet {
            return Verdict::Gone;
        }
        let mut head = Vec::with_capacity(192);
        (self.wire.head)(run, self.reusable, &mut head);
        let whole = head.len() + run.payload.len();
        let first = self.connection.write_now(&[IoSlice::new(&head), IoSlice::new(&run.payload)]);
        let Ok(written) = first else { return Verdict::Gone };
        if written < whole {
            let rest = self.write_rest(&head, run, written);
            if !tokio::time::timeout_at(until.into(), rest).await.unwrap_or(false) {
                self.connection.reset();
                return Verdict::Lost;
            }
        }
        if self.reusable {
            self.connection.end(Ending::Reuse);
        }
        Verdict::Written
    }

    /// Sends the waiter away without a run.
    pub fn dismiss(self, farewell: Farewell) {
        let goodbye = (self.wire.goodbye)(farewell);
        if goodbye.answer.is_empty() || self.connection.look() != Look::Quiet {
            return;
        }
        let written = self.connection.write_now(&[IoSlice::new(goodbye.answer)]);
        if goodbye.reusable && self.reusable && written.is_ok_and(|n| n == goodbye.answer.len()) {
            self.connection.end(Ending::Reuse);
        }
    }

    /// Writes on as the peer reads; false if the connection broke.
    async fn write_rest(&self, head: &[u8], run: &Run, mut written: usize) -> bool {
        let whole = head.len() + run.payload.len();
        while written < whole {
            if self.connection.writable().await.is_err() {
                return false;
            }
            let head_left = &head[written.min(head.len())..];
            let payload_left = &run.payload[written.saturating_sub(head.len())..];
            match self.connection.write_now(&[IoSlice::new(head_left), IoSlice::new(payload_left)]) {
                Ok(more) => written += more,
                Err(_) => return false,
            }
        }
        true
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.connection.ending().is_none() {
            self.connection.end(Ending::Close);
            self.connection.shut();
        }
    }
}

//! Owns one waiter on a plain socket: looked at, written to, proved and sent away by whoever took it out of its pool.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handover::Disposition;
use super::proof::{ProofTimeouts, ProofTracker, ReadState, SocketState, Step};
use super::{CloseReason, Connection, Delivery, DeliveryRequirements, Liveness, ResponseFormat, Run};
use crate::model::{Proof, Verdict};

/// So much of a large run is written before others have their turn.
const MAX_WRITE_BYTES: usize = 256 * 1024;

/// A held poll, as the exchange keeps it. Dropped without an ending, it closes its connection.
pub struct Waiter {
    connection: Arc<Connection>,
    format: &'static ResponseFormat,
    reusable: bool,
    hop: bool,
    /// Its ending is decided: from then on the connection may serve the next waiter, and is not this one's to touch.
    released: bool,
}

impl Waiter {
    /// Makes the waiter before it is parked: from then on its taker can reach the connection. With `hop`, a proxy
    /// stands in between, so a receipt is the proxy's.
    pub fn new(
        connection: Arc<Connection>,
        wire: &'static ResponseFormat,
        reusable: bool,
        hop: bool,
    ) -> Self {
        connection.handover.begin();
        Self { connection, format: wire, reusable, hop, released: false }
    }

    /// Hands over a run and proves it as far as is demanded, in time.
    ///
    /// The caller's task does the work: waking the waiter's own task would double the latency. After any verdict
    /// but a proof, the connection has been reset: nothing more of the run is sent.
    pub async fn offer(mut self, run: &Run, demand: DeliveryRequirements) -> Delivery {
        if self.connection.probe() != ReadState::Idle {
            return Delivery::untouched(Verdict::Gone);
        }
        // Only a connection that ends after the run can show that the process read it.
        let reusable = self.reusable && demand.proof != Proof::Received;
        let mut head = Vec::with_capacity(192);
        (self.format.head)(run, self.keep_alive(reusable), &mut head);
        let mut answer = RunResponse { head: &head, payload: &run.payload, sent: 0 };
        let mut delivery = match answer.write(&self.connection) {
            Err(_) => return Delivery::untouched(Verdict::Gone),
            Ok(_) if demand.proof == Proof::Written && answer.is_sent() => {
                Delivery { verdict: Verdict::Written, nothing_sent: false, acked: false, by_budget: false }
            }
            Ok(_) => Box::pin(self.prove(demand, &mut answer)).await,
        };
        match delivery.verdict.proof() {
            Some(proof) if proof >= demand.proof => {
                if reusable {
                    self.release(Disposition::KeepAlive);
                } else if demand.proof == Proof::Received {
                    // The peer has ended its side: an ordinary close completes it.
                    self.release(Disposition::Close);
                }
                if (self.hop || self.connection.is_relayed()) && delivery.verdict == Verdict::Received {
                    delivery.verdict = Verdict::Hop;
                }
            }
            // The reset comes before anything else: it stops retransmissions, so that a run which is offered again does not
            // arrive late as well. What the peer's kernel has acknowledged already, its process may still read.
            _ => self.connection.reset(),
        }
        delivery
    }

    fn keep_alive(&self, reusable: bool) -> Option<u64> {
        reusable.then(|| self.connection.keep_alive_seconds())
    }

    fn release(&mut self, ending: Disposition) {
        self.released = true;
        if ending == Disposition::KeepAlive {
            self.connection.idle.insert(&self.connection);
        }
        self.connection.handover.resolve(ending);
    }

    /// Sends the waiter away without a run.
    pub fn close(mut self, farewell: CloseReason) {
        let goodbye = (self.format.close_response)(farewell, self.keep_alive(self.reusable));
        if goodbye.bytes.is_empty() || self.connection.probe() != ReadState::Idle {
            return;
        }
        let written = self.connection.write_now(&[IoSlice::new(&goodbye.bytes)]);
        if goodbye.reusable && self.reusable && written.is_ok_and(|n| n == goodbye.bytes.len()) {
            self.release(Disposition::KeepAlive);
        }
    }

    /// Where its connection comes from.
    pub fn origin(&self) -> IpAddr {
        self.connection.origin()
    }

    /// What shows whether its machine lives, also when the waiter has been taken.
    pub fn liveness(&self) -> Liveness {
        Liveness::of(&self.connection)
    }

    /// Writes the rest as the peer takes it, and looks until the verdict is in.
    async fn prove(&self, demand: DeliveryRequirements, answer: &mut RunResponse<'_>) -> Delivery {
        let connection = &*self.connection;
        let round_trip = || connection.tcp_info().map_or(Duration::ZERO, |peer| peer.round_trip);
        let patience = ProofTimeouts::new(round_trip(), demand.read_timeout, demand.taken_by);
        let mut proving = ProofTracker::new(demand.proof, patience, self.hop, answer.whole(), Instant::now());
        let mut end = connection.probe();
        loop {
            let sight = SocketState { sent: answer.sent, unacked: connection.unacked(), read: end };
            let now = Instant::now();
            let step = proving.observe(sight, now);
            let delivery = |verdict, by_budget| {
                let (untouched, acked) = (sight.sent == 0, proving.is_acked());
                Delivery { verdict, nothing_sent: untouched, acked, by_budget }
            };
            let (at, readable_is_news) = match step {
                Step::Done(verdict) => return delivery(verdict, false),
                _ if now >= demand.until => return delivery(proving.verdict_at_timeout(), true),
                Step::WaitReadable(at) => (at, true),
                Step::WaitTimer(at) => (at, false),
            };
            let stirred = async {
                if !readable_is_news || !connection.activity().await {
                    std::future::pending::<()>().await;
                }
            };
            if proving.needs_our_fin(now) {
                connection.shutdown_write_for_proof();
            }
            // Whichever comes first, the next look tells.
            tokio::select! {
                () = stirred => {}
                _ = connection.writable(), if !answer.is_sent() => {}
                () = tokio::time::sleep_until(at.min(demand.until).into()) => {}
            }
            if sight.unacked > 0 {
                proving.set_round_trip(round_trip());
            }
            end = connection.probe();
            if !answer.is_sent() {
                match answer.write(connection) {
                    Ok(0) => {}
                    // A peer that takes all at once would keep this thread from everybody else.
                    Ok(_) => tokio::task::yield_now().await,
                    Err(_) => end = ReadState::Error,
                }
            }
        }
    }
}

/// The answer that carries a run, on its way.
struct RunResponse<'a> {
    head: &'a [u8],
    payload: &'a [u8],
    /// Bytes that the kernel has taken.
    sent: usize,
}

impl RunResponse<'_> {
    fn whole(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    fn is_sent(&self) -> bool {
        self.sent == self.whole()
    }

    /// Writes what the kernel takes of the rest, and returns how much that was.
    fn write(&mut self, connection: &Connection) -> io::Result<usize> {
        let head = &self.head[self.sent.min(self.head.len())..];
        let payload = &self.payload[self.sent.saturating_sub(self.head.len())..];
        let now = &payload[..payload.len().min(MAX_WRITE_BYTES)];
        let written = connection.write_now(&[IoSlice::new(head), IoSlice::new(now)])?;
        self.sent += written;
        Ok(written)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if !self.released {
            self.connection.handover.resolve(Disposition::Close);
            self.connection.shutdown();
        }
    }
}

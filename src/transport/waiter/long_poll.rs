//! Owns a long poll as a waiter: a held GET, whose response carries one run or ends the poll.

use std::io::IoSlice;
use std::net::IpAddr;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::run_write::{RunWrite, join_short};
use crate::model::{Proof, Verdict};
use crate::transport::connection::Connection;
use crate::transport::delivery::{Delivery, DeliveryRequirements, Run};
use crate::transport::handover::Disposition;
use crate::transport::liveness::Liveness;
use crate::transport::probe::Probe;
use crate::transport::proof::{ProofStep, ProofTimeouts, ProofTracker, ReadState, SocketState};
use crate::transport::reply_target::{ReplyTarget, opened};
use crate::transport::response_format::{CloseReason, ResponseFormat};
use crate::transport::write_buffer::with_write_buffer;

/// A held GET. Dropped without a response, it closes its connection.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, which every held poll pays for")]
pub struct LongPoll {
    connection: Arc<Connection>,
    format: &'static ResponseFormat,
    /// The client allows another request on this connection.
    reusable: bool,
    /// The client opens the reply to a run as soon as it has read the run, if one is awaited.
    replies_early: bool,
    /// The poll came through a layer 7 proxy, so what a delivery proves is that the proxy has the run.
    through_proxy: bool,
    /// The disposition of the connection is resolved: it may already carry the next waiter, and must not be touched. Only a missing
    /// proof resets it all the same.
    is_resolved: bool,
}

impl LongPoll {
    /// Must be made before the poll is parked: from then on the task that claims it must be able to reach the connection.
    pub fn new(
        connection: Arc<Connection>,
        format: &'static ResponseFormat,
        reusable: bool,
        replies_early: bool,
        through_proxy: bool,
    ) -> Self {
        connection.handover.begin();
        Self { connection, format, reusable, replies_early, through_proxy, is_resolved: false }
    }

    /// As [`Waiter::offer`](super::Waiter::offer).
    pub(super) fn offer(
        self,
        run: &Run,
        requirements: DeliveryRequirements,
    ) -> ControlFlow<Delivery, ProvingLongPoll> {
        if !self.is_free() {
            return Break(Delivery::not_sent(Verdict::Gone));
        }
        // The process shows that it has read the run by closing the connection, or by opening the reply at once.
        let shows_by_end = requirements.proof == Proof::Received && !self.opens_reply(run);
        let keeps_alive = self.reusable && !shows_by_end;
        with_write_buffer(|head| {
            (self.format.head)(run, self.keep_alive(keeps_alive), head);
            let payload = join_short(head, &run.payload);
            self.write_run(run, head, payload, requirements, keeps_alive)
        })
    }

    /// `payload` is what is not in `head` already.
    fn write_run(
        self,
        run: &Run,
        head: &[u8],
        payload: Bytes,
        requirements: DeliveryRequirements,
        keeps_alive: bool,
    ) -> ControlFlow<Delivery, ProvingLongPoll> {
        let mut response = RunWrite { head, head_length: head.len(), payload: &payload, sent: 0 };
        if response.write(&self.connection).is_err() {
            return Break(Delivery::not_sent(Verdict::Gone));
        }
        if requirements.proof == Proof::Written && response.is_sent() {
            let delivery =
                Delivery { verdict: Verdict::Written, nothing_sent: false, acked: false, by_budget: false };
            return Break(self.end(delivery, requirements.proof, keeps_alive));
        }
        let (sent, head_length, head) = (response.sent, response.head_length, response.unsent_head());
        Continue(ProvingLongPoll {
            waiter: self,
            requirements,
            keeps_alive,
            head,
            head_length,
            payload,
            sent,
            reply: run.reply.clone(),
        })
    }

    /// Hands the connection back after an offer with this result: to its next request, or to its end.
    fn end(mut self, mut delivery: Delivery, required: Proof, keeps_alive: bool) -> Delivery {
        match delivery.verdict.proof() {
            Some(proof) if proof >= required => {
                if self.is_resolved {
                    // It was released already, and may carry the next waiter.
                } else if keeps_alive {
                    self.resolve(Disposition::KeepAlive);
                } else if required == Proof::Received {
                    // The peer has closed its side already, so an ordinary close completes it.
                    self.resolve(Disposition::Close);
                }
                if delivery.verdict == Verdict::Received && self.strongest_proof() == Proof::Hop {
                    delivery.verdict = Verdict::Hop;
                }
            }
            // Reset before anything else, which stops retransmissions: a run that is offered again must not arrive here later.
            // What the peer's kernel has acknowledged already, its process can still read.
            _ => self.connection.reset(),
        }
        delivery
    }

    /// As [`Waiter::close`](super::Waiter::close).
    pub(super) fn close(mut self, reason: CloseReason<'_>) {
        let response = (self.format.close_response)(reason, self.keep_alive(self.reusable));
        if response.bytes.is_empty() || !self.is_free() {
            return;
        }
        let written = self.connection.write_now(&[IoSlice::new(&response.bytes)]);
        if response.reusable && self.reusable && written.is_ok_and(|written| written == response.bytes.len())
        {
            self.resolve(Disposition::KeepAlive);
        }
    }

    /// Behind a proxy, a proof is the proxy's.
    pub(super) fn strongest_proof(&self) -> Proof {
        if self.through_proxy || self.connection.is_relayed() { Proof::Hop } else { Proof::Received }
    }

    pub(super) fn origin(&self) -> IpAddr {
        self.connection.origin()
    }

    pub(super) fn liveness(&self) -> Liveness {
        Liveness::new(&self.connection)
    }

    /// Whether a response can be written: the client has neither closed the connection nor sent anything while it waits.
    fn is_free(&self) -> bool {
        self.connection.probe() == ReadState::Idle
    }

    /// Whether the reply to this run is opened at once. A proxy may hold it back until it is complete.
    fn opens_reply(&self, run: &Run) -> bool {
        self.replies_early && run.reply.is_some() && !self.through_proxy
    }

    /// The idle timeout to announce, if the connection stays open.
    fn keep_alive(&self, keeps_alive: bool) -> Option<u64> {
        keeps_alive.then(|| self.connection.keep_alive_seconds())
    }

    fn resolve(&mut self, disposition: Disposition) {
        resolve(&self.connection, &mut self.is_resolved, disposition);
    }

    /// Writes the rest as the peer takes it, and probes the socket until the verdict is known. A connection that is kept is released
    /// when all is written, because the proof is its next request.
    async fn prove(
        &mut self,
        requirements: DeliveryRequirements,
        response: &mut RunWrite<'_>,
        reply: Option<&ReplyTarget>,
        keeps_alive: bool,
    ) -> Delivery {
        let Self { connection, is_resolved, through_proxy, .. } = self;
        let proves_by_reply = keeps_alive && requirements.proof == Proof::Received;
        let round_trip = || connection.tcp_info().map_or(Duration::ZERO, |info| info.round_trip);
        let timeouts = ProofTimeouts::new(round_trip(), requirements.read_timeout, requirements.taken_by);
        let mut tracker =
            ProofTracker::new(requirements.proof, timeouts, *through_proxy, response.total(), Instant::now());
        // A connection that is kept has a task that goes on reading from it.
        let probe: Probe = if keeps_alive { Connection::probe_socket } else { Connection::probe };
        let mut read = probe(connection);
        loop {
            if proves_by_reply && !*is_resolved && response.is_sent() {
                resolve(connection, is_resolved, Disposition::KeepAlive);
            }
            if response.is_sent() && reply.is_some_and(ReplyTarget::is_open) {
                return Delivery {
                    verdict: Verdict::Received,
                    nothing_sent: false,
                    acked: true,
                    by_budget: false,
                };
            }
            let state = SocketState { sent: response.sent, unacked: connection.unacked(), read };
            let now = Instant::now();
            let step = tracker.observe(state, now);
            let delivery = |verdict, by_budget| {
                let (nothing_sent, acked) = (state.sent == 0, tracker.is_acked());
                Delivery { verdict, nothing_sent, acked, by_budget }
            };
            let (at, wakes_when_readable) = match step {
                ProofStep::Done(verdict) => return delivery(verdict, false),
                _ if now >= requirements.until => return delivery(tracker.verdict_at_deadline(), true),
                ProofStep::WaitReadable(at) => (at, true),
                ProofStep::WaitTimer(at) => (at, false),
            };
            let activity = async {
                if !wakes_when_readable || !connection.activity(probe).await {
                    std::future::pending::<()>().await;
                }
            };
            if !proves_by_reply && tracker.needs_our_fin(now) {
                connection.send_fin();
            }
            // Whichever it is, the next probe shows what has happened.
            tokio::select! {
                () = activity => {}
                _ = connection.writable(), if !response.is_sent() => {}
                () = opened(reply), if reply.is_some() && response.is_sent() => continue,
                () = tokio::time::sleep_until(at.min(requirements.until).into()) => {}
            }
            if state.unacked > 0 {
                tracker.update_round_trip(round_trip());
            }
            read = probe(connection);
            if !response.is_sent() {
                match response.write(connection) {
                    Ok(0) => {}
                    // A peer that takes every write at once would keep this thread from other tasks.
                    Ok(_) => tokio::task::yield_now().await,
                    Err(_) => read = ReadState::Error,
                }
            }
        }
    }
}

/// Hands a connection back to its own task.
fn resolve(connection: &Arc<Connection>, is_resolved: &mut bool, disposition: Disposition) {
    *is_resolved = true;
    if disposition == Disposition::KeepAlive {
        connection.idle.insert(connection);
    }
    connection.handover.resolve(disposition);
}

impl Drop for LongPoll {
    fn drop(&mut self) {
        if !self.is_resolved {
            self.connection.handover.resolve(Disposition::Close);
            self.connection.shutdown();
        }
    }
}

/// An offer whose response is written in part, or written and not proved yet.
pub struct ProvingLongPoll {
    waiter: LongPoll,
    requirements: DeliveryRequirements,
    keeps_alive: bool,
    /// The head, with a short payload behind it; empty if all of it was sent.
    head: Box<[u8]>,
    head_length: usize,
    payload: Bytes,
    /// Bytes that the kernel has taken.
    sent: usize,
    reply: Option<Arc<ReplyTarget>>,
}

impl ProvingLongPoll {
    /// As [`PendingProof::prove`](super::PendingProof::prove).
    pub(super) async fn prove(self) -> Delivery {
        let Self { mut waiter, requirements, keeps_alive, head, head_length, payload, sent, reply } = self;
        let mut response = RunWrite { head: &head, head_length, payload: &payload, sent };
        let mut delivery = waiter.prove(requirements, &mut response, reply.as_deref(), keeps_alive).await;
        if response.is_sent() && reply.is_some_and(|reply| reply.is_open()) {
            // It was opened just now, perhaps on this connection.
            delivery.verdict = Verdict::Received;
        }
        waiter.end(delivery, requirements.proof, keeps_alive)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::future::poll_fn;
    use std::io::{Read, Write};

    use super::*;
    use crate::transport::probe::tests::tls_connection;
    use crate::transport::response_format::CloseResponse;

    static FORMAT: ResponseFormat = ResponseFormat {
        head: |_, _, head| head.extend_from_slice(b"head "),
        close_response: |_, _| CloseResponse { bytes: Cow::Borrowed(b""), reusable: false },
    };

    #[tokio::test]
    async fn the_proof_of_an_offer_leaves_the_next_request_to_its_connection() {
        let (connection, mut peer) = tls_connection().await;
        let waiter = LongPoll::new(connection.clone(), &FORMAT, true, false, false);
        #[expect(clippy::disallowed_methods, reason = "awaited below")]
        let held = tokio::spawn(async move {
            poll_fn(|cx| {
                let handover = &connection.handover;
                handover.poll_held(
                    cx,
                    |cx| connection.poll_read_ready(cx).map(drop),
                    |cx| connection.poll_probe(cx),
                    || false,
                )
            })
            .await
        });
        tokio::task::yield_now().await;
        let later = Instant::now() + Duration::from_secs(5);
        let requirements = DeliveryRequirements {
            proof: Proof::Acked,
            read_timeout: Duration::from_secs(5),
            taken_by: later,
            until: later,
        };
        let (id, content_type, payload) = ("run".into(), "text/plain".into(), "payload".into());
        let run = Run { id, content_type, payload, reply: None, fields: None };
        let Continue(proving) = waiter.offer(&run, requirements) else { panic!("it has to be proved") };
        peer.read_exact(&mut [0; 12]).unwrap();
        // Nothing has polled for events yet when the first probe meets this.
        peer.write_all(b"next").unwrap();
        assert_eq!(proving.prove().await.verdict, Verdict::Acked);
        let ended = tokio::time::timeout(Duration::from_secs(5), held).await;
        let (disposition, _) = ended.expect("the next request has to wake its connection").unwrap();
        assert_eq!(disposition, Disposition::KeepAlive);
    }
}

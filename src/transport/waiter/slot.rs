//! Owns a slot as a waiter: a place of a session in its pool, which is good for one run.

use std::future::poll_fn;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::goodbye::Goodbye;
use super::offers::OfferState;
use super::run_write::RunWrite;
use super::session::Session;
use super::session_offers::BegunOffer;
use crate::model::{Proof, Verdict};
use crate::transport::delivery::{Delivery, DeliveryRequirements, Run};
use crate::transport::liveness::Liveness;
use crate::transport::proof::{ProofStep, ProofTimeouts, ProofTracker, ReadState, SocketState};
use crate::transport::reply_target::opened;
use crate::transport::response_format::CloseReason;
use crate::transport::write_buffer::with_write_buffer;

/// A place of a session in its pool. Dropped without a run, it waits again.
pub struct Slot {
    session: Arc<Session>,
    ticket: u32,
    is_used: bool,
}

impl Slot {
    pub(in crate::transport) fn new(session: Arc<Session>, ticket: u32) -> Self {
        session.count_slot();
        Self { session, ticket, is_used: false }
    }

    /// As [`Waiter::offer`](super::Waiter::offer).
    pub(super) fn offer(
        mut self,
        run: &Run,
        requirements: DeliveryRequirements,
    ) -> ControlFlow<Delivery, ProvingSlot> {
        self.is_used = true;
        let begun = with_write_buffer(|head| self.session.begin_offer(self.ticket, run, requirements, head));
        begun.map_continue(|begun| ProvingSlot {
            session: self.session.clone(),
            requirements,
            begun,
            has_ended: false,
        })
    }

    /// As [`Waiter::close`](super::Waiter::close): ends the whole session.
    pub(super) fn close(mut self, reason: CloseReason<'_>) {
        self.is_used = true;
        self.session.close(match reason {
            // Slots have a deadline only while the broker drains.
            CloseReason::Expired | CloseReason::Drained { .. } => Goodbye::Drained,
            CloseReason::Retired => Goodbye::Retired,
            CloseReason::Replaced => Goodbye::Replaced,
        });
    }

    pub(super) fn origin(&self) -> IpAddr {
        self.session.owner.address()
    }

    pub(super) fn metadata(&self) -> Option<&str> {
        self.session.owner.metadata()
    }

    pub(super) fn liveness(&self) -> Liveness {
        Liveness::new(&self.session.connection)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.session.uncount_slot();
        if !self.is_used {
            self.session.return_slot(self.ticket);
        }
    }
}

/// An offer that is written in part, or written and not acknowledged yet. Dropped before its end, it resets the connection.
pub struct ProvingSlot {
    session: Arc<Session>,
    requirements: DeliveryRequirements,
    begun: BegunOffer,
    has_ended: bool,
}

impl ProvingSlot {
    /// As [`PendingProof::prove`](super::PendingProof::prove).
    pub(super) async fn prove(mut self) -> Delivery {
        let mut delivery = self.observe_until_end().await;
        self.has_ended = true;
        let BegunOffer { number, head_length, ref payload, sent, .. } = self.begun;
        let is_whole = sent == head_length + payload.len();
        if delivery.verdict.proof().is_some_and(|proof| proof >= self.requirements.proof) {
            self.session.end_offer(number);
        } else if self.session.give_up(number, is_whole) {
            // The acknowledgement came just now.
            delivery.verdict = Verdict::Received;
        }
        delivery
    }

    /// Writes the rest as the peer takes it, until the verdict is known.
    async fn observe_until_end(&mut self) -> Delivery {
        let Self { session, requirements, begun, .. } = self;
        let BegunOffer { number, head, head_length, payload, sent, position, reply } = begun;
        let connection = &*session.connection;
        let mut write = RunWrite { head, head_length: *head_length, payload, sent: *sent };
        let round_trip = || connection.tcp_info().map_or(Duration::ZERO, |info| info.round_trip);
        let DeliveryRequirements { proof, read_timeout, taken_by, .. } = *requirements;
        let timeouts = ProofTimeouts::new(connection.round_trip(), read_timeout, taken_by);
        let mut tracker = ProofTracker::new(proof, timeouts, false, write.total(), Instant::now());
        // The process mostly acknowledges before it is worth asking what its kernel has acknowledged.
        let mut is_fresh = proof == Proof::Received;
        loop {
            let seen = poll_fn(|cx| Poll::Ready(session.observe(*number, cx.waker()))).await;
            let delivery = |verdict, acked, by_budget, nothing_sent| Delivery {
                verdict,
                nothing_sent,
                acked,
                by_budget,
            };
            let nothing_sent = write.sent == 0;
            match seen {
                Some(OfferState::Open) => {}
                Some(OfferState::Acknowledged | OfferState::Ended) if write.is_sent() => {
                    return delivery(Verdict::Received, true, false, nothing_sent);
                }
                // Nobody can have read what was not sent.
                Some(OfferState::Acknowledged | OfferState::Ended) | None => {
                    return delivery(Verdict::Lost, tracker.is_acked(), false, nothing_sent);
                }
            }
            let is_unknown = std::mem::take(&mut is_fresh);
            let unacked = if is_unknown { write.sent } else { session.unacked_before(*position) };
            let state = SocketState { sent: write.sent, unacked, read: ReadState::Idle };
            let now = Instant::now();
            let at = match tracker.observe(state, now) {
                ProofStep::Done(verdict) => {
                    return delivery(verdict, tracker.is_acked(), false, nothing_sent);
                }
                _ if now >= requirements.until => {
                    return delivery(tracker.verdict_at_deadline(), tracker.is_acked(), true, nothing_sent);
                }
                ProofStep::WaitReadable(at) | ProofStep::WaitTimer(at) => at,
            };
            let changed = poll_fn(|cx| match session.observe(*number, cx.waker()) {
                Some(OfferState::Open) => Poll::Pending,
                Some(OfferState::Acknowledged | OfferState::Ended) | None => Poll::Ready(()),
            });
            tokio::select! {
                () = changed => continue,
                _ = connection.writable(), if !write.is_sent() => {}
                () = opened(reply.as_deref()), if reply.is_some() && write.is_sent() => session.acknowledge(*number),
                () = tokio::time::sleep_until(at.min(requirements.until).into()) => {}
            }
            if state.unacked > 0 {
                tracker.update_round_trip(round_trip());
            }
            if write.is_sent() {
                continue;
            }
            match write.write(connection) {
                Ok(0) => {}
                Ok(written) => {
                    *sent = write.sent;
                    *position = session.continue_write(written, write.is_sent());
                    // A peer that takes every write at once would keep this thread from other tasks.
                    tokio::task::yield_now().await;
                }
                Err(_) => session.end(),
            }
        }
    }
}

impl Drop for ProvingSlot {
    fn drop(&mut self) {
        if !self.has_ended {
            self.session.break_off();
        }
    }
}

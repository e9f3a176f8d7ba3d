//! Owns the offers of a session: a run is written whole before the next one, and each is acknowledged by itself.

use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;

use super::offer_token::OfferToken;
use super::offers::OfferState;
use super::run_write::{RunWrite, join_short};
use super::session::Session;
use super::session_state::{Phase, SessionKind};
use super::{sse, websocket};
use crate::model::{PollEnd, Proof, Verdict};
use crate::transport::delivery::{Delivery, DeliveryRequirements, Run};
use crate::transport::reply_target::ReplyTarget;

/// The number of an offer whose write has begun, and what is left to write.
pub(super) struct BegunOffer {
    pub(super) number: u32,
    pub(super) head: Box<[u8]>,
    pub(super) head_length: usize,
    pub(super) payload: Bytes,
    pub(super) sent: usize,
    /// The position after the last of these bytes among all that the session has written.
    pub(super) position: u64,
    pub(super) reply: Option<Arc<ReplyTarget>>,
}

impl Session {
    /// Writes as much of a run as the kernel takes now. `Break` if the offer has ended.
    pub(super) fn begin_offer(
        &self,
        ticket: u32,
        run: &Run,
        requirements: DeliveryRequirements,
        head: &mut Vec<u8>,
    ) -> ControlFlow<Delivery, BegunOffer> {
        let mut state = self.state.lock();
        state.unpark(ticket);
        if state.phase != Phase::Open {
            return Break(Delivery::not_sent(Verdict::Gone));
        }
        if state.is_busy() {
            state.to_park += 1;
            state.returning += 1;
            state.wake();
            return Break(Delivery::not_sent(Verdict::Busy));
        }
        let number = state.offers.begin(run.id.clone());
        let payload = self.render_run(number, run, head);
        let mut write = RunWrite { head, head_length: head.len(), payload: &payload, sent: 0 };
        if write.write(&self.connection).is_err() {
            state.offers.undo(number);
            drop(state);
            self.end();
            return Break(Delivery::not_sent(Verdict::Gone));
        }
        let (sent, head_length) = (write.sent, write.head_length);
        state.written += sent as u64;
        state.ready -= 1;
        if write.is_sent() && requirements.proof == Proof::Written {
            state.offers.end(number, self.keeps_offers());
            let verdict = Verdict::Written;
            return Break(Delivery { verdict, nothing_sent: false, acked: false, by_budget: false });
        }
        let (head, position) = (write.unsent_head(), state.written);
        if !write.is_sent() {
            state.is_writing = true;
            drop(state);
            self.withdraw(PollEnd::SetAside);
        }
        let reply = run.reply.clone();
        Continue(BegunOffer { number, head, head_length, payload, sent, position, reply })
    }

    /// Renders a run before its payload, or with it; returns the payload that follows.
    fn render_run(&self, offer: u32, run: &Run, head: &mut Vec<u8>) -> Bytes {
        match self.kind {
            SessionKind::WebSocket => {
                websocket::write_run_head(offer, run, head);
                join_short(head, &run.payload)
            }
            SessionKind::EventStream { is_chunked } => {
                let token = OfferToken::new(self.number.into(), offer, *self.context.broker.lock());
                sse::write_run(offer, token, run, is_chunked, head);
                Bytes::new()
            }
        }
    }

    /// More bytes of the offer that is being written were taken by the kernel. Returns the position after them.
    pub(super) fn continue_write(&self, written: usize, is_sent: bool) -> u64 {
        let mut state = self.state.lock();
        state.written += written as u64;
        let position = state.written;
        if is_sent {
            state.is_writing = false;
            self.write_control(&mut state);
            // The slots come back.
            state.wake();
        }
        position
    }

    /// What the proof of an offer sees, until it changes. None if the connection is over.
    pub(super) fn observe(&self, number: u32, waker: &Waker) -> Option<OfferState> {
        let mut state = self.state.lock();
        let known = state.offers.poll(number, waker);
        // An acknowledgement that came before the end of the connection counts.
        if state.phase == Phase::Ended { known.filter(|state| *state != OfferState::Open) } else { known }
    }

    /// Bytes before this position that the peer's kernel has not acknowledged; `usize::MAX` where that is unknown.
    pub(super) fn unacked_before(&self, position: u64) -> usize {
        // In this order: what is written in between makes the number larger.
        let later = usize::try_from(self.state.lock().written - position).unwrap_or(usize::MAX);
        let unacked = self.connection.unacked();
        if unacked == usize::MAX { unacked } else { unacked.saturating_sub(later) }
    }

    /// The controller has read the run of an offer: it has opened the reply.
    pub(super) fn acknowledge(&self, number: u32) {
        self.state.lock().offers.acknowledge(number);
    }

    /// An offer has ended with the required proof.
    pub(super) fn end_offer(&self, number: u32) {
        let mut state = self.state.lock();
        state.offers.end(number, self.keeps_offers());
        if let Phase::Closing(_) = state.phase {
            state.wake();
        }
    }

    /// An offer has ended without the required proof. True if it was acknowledged in the meantime, and was written as a whole: then
    /// it has ended with that proof. Otherwise the connection is reset, because the bytes on their way cannot be called back, and may
    /// be in the middle of a message.
    pub(super) fn give_up(&self, number: u32, is_whole: bool) -> bool {
        let state = self.state.lock();
        if is_whole && state.phase != Phase::Ended && state.offers.is_acknowledged(number) {
            drop(state);
            self.end_offer(number);
            return true;
        }
        drop(state);
        self.break_off();
        false
    }

    /// Whether an offer is remembered until its slot is freed by its token.
    fn keeps_offers(&self) -> bool {
        matches!(self.kind, SessionKind::EventStream { .. })
    }
}

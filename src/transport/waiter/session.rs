//! Owns a session: one connection on which a controller waits with several slots.
//!
//! ```text
//! slot:     ready ──► in its pool ──claimed──► a run is written ──acknowledged──► (the controller is busy) ──► ready
//! session:  OPEN ──drain, retire, replaced, violation──► CLOSING ──its offers have ended──► the last bytes ──► ENDED
//!            └── broken, or an acknowledgement is missing ─────────────────────────────────────────────────────► ENDED
//! ```
//! Its connection's task puts the slots into their pool and reads; dispatches write runs, each in its own task. What both use
//! is behind one lock, which is never held together with the core's.

use std::io::IoSlice;
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::goodbye::Goodbye;
use super::offers::{AckEnd, Offers};
use super::owner::SessionOwner;
use super::session_state::{
    Duty, MAX_SLOTS, Phase, Receipt, ReceiptError, SessionContext, SessionKind, SessionState, TooManySlots,
};
use super::{sse, websocket};
use crate::broker::{LimitReached, WaiterId};
use crate::model::PollEnd;
use crate::transport::connection::Connection;

/// One connection on which a controller waits with several slots.
pub struct Session {
    pub(in crate::transport) connection: Arc<Connection>,
    pub(in crate::transport) owner: SessionOwner,
    pub(in crate::transport) kind: SessionKind,
    pub(in crate::transport) number: u32,
    pub(super) context: Arc<SessionContext>,
    pub(super) state: Mutex<SessionState>,
}

impl Session {
    /// A session without a slot, on a connection whose response head was written.
    pub(in crate::transport) fn new(
        connection: Arc<Connection>,
        context: Arc<SessionContext>,
        kind: SessionKind,
        owner: SessionOwner,
        number: u32,
    ) -> Self {
        let state = SessionState {
            phase: Phase::Open,
            is_writing: false,
            is_overdue: false,
            was_stuck: false,
            is_deferred: false,
            ready: 0,
            to_park: 0,
            returning: 0,
            last_ticket: 0,
            is_parking: false,
            parked: SmallVec::new(),
            offers: Offers::default(),
            written: 0,
            control: Vec::new(),
            pong_length: 0,
            waker: None,
        };
        Self { connection, owner, kind, number, context, state: Mutex::new(state) }
    }

    /// The controller can take so many more runs. For the connection's task, which parks the slots then.
    pub fn add_slots(&self, slots: u16) -> Result<(), TooManySlots> {
        let mut state = self.state.lock();
        if slots > MAX_SLOTS - state.ready {
            return Err(TooManySlots);
        }
        state.ready += slots;
        state.to_park += slots;
        Ok(())
    }

    /// Acknowledges an offer by its run, and by its number if it is given.
    pub(in crate::transport) fn ack(&self, run: &str, offer: Option<u32>) -> AckEnd {
        self.state.lock().offers.ack(run, offer)
    }

    /// Takes a receipt for an offer that this session has made. Repeated, it changes nothing: its response may have been lost.
    pub(in crate::transport) fn receive(
        &self,
        run: &str,
        offer: u32,
        receipt: Receipt,
    ) -> Result<(), ReceiptError> {
        let mut state = self.state.lock();
        if state.phase == Phase::Ended {
            return Err(ReceiptError::Gone);
        }
        if state.offers.run_of(offer).is_some_and(|known| known != run.as_bytes()) {
            return Err(ReceiptError::OtherRun);
        }
        let _ = state.offers.ack(run, Some(offer));
        if receipt == Receipt::Ready && state.offers.free(offer) && state.ready < MAX_SLOTS {
            state.ready += 1;
            state.to_park += 1;
        }
        state.wake();
        Ok(())
    }

    /// Ends the session politely: its slots leave their pool, its open offers end first.
    pub(in crate::transport) fn close(&self, goodbye: Goodbye) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Closing(goodbye);
            state.is_overdue = false;
            self.announce(goodbye, state.control_behind_pong());
            self.try_finish(&mut state);
            self.write_control(&mut state);
        }
        state.wake();
        drop(state);
        self.withdraw(goodbye.poll_end());
    }

    /// The connection is over: every open offer is lost.
    pub(in crate::transport) fn end(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Ended;
        state.offers.wake_all();
        state.wake();
        drop(state);
        self.withdraw(PollEnd::ClientGone);
    }

    /// Resets the connection. From then on, no acknowledgement counts.
    pub(super) fn break_off(&self) {
        self.end();
        self.connection.reset();
    }

    /// Fails the session: says why, and loses every open offer.
    pub(in crate::transport) fn fail(&self, goodbye: Goodbye) {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Open | Phase::Closing(_)) {
            drop(state);
            return self.end();
        }
        self.write_goodbye(goodbye, state.control_behind_pong());
        self.write_control(&mut state);
        if state.offers.has_open() {
            // Each of them resets the connection when it sees this.
            state.phase = Phase::Ended;
            state.offers.wake_all();
        } else {
            state.phase = Phase::Closed(goodbye);
        }
        state.wake();
        drop(state);
        self.withdraw(goodbye.poll_end());
    }

    /// Sends a sign of life, and expects one of a WebSocket. Ends the session if the one before is still unanswered or unsent, or
    /// if it has been closing since then.
    pub(in crate::transport) fn heartbeat(&self) {
        let mut state = self.state.lock();
        let is_stuck = !state.is_writing && !state.control.is_empty();
        if state.is_overdue || (is_stuck && state.was_stuck) {
            drop(state);
            return self.break_off();
        }
        state.was_stuck = is_stuck;
        state.is_overdue = state.phase != Phase::Open;
        if is_stuck || state.is_overdue {
            return;
        }
        // Slots that found no place in their pool try again.
        state.is_deferred = false;
        if state.to_park > 0 {
            state.wake();
        }
        match self.kind {
            SessionKind::WebSocket => websocket::write_heartbeat(state.control_behind_pong()),
            SessionKind::EventStream { is_chunked } => {
                sse::write_heartbeat(is_chunked, state.control_behind_pong());
            }
        }
        self.write_control(&mut state);
        if !state.control.is_empty() {
            state.wake();
        } else if self.kind == SessionKind::WebSocket {
            state.is_overdue = true;
        }
    }

    /// The peer answers pings.
    pub(in crate::transport) fn pong_received(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.is_overdue = false;
        }
    }

    /// Answers a ping. A pong of which nothing was sent yet is replaced, because the latest ping is the one to answer.
    pub(in crate::transport) fn answer_ping(&self, payload: &[u8]) {
        let mut state = self.state.lock();
        // Nothing follows the last bytes: a write after the shutdown would end the session before the peer has read them.
        if matches!(state.phase, Phase::Open | Phase::Closing(_)) {
            if !self.connection.is_tls() {
                state.remove_unsent_pong();
            } else if !state.control.is_empty() {
                // What TLS has encrypted must be written as it was.
                return;
            }
            let before = state.control.len();
            websocket::write_pong(payload, &mut state.control);
            state.pong_length = u8::try_from(state.control.len() - before).unwrap_or(0);
            self.write_control(&mut state);
        }
    }

    /// Registers the connection's task, and returns what it has to do.
    pub(in crate::transport) fn next_duty(&self, waker: &Waker) -> Duty {
        let mut state = self.state.lock();
        if !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        self.try_finish(&mut state);
        self.write_control(&mut state);
        match state.phase {
            Phase::Ended => Duty::End,
            Phase::Closing(goodbye) | Phase::Closed(goodbye) if !state.parked.is_empty() => {
                Duty::Withdraw(goodbye.poll_end())
            }
            Phase::Closed(_) if state.control.is_empty() => Duty::Finish,
            Phase::Open if state.is_busy() && !state.parked.is_empty() => Duty::Withdraw(PollEnd::SetAside),
            Phase::Open if state.to_park > 0 && !state.is_busy() && !state.is_deferred => {
                state.to_park -= 1;
                state.last_ticket = state.last_ticket.wrapping_add(1);
                state.is_parking = true;
                Duty::Park(state.last_ticket)
            }
            Phase::Open | Phase::Closing(_) | Phase::Closed(_) => Duty::Wait,
        }
    }

    /// The newest slot is in its pool, unless it was claimed already.
    pub(in crate::transport) fn parked(&self, id: WaiterId) {
        let mut state = self.state.lock();
        state.returning = state.returning.saturating_sub(1);
        if std::mem::take(&mut state.is_parking) {
            let ticket = state.last_ticket;
            state.parked.push((ticket, id));
        }
    }

    /// The newest slot found no place in its pool, and is one more to park. If it has had a place before, which was given away while
    /// a run was written, it tries again at the next heartbeat; else the session ends.
    pub(in crate::transport) fn not_parked(&self, limit: LimitReached) {
        let mut state = self.state.lock();
        // The slot that was refused has counted itself as one that comes back.
        state.returning -= 1;
        state.is_deferred = state.returning > 0;
        if !state.is_deferred {
            drop(state);
            tracing::debug!(limit = limit.limit(), "a session was closed because it found no place");
            self.close(Goodbye::Limit(limit));
        }
    }

    /// Takes all slots out of their pool, so that no run is offered to them any more.
    pub(in crate::transport) fn withdraw(&self, end: PollEnd) {
        let parked = std::mem::take(&mut self.state.lock().parked);
        for (_, id) in parked {
            (self.context.withdraw)(id, end);
        }
    }

    /// Whether something waits to be written by the connection's task.
    pub(in crate::transport) fn has_control(&self) -> bool {
        let state = self.state.lock();
        !state.is_writing && !state.control.is_empty()
    }

    /// A slot is in a pool, or is being offered a run.
    pub(super) fn count_slot(&self) {
        self.context.waiting[self.kind.index()].inc();
    }

    /// The slot is neither any more.
    pub(super) fn uncount_slot(&self) {
        self.context.waiting[self.kind.index()].dec();
    }

    /// A slot was removed from its pool and got no byte of a run: it waits again, unless the session ends.
    pub(super) fn return_slot(&self, ticket: u32) {
        let mut state = self.state.lock();
        state.unpark(ticket);
        state.to_park += 1;
        state.returning += 1;
        state.wake();
    }

    /// Renders what is said at once when a session begins to close.
    fn announce(&self, goodbye: Goodbye, out: &mut Vec<u8>) {
        match self.kind {
            SessionKind::WebSocket => websocket::write_announcement(goodbye, out),
            SessionKind::EventStream { .. } => {}
        }
    }

    /// Renders the last bytes once no offer is open.
    pub(super) fn try_finish(&self, state: &mut SessionState) {
        let Phase::Closing(goodbye) = state.phase else { return };
        if state.offers.has_open() || state.is_writing {
            return;
        }
        self.write_goodbye(goodbye, state.control_behind_pong());
        state.phase = Phase::Closed(goodbye);
    }

    fn write_goodbye(&self, goodbye: Goodbye, out: &mut Vec<u8>) {
        match self.kind {
            SessionKind::WebSocket => websocket::write_goodbye(goodbye, out),
            SessionKind::EventStream { is_chunked } => sse::write_goodbye(goodbye, is_chunked, out),
        }
    }

    /// Writes as much of the control bytes as the kernel takes, unless a run is being written.
    pub(super) fn write_control(&self, state: &mut SessionState) {
        if state.is_writing || state.control.is_empty() {
            return;
        }
        match self.connection.write_now(&[IoSlice::new(&state.control)]) {
            Ok(written) if written == state.control.len() => {
                state.written += written as u64;
                // No memory is kept by an idle session.
                state.control = Vec::new();
                state.pong_length = 0;
                state.was_stuck = false;
            }
            Ok(written) => {
                state.written += written as u64;
                state.control.drain(..written);
            }
            Err(_) => {
                state.phase = Phase::Ended;
                state.offers.wake_all();
                state.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_session_keeps_no_more_than_this() {
        assert!(size_of::<Session>() <= 240, "{}", size_of::<Session>());
    }
}

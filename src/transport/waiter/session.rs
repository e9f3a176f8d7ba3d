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
use std::net::IpAddr;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use parking_lot::Mutex;

use super::goodbye::Goodbye;
use super::offer_token::OfferToken;
use super::offers::{AckEnd, OfferState, Offers};
use super::run_write::{RunWrite, join_short};
use super::{sse, websocket};
use crate::broker::{AcceptedPayload, Key};
use crate::metrics::Metrics;
use crate::model::{PollEnd, Proof, Transport, Verdict};
use crate::transport::connection::Connection;
use crate::transport::delivery::{Delivery, DeliveryRequirements, Run};

/// The most slots of one session that are ready and have no run yet.
pub const MAX_SLOTS: u16 = 256;

/// What all sessions of a broker share.
pub struct SessionContext {
    pub(in crate::transport) metrics: Arc<Metrics>,
    /// The id of this broker in its cluster.
    pub(in crate::transport) broker: Option<u128>,
}

/// How a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    /// A WebSocket.
    WebSocket,
    /// A stream of server-sent events.
    EventStream {
        /// The events are HTTP chunks; without it, the end of the connection is the end of the stream.
        is_chunked: bool,
    },
}

impl SessionKind {
    /// What holds its waiters.
    pub fn transport(self) -> Transport {
        match self {
            Self::WebSocket => Transport::WebSocket,
            Self::EventStream { .. } => Transport::EventStream,
        }
    }
}

/// Who waits, and for what.
#[derive(Debug)]
pub struct SessionOwner {
    /// The pool.
    pub key: Key,
    /// The payloads that it accepts.
    pub accepts: AcceptedPayload,
    /// The controller's name for itself; empty if it gave none.
    pub controller: Box<str>,
    /// The address that it waits from.
    pub address: IpAddr,
}

/// One connection on which a controller waits with several slots.
pub struct Session {
    pub(in crate::transport) connection: Arc<Connection>,
    pub(in crate::transport) owner: SessionOwner,
    pub(in crate::transport) kind: SessionKind,
    pub(in crate::transport) number: u64,
    context: Arc<SessionContext>,
    state: Mutex<SessionState>,
}

struct SessionState {
    phase: Phase,
    /// An offer's write is unfinished.
    is_writing: bool,
    /// At the last heartbeat something was awaited that has not come since: a pong, or the end of the session.
    is_overdue: bool,
    /// Slots that are ready and have no run.
    ready: u16,
    /// Those of them that are in no pool.
    to_park: u16,
    next_ticket: u32,
    /// The slots that were claimed since the connection's task last looked.
    claimed: Vec<u32>,
    offers: Offers,
    /// Bytes that the kernel has taken.
    written: u64,
    /// What is to be written between two runs.
    control: Vec<u8>,
    /// Wakes the connection's task.
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Closing(Goodbye),
    /// The last bytes are written, or wait in `control`.
    Closed(Goodbye),
    Ended,
}

/// What a session's task has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) enum Duty {
    /// Put this slot into its pool.
    Park(u32),
    /// Nothing: all slots that are ready are in their pool.
    Wait,
    /// Take the slots out of their pool, for this reason.
    Withdraw(PollEnd),
    /// Nothing more will be written.
    Finish,
    /// The connection is over.
    End,
}

/// A session has more slots ready than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManySlots;

/// What a worker says about an offer on another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// It has read the run.
    Ack,
    /// It is done with the run and can take another one. It has read it, too.
    Ready,
}

/// The number of an offer whose write has begun, and what is left to write.
pub(super) struct BegunOffer {
    pub(super) number: u32,
    pub(super) head: Box<[u8]>,
    pub(super) head_length: usize,
    pub(super) payload: Bytes,
    pub(super) sent: usize,
    /// The position after the last of these bytes among all that the session has written.
    pub(super) position: u64,
}

impl Session {
    /// A session without a slot, on a connection whose response head was written.
    pub(in crate::transport) fn new(
        connection: Arc<Connection>,
        context: Arc<SessionContext>,
        kind: SessionKind,
        owner: SessionOwner,
        number: u64,
    ) -> Self {
        let state = SessionState {
            phase: Phase::Open,
            is_writing: false,
            is_overdue: false,
            ready: 0,
            to_park: 0,
            next_ticket: 0,
            claimed: Vec::new(),
            offers: Offers::default(),
            written: 0,
            control: Vec::new(),
            waker: None,
        };
        Self { connection, owner, kind, number, context, state: Mutex::new(state) }
    }

    /// The controller can take so many more runs.
    pub fn add_slots(&self, slots: u16) -> Result<(), TooManySlots> {
        let mut state = self.state.lock();
        if slots > MAX_SLOTS - state.ready {
            return Err(TooManySlots);
        }
        state.ready += slots;
        state.to_park += slots;
        state.wake();
        Ok(())
    }

    /// Acknowledges an offer by its run, and by its number if it is given.
    pub(in crate::transport) fn ack(&self, run: &str, offer: Option<u32>) -> AckEnd {
        self.state.lock().offers.ack(run, offer)
    }

    /// Takes a receipt for an offer that this session has made. False if the offer is of another run. Repeated, it changes nothing.
    pub(in crate::transport) fn receive(&self, run: &str, offer: u32, receipts: &[Receipt]) -> Option<bool> {
        let mut state = self.state.lock();
        if state.phase == Phase::Ended {
            return None;
        }
        if state.offers.run_of(offer).is_some_and(|known| known != run.as_bytes()) {
            return Some(false);
        }
        let _ = state.offers.ack(run, Some(offer));
        if receipts.contains(&Receipt::Ready) && state.offers.free(offer) && state.ready < MAX_SLOTS {
            state.ready += 1;
            state.to_park += 1;
        }
        state.wake();
        Some(true)
    }

    /// Ends the session politely: its slots leave their pool, its open offers end first.
    pub(in crate::transport) fn close(&self, goodbye: Goodbye) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Closing(goodbye);
            state.is_overdue = false;
            self.announce(goodbye, &mut state.control);
            self.try_finish(&mut state);
            self.write_control(&mut state);
        }
        state.wake();
    }

    /// The connection is over: every open offer is lost.
    pub(in crate::transport) fn end(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Ended;
        state.offers.wake_all();
        state.wake();
    }

    /// Resets the connection, because bytes on their way cannot be called back.
    pub(super) fn break_off(&self) {
        self.connection.reset();
        self.end();
    }

    /// Fails the session: says why, and loses every open offer.
    pub(in crate::transport) fn fail(&self, goodbye: Goodbye) {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Open | Phase::Closing(_)) {
            drop(state);
            return self.end();
        }
        self.write_goodbye(goodbye, &mut state.control);
        self.write_control(&mut state);
        if state.offers.has_open() {
            // Each of them resets the connection when it sees this.
            state.phase = Phase::Ended;
            state.offers.wake_all();
        } else {
            state.phase = Phase::Closed(goodbye);
        }
        state.wake();
    }

    /// Sends a sign of life, and expects one of a WebSocket. Ends the session if the one before is still unanswered or unsent, or
    /// if it has been closing since then.
    pub(in crate::transport) fn heartbeat(&self) {
        let mut state = self.state.lock();
        let is_stuck = state.phase == Phase::Open && !state.is_writing && !state.control.is_empty();
        if state.is_overdue || is_stuck {
            drop(state);
            return self.break_off();
        }
        if state.phase != Phase::Open {
            state.is_overdue = true;
            return;
        }
        match self.kind {
            SessionKind::WebSocket => {
                websocket::write_heartbeat(&mut state.control);
                state.is_overdue = true;
            }
            SessionKind::EventStream { is_chunked } => sse::write_heartbeat(is_chunked, &mut state.control),
        }
        self.write_control(&mut state);
        if !state.control.is_empty() {
            state.wake();
        }
    }

    /// The peer answers pings.
    pub(in crate::transport) fn pong_received(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.is_overdue = false;
        }
    }

    /// Answers a ping. Unless the answer before could be written, it is not sent: the latest one is enough.
    pub(in crate::transport) fn answer_ping(&self, payload: &[u8]) {
        let mut state = self.state.lock();
        if state.control.is_empty() {
            websocket::write_pong(payload, &mut state.control);
            self.write_control(&mut state);
        }
    }

    /// Registers the connection's task, moves the tickets of claimed slots out, and returns what the task has to do.
    pub(in crate::transport) fn next_duty(&self, waker: &Waker, claimed: &mut Vec<u32>) -> Duty {
        let mut state = self.state.lock();
        if !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        std::mem::swap(&mut state.claimed, claimed);
        self.try_finish(&mut state);
        self.write_control(&mut state);
        match state.phase {
            Phase::Ended => Duty::End,
            Phase::Closed(_) if state.control.is_empty() => Duty::Finish,
            Phase::Closing(goodbye) | Phase::Closed(goodbye) => Duty::Withdraw(goodbye.poll_end()),
            Phase::Open if state.is_busy() => Duty::Withdraw(PollEnd::SetAside),
            Phase::Open if state.to_park > 0 => {
                state.to_park -= 1;
                state.next_ticket = state.next_ticket.wrapping_add(1);
                Duty::Park(state.next_ticket)
            }
            Phase::Open => Duty::Wait,
        }
    }

    /// Whether something waits to be written by the connection's task.
    pub(in crate::transport) fn has_control(&self) -> bool {
        let state = self.state.lock();
        !state.is_writing && !state.control.is_empty()
    }

    /// A slot is in a pool, or is being offered a run.
    pub(super) fn count_slot(&self) {
        self.context.metrics.waiters(self.kind.transport()).inc();
    }

    /// The slot is neither any more.
    pub(super) fn uncount_slot(&self) {
        self.context.metrics.waiters(self.kind.transport()).dec();
    }

    /// A slot was removed from its pool and got no byte of a run: it waits again, unless the session ends.
    pub(super) fn return_slot(&self, ticket: u32) {
        let mut state = self.state.lock();
        state.claimed.push(ticket);
        state.to_park += 1;
        state.wake();
    }

    /// Writes as much of a run as the kernel takes now. `Break` if the offer has ended.
    pub(super) fn begin_offer(
        &self,
        ticket: u32,
        run: &Run,
        requirements: DeliveryRequirements,
        head: &mut Vec<u8>,
    ) -> ControlFlow<Delivery, BegunOffer> {
        let mut state = self.state.lock();
        state.claimed.push(ticket);
        if state.phase != Phase::Open {
            return Break(Delivery::not_sent(Verdict::Gone));
        }
        if state.is_busy() {
            state.to_park += 1;
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
        if !write.is_sent() {
            state.is_writing = true;
            // The other slots leave their pool.
            state.wake();
        }
        let (head, position) = (write.unsent_head(), state.written);
        Continue(BegunOffer { number, head, head_length, payload, sent, position })
    }

    /// Renders a run before its payload, or with it; returns the payload that follows.
    fn render_run(&self, offer: u32, run: &Run, head: &mut Vec<u8>) -> Bytes {
        match self.kind {
            SessionKind::WebSocket => {
                websocket::write_run_head(offer, run, head);
                join_short(head, &run.payload)
            }
            SessionKind::EventStream { is_chunked } => {
                let token = OfferToken::new(self.number, offer, self.context.broker);
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

    /// Bytes of this session that the kernel has taken.
    pub(super) fn written(&self) -> u64 {
        self.state.lock().written
    }

    /// An offer has ended with the required proof.
    pub(super) fn end_offer(&self, number: u32) {
        let mut state = self.state.lock();
        state.offers.end(number, self.keeps_offers());
        if let Phase::Closing(_) = state.phase {
            state.wake();
        }
    }

    /// Whether an offer is remembered until its slot is freed by its token.
    fn keeps_offers(&self) -> bool {
        matches!(self.kind, SessionKind::EventStream { .. })
    }

    /// Renders what is said at once when a session begins to close.
    fn announce(&self, goodbye: Goodbye, out: &mut Vec<u8>) {
        match self.kind {
            SessionKind::WebSocket => websocket::write_announcement(goodbye, out),
            SessionKind::EventStream { .. } => {}
        }
    }

    /// Renders the last bytes once no offer is open.
    fn try_finish(&self, state: &mut SessionState) {
        let Phase::Closing(goodbye) = state.phase else { return };
        if state.offers.has_open() || state.is_writing {
            return;
        }
        self.write_goodbye(goodbye, &mut state.control);
        state.phase = Phase::Closed(goodbye);
    }

    fn write_goodbye(&self, goodbye: Goodbye, out: &mut Vec<u8>) {
        match self.kind {
            SessionKind::WebSocket => websocket::write_goodbye(goodbye, out),
            SessionKind::EventStream { is_chunked } => sse::write_goodbye(goodbye, is_chunked, out),
        }
    }

    /// Writes as much of the control bytes as the kernel takes, unless a run is being written.
    fn write_control(&self, state: &mut SessionState) {
        if state.is_writing || state.control.is_empty() {
            return;
        }
        match self.connection.write_now(&[IoSlice::new(&state.control)]) {
            Ok(written) if written == state.control.len() => {
                state.written += written as u64;
                // No memory is kept by an idle session.
                state.control = Vec::new();
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

impl SessionState {
    /// Whether a run that began now would be written into the middle of something else.
    fn is_busy(&self) -> bool {
        self.is_writing || !self.control.is_empty()
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

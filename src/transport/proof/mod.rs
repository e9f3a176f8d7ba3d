//! Owns the proof of a delivery: a state machine from what the socket shows to a verdict, without a socket or a clock.
//!
//! ```text
//! SENDING ────► ALL SENT ──all acked──► ALL ACKED ──EOF──► RECEIVED
//!    │             │                        └── no EOF within t_read ──► FROZEN
//!    │             ├── nothing acked within t_ack ─────────────────────► UNACKED
//!    │             └── acked in part, then nothing within t_read ──────► UNACKED
//!    ├── nothing acked within t_ack ───────────────────────────────────► UNACKED
//!    └── acked in part, then nothing within t_read ────────────────────► FROZEN
//!
//! SENDING, ALL SENT ──EOF──► HALF CLOSED ──all acked──► ACKED
//!                                 └── nothing acked within 200 ms ─────► UNACKED
//!
//! SENDING, ALL SENT ── too slow for the deadline ──────────────────────► SLOW
//! any state ── reset or another error ─────────────────────────────────► LOST
//! ```
//! These are the states if `received` is required. If `written` is, ALL SENT is the end; if `acked` is, ALL ACKED is. Before
//! ALL ACKED, `t_read` is at least `t_ack`.
//!
//! A clean EOF after every byte was acknowledged shows that the process has read the response: closing a socket with unread data
//! sends a reset instead. Every time but the deadline is a time of silence, which starts again with each acknowledgement.

mod throughput;

use std::time::{Duration, Instant};

use crate::model::{Proof, Verdict};
use throughput::Throughput;

/// After an EOF that comes before the acknowledgement, a reset may still follow for this long.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_millis(200);
/// Long enough for a delayed acknowledgement.
const MIN_ACK_TIMEOUT: Duration = Duration::from_millis(250);
/// Short enough for two more waiters within a POST's budget.
const MAX_ACK_TIMEOUT: Duration = Duration::from_secs(1);
/// An acknowledgement makes no event, so the socket is probed after this time, then after twice as long, and so on.
const FIRST_ACK_PROBE: Duration = Duration::from_millis(1);
/// The same where the proof ends with an EOF, which makes an event.
const FIRST_EOF_PROBE: Duration = Duration::from_millis(25);
/// Until everything is acknowledged, probes are at most this far apart, to measure the rate.
const MAX_RATE_PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// Our FIN is sent this long after the last acknowledgement.
const FIN_DELAY: Duration = Duration::from_millis(25);

/// What the socket shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SocketState {
    /// Bytes that our kernel has taken.
    pub(super) sent: usize,
    /// Those of them that the peer's kernel has not acknowledged; `usize::MAX` if that is unknown.
    pub(super) unacked: usize,
    /// The state of the read side.
    pub(super) read: ReadState,
}

/// The state of a socket's read side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadState {
    /// Open, and nothing to read.
    Idle,
    /// There are bytes to read.
    Data,
    /// The peer has sent a TLS `close_notify`, and no FIN yet: whether it has read everything is unknown.
    CloseNotify,
    /// A clean end of stream.
    Eof,
    /// A reset, a timeout or an unreachable host.
    Error,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProofStep {
    /// The proof is over.
    Done(Verdict),
    /// Probe again when the socket becomes readable, at this instant at the latest.
    WaitReadable(Instant),
    /// Probe again at this instant. The socket is readable already, so waiting for that would not wait at all.
    WaitTimer(Instant),
}

/// How long a proof may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProofTimeouts {
    /// How long it may take until anything is acknowledged (`t_ack`).
    pub(super) ack: Duration,
    /// How long it may take from one acknowledgement to the next, and from the last to the EOF (`t_read`).
    pub(super) read: Duration,
    /// When everything has to be acknowledged, judged by the present rate.
    pub(super) taken_by: Instant,
}

impl ProofTimeouts {
    pub(super) fn new(round_trip: Duration, read: Duration, taken_by: Instant) -> Self {
        Self { ack: ack_timeout(round_trip), read, taken_by }
    }
}

/// Four round trips, and a delayed acknowledgement.
fn ack_timeout(round_trip: Duration) -> Duration {
    (4 * round_trip + Duration::from_millis(200)).clamp(MIN_ACK_TIMEOUT, MAX_ACK_TIMEOUT)
}

/// The proof of one delivery.
#[derive(Debug)]
pub(super) struct ProofTracker {
    required: Proof,
    timeouts: ProofTimeouts,
    through_proxy: bool,
    /// How many bytes there are to send.
    total: usize,
    started: Instant,
    throughput: Throughput,
    acked_at: Option<Instant>,
    /// When an EOF was seen before the acknowledgement.
    half_closed_at: Option<Instant>,
}

impl ProofTracker {
    /// Begins with the first write of `total` bytes.
    ///
    /// Some layer 7 proxies always close with a reset. So with `through_proxy` a reset counts as an EOF once every byte is
    /// acknowledged; the proof is the proxy's in any case, because the controller is behind it.
    pub(super) fn new(
        required: Proof,
        timeouts: ProofTimeouts,
        through_proxy: bool,
        total: usize,
        now: Instant,
    ) -> Self {
        Self {
            required,
            timeouts,
            through_proxy,
            total,
            started: now,
            throughput: Throughput::new(now),
            acked_at: None,
            half_closed_at: None,
        }
    }

    /// Extends the timeout of the first acknowledgement if the round trip has become longer, as queues on the way fill.
    pub(super) fn update_round_trip(&mut self, round_trip: Duration) {
        self.timeouts.ack = self.timeouts.ack.max(ack_timeout(round_trip));
    }

    /// Advances by one probe of the socket.
    pub(super) fn observe(&mut self, state: SocketState, now: Instant) -> ProofStep {
        let all_sent = state.sent == self.total;
        if all_sent && self.required == Proof::Written {
            return ProofStep::Done(Verdict::Written);
        }
        let all_acked = all_sent && state.unacked == 0;
        // Where acknowledgements are unknown, the bytes that our kernel has taken count instead.
        let unacked = if state.unacked == usize::MAX { 0 } else { state.unacked };
        let acked = state.sent.saturating_sub(unacked);
        self.throughput.update(acked, now);
        if all_acked {
            self.acked_at.get_or_insert(now);
        }
        match state.read {
            ReadState::Error if self.through_proxy && all_acked => return ProofStep::Done(Verdict::Received),
            ReadState::Error => return ProofStep::Done(Verdict::Lost),
            ReadState::Eof if all_acked && self.half_closed_at.is_none() => {
                return ProofStep::Done(Verdict::Received);
            }
            ReadState::Eof if all_acked => return ProofStep::Done(Verdict::Acked),
            ReadState::Eof => {
                let half_closed_at = *self.half_closed_at.get_or_insert(now);
                let until = half_closed_at.max(self.throughput.last_progress()) + HALF_CLOSED_TIMEOUT;
                return if now >= until {
                    ProofStep::Done(Verdict::Unacked)
                } else {
                    ProofStep::WaitTimer(self.next_probe(now, until))
                };
            }
            ReadState::Idle | ReadState::CloseNotify | ReadState::Data => {}
        }
        if all_acked && self.required != Proof::Received {
            return ProofStep::Done(Verdict::Acked);
        }
        let done = if self.required == Proof::Written { state.sent } else { acked };
        if !all_acked && self.throughput.is_too_slow(self.total - done, now, self.timeouts.taken_by) {
            return ProofStep::Done(Verdict::Slow);
        }
        let (until, verdict) = self.silence_timeout(state);
        match state.read {
            _ if now >= until => ProofStep::Done(verdict),
            ReadState::Data => ProofStep::WaitTimer(self.next_probe(now, until)),
            ReadState::Idle | ReadState::CloseNotify | ReadState::Eof | ReadState::Error => {
                ProofStep::WaitReadable(self.next_probe(now, until))
            }
        }
    }

    /// Whether every byte was acknowledged at some probe. Still true after a reset, which drops what the socket knows of it.
    pub(super) fn is_acked(&self) -> bool {
        self.acked_at.is_some()
    }

    /// Whether our FIN is due. Some clients read until EOF, whatever `content-length` is. The others have mostly closed
    /// their side by then. It is not sent at once because of proxies that always close with a reset: after our FIN they
    /// close like a client that has read the run.
    pub(super) fn needs_our_fin(&self, now: Instant) -> bool {
        self.required == Proof::Received && self.acked_at.is_some_and(|acked| now >= acked + FIN_DELAY)
    }

    /// The verdict if the offer's deadline ends the proof.
    pub(super) fn verdict_at_deadline(&self) -> Verdict {
        match self.acked_at {
            Some(_) => Verdict::Frozen,
            None if self.throughput.has_progress() => Verdict::Slow,
            None => Verdict::Unacked,
        }
    }

    /// Until when nothing has to happen, and the verdict if nothing does.
    fn silence_timeout(&self, state: SocketState) -> (Instant, Verdict) {
        let ProofTimeouts { ack, read, .. } = self.timeouts;
        let last_progress = self.throughput.last_progress();
        match self.acked_at {
            Some(acked) => (acked + read, Verdict::Frozen),
            None if !self.throughput.has_progress() => (last_progress + ack, Verdict::Unacked),
            // The peer's kernel took a part and then no more, so its process pauses or does not read.
            None if state.sent < self.total => (last_progress + read.max(ack), Verdict::Frozen),
            None => (last_progress + read.max(ack), Verdict::Unacked),
        }
    }

    /// When to probe again, `until` at the latest.
    fn next_probe(&self, now: Instant, until: Instant) -> Instant {
        let first = if self.required == Proof::Received && self.half_closed_at.is_none() {
            FIRST_EOF_PROBE
        } else {
            FIRST_ACK_PROBE
        };
        let elapsed = now.saturating_duration_since(self.half_closed_at.unwrap_or(self.started));
        let wait = elapsed.max(first);
        let wait = if self.acked_at.is_none() { wait.min(MAX_RATE_PROBE_INTERVAL) } else { wait };
        let next = (now + wait).min(until);
        let our_fin = self.acked_at.map(|acked| acked + FIN_DELAY);
        our_fin.filter(|&due| due > now).map_or(next, |due| next.min(due))
    }
}

#[cfg(test)]
mod tests;

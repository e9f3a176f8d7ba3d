//! Owns the proof of a delivery: a state machine from what the socket shows to a verdict. No socket, no clock.
//!
//! ```text
//!                 end, all acked                      ┌────► RECEIVED
//! writing ──┬─────────────────────────────────────────┘
//!           ├── end, bytes unacked ── 200 ms ─► reset: LOST · acked: ACKED (half-closed) · neither: UNACKED
//!           ├── reset or error ───────────────► LOST
//!           ├── nothing is acked for t_ack ───► UNACKED
//!           ├── a part is taken, then nothing more for t_fin ► FROZEN
//!           ├── too slow for the budget ──────► SLOW
//!           └── all acked, then t_fin passes ─► FROZEN
//! ```
//! A clean end with every byte acknowledged means that the process read the answer: a socket closed with unread data
//! ends with a reset instead. All times are times of silence: whatever is acknowledged starts them again.

mod pace;

use std::time::{Duration, Instant};

use crate::model::{Proof, Verdict};
use pace::Pace;

/// An end that came before the acknowledgement may yet turn out to be a reset.
const HALF_CLOSED: Duration = Duration::from_millis(200);
/// A delayed acknowledgement comes within the one; with the other, two more waiters fit into a POST's budget.
const SHORTEST_ACK: Duration = Duration::from_millis(250);
const LONGEST_ACK: Duration = Duration::from_secs(1);
/// Without an event the socket is looked at again after this time, then after twice as long, and so on. An
/// acknowledgement makes no event; an end does.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const FIRST_LOOK_FOR_AN_END: Duration = Duration::from_millis(25);
const LOOK_AT_PACE: Duration = Duration::from_millis(50);

/// What the socket shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SocketState {
    /// Bytes that the kernel has taken.
    pub(super) sent: usize,
    /// Those of them that the peer has not acknowledged.
    pub(super) unacked: usize,
    /// How the read side stands.
    pub(super) read: ReadState,
}

/// How the read side stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadState {
    /// Nothing to read.
    Idle,
    /// The peer sent bytes of its own.
    Data,
    /// The peer said in TLS that it ends; its socket has not ended yet, so what it has read is not known yet.
    CloseNotify,
    /// A clean end of stream.
    Eof,
    /// A reset, a timeout or an unreachable host.
    Error,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The verdict is in.
    Done(Verdict),
    /// Look again at this moment, and before it if the socket becomes readable.
    WaitReadable(Instant),
    /// Look again at this moment; the socket is readable already, so that would be no news.
    WaitTimer(Instant),
}

/// How long a proof may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProofTimeouts {
    /// Until anything is acknowledged.
    pub(super) ack: Duration,
    /// From one acknowledgement to the next, and from the last to the end.
    pub(super) read: Duration,
    /// By then everything has to be taken, at the speed of the moment.
    pub(super) taken_by: Instant,
}

impl ProofTimeouts {
    /// Four round trips and a delayed acknowledgement must fit.
    pub(super) fn new(round_trip: Duration, fin: Duration, taken_by: Instant) -> Self {
        Self { ack: ack_time(round_trip), read: fin, taken_by }
    }
}

fn ack_time(round_trip: Duration) -> Duration {
    (4 * round_trip + Duration::from_millis(200)).clamp(SHORTEST_ACK, LONGEST_ACK)
}

/// One delivery, from its first byte on.
#[derive(Debug)]
pub(super) struct ProofTracker {
    wanted: Proof,
    timeouts: ProofTimeouts,
    hop: bool,
    /// How many bytes there are to send.
    whole: usize,
    begun: Instant,
    pace: Pace,
    acked: Option<Instant>,
    closed: Option<Instant>,
}

impl ProofTracker {
    /// Begins with the first write of `whole` bytes. A `hop` is a proxy: some end every connection with a reset, so any
    /// end will do once every byte is acknowledged. It proves no less than a clean one, as the controller is beyond.
    pub(super) fn new(wanted: Proof, patience: ProofTimeouts, hop: bool, whole: usize, now: Instant) -> Self {
        Self {
            wanted,
            timeouts: patience,
            hop,
            whole,
            begun: now,
            pace: Pace::new(now),
            acked: None,
            closed: None,
        }
    }

    /// The way to the peer may become longer while much is on it.
    pub(super) fn set_round_trip(&mut self, round_trip: Duration) {
        self.timeouts.ack = self.timeouts.ack.max(ack_time(round_trip));
    }

    /// Takes a look into account.
    pub(super) fn observe(&mut self, sight: SocketState, now: Instant) -> Step {
        let all_sent = sight.sent == self.whole;
        if all_sent && self.wanted == Proof::Written {
            return Step::Done(Verdict::Written);
        }
        let all_acked = all_sent && sight.unacked == 0;
        // Where acknowledgements cannot be known, what the kernel takes has to do.
        let unacked = if sight.unacked == usize::MAX { 0 } else { sight.unacked };
        let taken = sight.sent.saturating_sub(unacked);
        self.pace.observe(taken, now);
        if all_acked {
            self.acked.get_or_insert(now);
        }
        match sight.read {
            ReadState::Error if self.hop && all_acked => return Step::Done(Verdict::Received),
            ReadState::Error => return Step::Done(Verdict::Lost),
            ReadState::Eof if all_acked && self.closed.is_none() => return Step::Done(Verdict::Received),
            ReadState::Eof if all_acked => return Step::Done(Verdict::Acked),
            ReadState::Eof => {
                let closed = *self.closed.get_or_insert(now);
                let until = closed.max(self.pace.since()) + HALF_CLOSED;
                return if now >= until {
                    Step::Done(Verdict::Unacked)
                } else {
                    Step::WaitTimer(self.next(now, until))
                };
            }
            ReadState::Idle | ReadState::CloseNotify | ReadState::Data => {}
        }
        if all_acked && self.wanted != Proof::Received {
            return Step::Done(Verdict::Acked);
        }
        let rest = self.whole - if self.wanted == Proof::Written { sight.sent } else { taken };
        if !all_acked && self.pace.is_too_slow(rest, now, self.timeouts.taken_by) {
            return Step::Done(Verdict::Slow);
        }
        let (until, verdict) = self.silence(sight);
        match sight.read {
            _ if now >= until => Step::Done(verdict),
            ReadState::Data => Step::WaitTimer(self.next(now, until)),
            ReadState::Idle | ReadState::CloseNotify | ReadState::Eof | ReadState::Error => {
                Step::WaitReadable(self.next(now, until))
            }
        }
    }

    /// Whether every byte was seen acknowledged. It can be asked after a reset: one does not take acknowledgements for what
    /// it left behind.
    pub(super) fn is_acked(&self) -> bool {
        self.acked.is_some()
    }

    /// Until when nothing more has to happen, and what it means if nothing does.
    fn silence(&self, sight: SocketState) -> (Instant, Verdict) {
        let ProofTimeouts { ack, read: fin, .. } = self.timeouts;
        match self.acked {
            Some(acked) => (acked + fin, Verdict::Frozen),
            None if !self.pace.has_begun() => (self.pace.since() + ack, Verdict::Unacked),
            // Its kernel took some and then no more: the process pauses, or does not read.
            None if sight.sent < self.whole => (self.pace.since() + fin.max(ack), Verdict::Frozen),
            None => (self.pace.since() + fin.max(ack), Verdict::Unacked),
        }
    }

    /// Whether our side of the connection should end by now. Some clients read to its end, whatever length was announced;
    /// those that do not have mostly ended theirs by then. Not at once, because a proxy that ends every connection with a
    /// reset ends one that has ended already like a client that has read the run.
    pub(super) fn needs_our_fin(&self, now: Instant) -> bool {
        self.wanted == Proof::Received && self.acked.is_some_and(|acked| now >= acked + FIRST_LOOK_FOR_AN_END)
    }

    /// The verdict when no time is left at all.
    pub(super) fn verdict_at_timeout(&self) -> Verdict {
        match self.acked {
            Some(_) => Verdict::Frozen,
            None if self.pace.has_begun() => Verdict::Slow,
            None => Verdict::Unacked,
        }
    }

    fn next(&self, now: Instant, until: Instant) -> Instant {
        let first = if self.wanted == Proof::Received && self.closed.is_none() {
            FIRST_LOOK_FOR_AN_END
        } else {
            FIRST_LOOK
        };
        let since = now.saturating_duration_since(self.closed.unwrap_or(self.begun));
        let wait = since.max(first);
        // As long as something is on its way, its speed has to be seen.
        let wait = if self.acked.is_none() { wait.min(LOOK_AT_PACE) } else { wait };
        let next = (now + wait).min(until);
        // Our end is due before the next look, if it still is.
        let our_end = self.acked.map(|acked| acked + FIRST_LOOK_FOR_AN_END);
        our_end.filter(|&end| end > now).map_or(next, |end| next.min(end))
    }
}

#[cfg(test)]
mod tests;

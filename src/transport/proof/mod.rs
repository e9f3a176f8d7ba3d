//! Owns the proof of a delivery: a state machine from what the socket shows to a verdict. No socket, no clock.
//!
//! ```text
//!                 end, all acked                      ┌────► RECEIVED
//! written ──┬─────────────────────────────────────────┘
//!           ├── end, bytes unacked ── 200 ms ─► reset: LOST · acked: ACKED (half-closed) · neither: UNACKED
//!           ├── reset or error ───────────────► LOST
//!           ├── t_ack without an ack, bytes unacked ► UNACKED
//!           └── acked, then t_fin passes ─────► FROZEN
//! ```
//! A clean end with every byte acknowledged means that the process read the answer: a socket closed with unread data
//! ends with a reset instead.

use std::time::{Duration, Instant};

use crate::metrics::{Proof, Verdict};

/// An end that came before the acknowledgement may yet turn out to be a reset.
const HALF_CLOSED: Duration = Duration::from_millis(200);
/// A delayed acknowledgement comes within the one; with the other, two more waiters fit into a POST's budget.
const SHORTEST_ACK: Duration = Duration::from_millis(250);
const LONGEST_ACK: Duration = Duration::from_secs(1);
/// Without an event the socket is looked at again after this time, then after twice as long, and so on. An
/// acknowledgement makes no event; an end does.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const FIRST_LOOK_FOR_AN_END: Duration = Duration::from_millis(25);

/// What the socket shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sight {
    /// Bytes written and not acknowledged.
    pub(super) unacked: usize,
    /// How the read side stands.
    pub(super) end: End,
}

/// How the read side stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing to read.
    Open,
    /// The peer sent bytes of its own.
    Talking,
    /// The peer said in TLS that it ends; its socket has not ended yet, so what it has read is not known yet.
    Leaving,
    /// A clean end of stream.
    Closed,
    /// A reset, a timeout or an unreachable host.
    Broken,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The verdict is in.
    Done(Verdict),
    /// Look again at this moment, and before it if the socket becomes readable.
    LookAgain(Instant),
    /// Look again at this moment; the socket is readable already, so that would be no news.
    LookLater(Instant),
}

/// How long a proof may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// From one acknowledgement to the next, the write being the first.
    pub(super) ack: Duration,
    /// From the last acknowledgement to the end.
    pub(super) fin: Duration,
}

impl Patience {
    /// Four round trips and a delayed acknowledgement must fit.
    pub(super) fn new(round_trip: Duration, fin: Duration) -> Self {
        let ack = (4 * round_trip + Duration::from_millis(200)).clamp(SHORTEST_ACK, LONGEST_ACK);
        Self { ack, fin }
    }
}

/// One delivery whose every byte was written.
#[derive(Debug)]
pub(super) struct Proving {
    wanted: Proof,
    patience: Patience,
    hop: bool,
    written: Instant,
    /// The fewest bytes seen unacknowledged, and since when: a slow link that makes progress is not silent.
    unacked: (usize, Instant),
    acked: Option<Instant>,
    closed: Option<Instant>,
}

impl Proving {
    /// Begins when the last byte was written. A `hop` is a proxy: some end every connection with a reset, so any end
    /// will do once every byte is acknowledged. It proves no less than a clean one, as the controller is beyond.
    pub(super) fn new(wanted: Proof, patience: Patience, hop: bool, now: Instant) -> Self {
        Self { wanted, patience, hop, written: now, unacked: (usize::MAX, now), acked: None, closed: None }
    }

    /// Takes a look into account.
    pub(super) fn see(&mut self, sight: Sight, now: Instant) -> Step {
        let all_acked = sight.unacked == 0;
        if sight.unacked < self.unacked.0 {
            self.unacked = (sight.unacked, now);
        }
        if all_acked {
            self.acked.get_or_insert(now);
        }
        match sight.end {
            End::Broken if self.hop && all_acked => return Step::Done(Verdict::Received),
            End::Broken => return Step::Done(Verdict::Lost),
            End::Closed if all_acked && self.closed.is_none() => return Step::Done(Verdict::Received),
            End::Closed if all_acked => return Step::Done(Verdict::Acked),
            End::Closed => {
                let until = *self.closed.get_or_insert(now) + HALF_CLOSED;
                return if now >= until {
                    Step::Done(Verdict::Unacked)
                } else {
                    Step::LookLater(self.next(now, until))
                };
            }
            End::Open | End::Leaving | End::Talking => {}
        }
        if all_acked && self.wanted != Proof::Received {
            return Step::Done(Verdict::Acked);
        }
        let silent = (self.unacked.1 + self.patience.ack).min(self.written + LONGEST_ACK);
        let frozen = self.acked.map(|acked| (acked + self.patience.fin, Verdict::Frozen));
        let (until, verdict) = frozen.unwrap_or((silent, Verdict::Unacked));
        match sight.end {
            _ if now >= until => Step::Done(verdict),
            End::Talking => Step::LookLater(self.next(now, until)),
            End::Open | End::Leaving | End::Closed | End::Broken => Step::LookAgain(self.next(now, until)),
        }
    }

    /// Whether every byte was seen acknowledged. It can be asked after a reset: one does not take acknowledgements for what
    /// it left behind.
    pub(super) fn is_acked(&self) -> bool {
        self.acked.is_some()
    }

    /// The verdict when no time is left at all.
    pub(super) fn out_of_time(&self) -> Verdict {
        if self.acked.is_some() { Verdict::Frozen } else { Verdict::Unacked }
    }

    fn next(&self, now: Instant, until: Instant) -> Instant {
        let first = if self.wanted == Proof::Received && self.closed.is_none() {
            FIRST_LOOK_FOR_AN_END
        } else {
            FIRST_LOOK
        };
        let since = now.saturating_duration_since(self.closed.unwrap_or(self.written));
        (now + since.max(first)).min(until)
    }
}

#[cfg(test)]
mod tests;

//! Owns what follows an offer: whether its verdict is a delivery, and whether another waiter may get the run.
//!
//! It is pure, without clock or socket: the dispatcher drives it with real verdicts, `tests/simulation.rs` with simulated ones.

use std::time::Duration;

use crate::model::{MissReason, Proof, Verdict};

/// How many more offers may follow the first one that was sent and not proved.
pub const MAX_REDELIVERIES: u32 = 2;

/// How long an acknowledgement takes at most, as a rule.
const USUAL_ACK: Duration = Duration::from_millis(250);

/// The rules for the offers of one POST, and the results of its offers so far.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryPolicy {
    proof: Proof,
    redeliver: bool,
    unproven: u32,
    /// Another broker did not answer, so that the run may be delivered whatever follows.
    is_silent: bool,
}

/// How one offer ended.
#[derive(Debug, Clone, Copy)]
pub struct OfferEnd {
    /// What is known of the delivery.
    pub verdict: Verdict,
    /// No byte was sent.
    pub nothing_sent: bool,
    /// The connection was reset, but a proxy in between may have passed the run on before.
    pub may_have_been_relayed: bool,
}

/// What follows an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The run is delivered, as this proves.
    Delivered(Proof),
    /// The next waiter is offered the run.
    OfferAgain,
    /// The run is not offered again, for this reason.
    GiveUp(MissReason),
}

impl DeliveryPolicy {
    /// The rules of a POST that asks for this `proof`. With `redeliver`, a second waiter may get the run although a
    /// first one may have it already.
    pub fn new(proof: Proof, redeliver: bool) -> Self {
        Self { proof, redeliver, unproven: 0, is_silent: false }
    }

    /// The same rules at the broker that a run is forwarded to, after this many offers that were sent and not proved.
    #[must_use]
    pub fn resumed(self, unproven: u32) -> Self {
        Self { unproven, ..self }
    }

    /// The weakest proof that counts as a delivery.
    pub fn proof(&self) -> Proof {
        self.proof
    }

    /// Whether another waiter may get the run although one may have it already.
    pub fn redelivers(&self) -> bool {
        self.redeliver
    }

    /// How many offers were sent and not proved.
    pub fn unproven(&self) -> u32 {
        self.unproven
    }

    /// Another broker has offered the run in vain; this many offers of the whole POST were sent and not proved.
    pub fn after_miss(&mut self, unproven: u32) -> Step {
        self.unproven = unproven.max(self.unproven);
        if self.unproven > MAX_REDELIVERIES { Step::GiveUp(self.unproven_reason()) } else { Step::OfferAgain }
    }

    /// Whether an offer was sent before and not proved, so that the next one is a redelivery.
    pub fn is_redelivering(&self) -> bool {
        self.unproven > 0
    }

    /// What follows an offer that has ended like this.
    pub fn after(&mut self, end: OfferEnd) -> Step {
        let OfferEnd { verdict, nothing_sent, may_have_been_relayed } = end;
        if let Some(proof) = verdict.proof().filter(|&proof| proof >= self.proof) {
            return Step::Delivered(proof);
        }
        if !nothing_sent && (!self.redeliver || may_have_been_relayed) {
            return Step::GiveUp(MissReason::Unknown);
        }
        self.unproven += u32::from(verdict.is_attempt());
        self.is_silent |= verdict == Verdict::Silent;
        if self.unproven > MAX_REDELIVERIES { Step::GiveUp(self.unproven_reason()) } else { Step::OfferAgain }
    }

    /// Why a run misses that was offered, and that no waiter can be offered any more.
    pub fn unproven_reason(&self) -> MissReason {
        if self.is_silent { MissReason::Unknown } else { MissReason::Undelivered }
    }

    /// How much of the budget must be left when an offer begins: the time for its proof, at most half of the whole budget.
    /// An offer that began later could use up a waiter without proving anything. `read_timeout` is how long an acknowledged
    /// run may stay unread.
    pub fn proof_reserve(&self, read_timeout: Duration, budget: Duration) -> Duration {
        let needed = match self.proof {
            Proof::Written => Duration::ZERO,
            Proof::Acked => USUAL_ACK,
            Proof::Received | Proof::Hop => USUAL_ACK + read_timeout,
        };
        needed.min(budget / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNACKED: OfferEnd =
        OfferEnd { verdict: Verdict::Unacked, nothing_sent: false, may_have_been_relayed: false };
    const GONE: OfferEnd =
        OfferEnd { verdict: Verdict::Gone, nothing_sent: true, may_have_been_relayed: false };

    #[test]
    fn a_run_that_may_be_read_goes_to_no_other_waiter_without_redelivery() {
        let mut policy = DeliveryPolicy::new(Proof::Received, false);
        assert_eq!(policy.after(GONE), Step::OfferAgain);
        assert_eq!(policy.after(UNACKED), Step::GiveUp(MissReason::Unknown));
    }

    #[test]
    fn redeliveries_are_bounded_and_a_waiter_that_was_gone_is_none() {
        let mut policy = DeliveryPolicy::new(Proof::Received, true);
        for _ in 0..MAX_REDELIVERIES {
            assert_eq!((policy.after(GONE), policy.after(UNACKED)), (Step::OfferAgain, Step::OfferAgain));
            assert!(policy.is_redelivering());
        }
        assert_eq!(policy.after(UNACKED), Step::GiveUp(MissReason::Undelivered));
    }

    #[test]
    fn a_run_that_a_proxy_may_have_passed_on_is_never_redelivered() {
        let mut policy = DeliveryPolicy::new(Proof::Received, true);
        let end = OfferEnd { verdict: Verdict::Lost, nothing_sent: false, may_have_been_relayed: true };
        assert_eq!(policy.after(end), Step::GiveUp(MissReason::Unknown));
    }

    #[test]
    fn a_stale_forward_sent_nothing_and_a_silent_one_may_have_delivered_the_run() {
        let stale = OfferEnd { verdict: Verdict::Stale, nothing_sent: true, may_have_been_relayed: false };
        let silent = OfferEnd { verdict: Verdict::Silent, nothing_sent: false, may_have_been_relayed: false };
        let mut once = DeliveryPolicy::new(Proof::Received, false);
        assert_eq!(once.after(stale), Step::OfferAgain);
        assert_eq!(once.unproven_reason(), MissReason::Undelivered);
        assert_eq!(once.after(silent), Step::GiveUp(MissReason::Unknown));

        let mut again = DeliveryPolicy::new(Proof::Received, true);
        assert_eq!((again.after(stale), again.is_redelivering()), (Step::OfferAgain, false));
        assert_eq!((again.after(silent), again.is_redelivering()), (Step::OfferAgain, true));
        assert_eq!(again.after(UNACKED), Step::OfferAgain);
        assert_eq!(again.after(UNACKED), Step::GiveUp(MissReason::Unknown), "one of them was silent");
        assert_eq!(again.unproven_reason(), MissReason::Unknown);
    }

    #[test]
    fn a_weaker_proof_than_asked_for_is_no_delivery() {
        let acked = OfferEnd { verdict: Verdict::Acked, nothing_sent: false, may_have_been_relayed: false };
        assert_eq!(DeliveryPolicy::new(Proof::Acked, false).after(acked), Step::Delivered(Proof::Acked));
        assert_eq!(
            DeliveryPolicy::new(Proof::Received, false).after(acked),
            Step::GiveUp(MissReason::Unknown)
        );
    }

    #[test]
    fn the_reserve_is_the_time_of_the_proof_and_at_most_half_of_the_budget() {
        let reserve = |proof, budget| {
            DeliveryPolicy::new(proof, true)
                .proof_reserve(Duration::from_millis(500), Duration::from_millis(budget))
        };
        assert_eq!(reserve(Proof::Written, 2000), Duration::ZERO);
        assert_eq!(reserve(Proof::Acked, 2000), Duration::from_millis(250));
        assert_eq!(reserve(Proof::Received, 2000), Duration::from_millis(750));
        assert_eq!(reserve(Proof::Received, 1000), Duration::from_millis(500));
    }
}

//! Owns the rules of one forward: how long its origin waits for the two answers, and when its owner finds it too old. It is pure.
//!
//! ```text
//! origin: sent ── first answer ──► claimed ── verdict ──► ended
//!           │ silence                 │ silence
//!           └──────────────┬──────────┘
//!                          ▼
//!                  an unproven offer: the run may be delivered
//! ```
//! An owner whose verdict comes soon sends it without `claimed` before.

use std::time::Duration;

use super::codec::{Answer, Forward, Forwarded, KNOWN_FEATURES, NotTaken};
use crate::dispatch::DeliveryPolicy;

/// An owner answers `claimed` if it has no verdict after this time.
pub const VERDICT_SOON: Duration = Duration::from_millis(10);
/// A longer payload is sent when a waiter is claimed, in bytes.
pub const MAX_EARLY_PAYLOAD: usize = 64 * 1024;
/// The payload must arrive this soon after a waiter was claimed; else the waiter is gone.
pub const PAYLOAD_WITHIN: Duration = Duration::from_millis(100);
/// The bounds of the wait for the first answer.
const FIRST_ANSWER: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

/// How long to wait for the first answer of an owner that is this far away.
pub fn first_answer_within(round_trip: Duration) -> Duration {
    let [least, most] = FIRST_ANSWER;
    (4 * round_trip + Duration::from_millis(50)).clamp(least, most)
}

/// The time that an owner has for a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLeft {
    /// For the claim of the first waiter: later the origin has given up.
    pub claim: Duration,
    /// For the verdict.
    pub verdict: Duration,
}

/// The time that an owner has left for the forward, whose message is this old; an error if it must not claim a waiter. `age` is
/// none if the owner knows nothing of the sender's clock.
pub fn time_left(
    forward: &Forward<'_>,
    policy: &DeliveryPolicy,
    age: Option<Duration>,
) -> Result<TimeLeft, NotTaken> {
    if forward.features & !KNOWN_FEATURES != 0 {
        return Err(NotTaken::Unsupported);
    }
    let age = age.ok_or(NotTaken::Stale)?;
    let budget = Duration::from_micros(forward.budget);
    let reserve = policy.proof_reserve(Duration::from_micros(forward.read_timeout), budget);
    let verdict = budget.saturating_sub(age);
    let claim = Duration::from_micros(forward.answer_within).saturating_sub(age);
    let has_time = !claim.is_zero() && !verdict.is_zero() && verdict >= reserve;
    if has_time { Ok(TimeLeft { claim, verdict }) } else { Err(NotTaken::Stale) }
}

/// The origin's view of one forward.
#[derive(Debug)]
pub struct OriginForward {
    /// The rest of the time for the verdict, counted from the sending.
    verdict_within: Duration,
    is_payload_later: bool,
    is_claimed: bool,
}

/// What an origin does next.
#[derive(Debug, PartialEq)]
pub enum OriginStep<'a> {
    /// It sends the payload, if `sends_payload`, and waits for the verdict until this long after the sending of the forward.
    Wait {
        /// Whether the payload is sent now.
        sends_payload: bool,
        /// The time since the forward was sent.
        until: Duration,
    },
    /// The forward has ended.
    Ended(OriginEnd<'a>),
}

/// How a forward ended for its origin.
#[derive(Debug, PartialEq)]
pub enum OriginEnd<'a> {
    /// With a verdict, or a miss.
    Forwarded(Forwarded<'a>),
    /// Nothing was claimed.
    NotTaken(NotTaken),
    /// NATS knows no receiver.
    NoReceiver,
    /// No answer came in time: the run may be delivered.
    Silent,
}

impl OriginForward {
    /// A forward that was just sent. Its verdict is waited for this long.
    pub fn new(verdict_within: Duration, is_payload_later: bool) -> Self {
        Self { verdict_within, is_payload_later, is_claimed: false }
    }

    /// An answer has arrived.
    pub fn answered<'a>(&mut self, answer: Answer<'a>) -> OriginStep<'a> {
        match answer {
            Answer::Claimed => {
                let sends_payload = self.is_payload_later && !self.is_claimed;
                self.is_claimed = true;
                OriginStep::Wait { sends_payload, until: self.verdict_within }
            }
            Answer::Forwarded(forwarded) => OriginStep::Ended(OriginEnd::Forwarded(forwarded)),
            Answer::NotTaken(why) => OriginStep::Ended(OriginEnd::NotTaken(why)),
            // No owner answers a forward with these.
            Answer::Earlier(_) | Answer::Page { .. } => OriginStep::Ended(OriginEnd::Silent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::digest::Digest;
    use crate::model::Proof;

    #[test]
    fn an_owner_has_what_the_age_of_a_forward_leaves_for_the_claim_and_for_the_verdict() {
        let millis = Duration::from_millis;
        let forward = Forward {
            from: 1,
            sent: 0,
            features: 0,
            run: "run_1",
            pool: Digest::new([0; 16]),
            deployment: "deployment_1",
            version: "v1",
            cpu: 0.5,
            memory: 0.5,
            payload_kind: 0,
            content_type: b"",
            payload_bytes: 0,
            is_payload_later: false,
            proof: 0,
            redeliver: false,
            unproven: 0,
            answer_within: 100_000,
            budget: 1_000_000,
            read_timeout: 500_000,
            remember_for: 0,
            idempotency_key: None,
            content: None,
            names_controller: false,
        };
        let policy = DeliveryPolicy::new(Proof::Received, false);
        let left = |age| time_left(&forward, &policy, age);
        assert_eq!(left(Some(millis(30))), Ok(TimeLeft { claim: millis(70), verdict: millis(970) }));
        assert_eq!(left(Some(millis(100))), Err(NotTaken::Stale), "its origin has given up");
        assert_eq!(left(None), Err(NotTaken::Stale), "its age is not known");
        let short = Forward { budget: 400_000, read_timeout: 0, ..forward };
        let short = Forward { answer_within: 400_000, ..short };
        assert!(time_left(&short, &policy, Some(millis(199))).is_ok());
        assert_eq!(
            time_left(&short, &policy, Some(millis(201))),
            Err(NotTaken::Stale),
            "no proof comes in time"
        );
    }
}

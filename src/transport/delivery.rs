//! Owns what a delivery is: the run, the proof that is required and its deadlines, and the result.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::reply_target::ReplyTarget;
use super::run_fields::RunFields;
use crate::model::{Proof, Verdict};

/// A run to deliver.
#[derive(Debug, Clone)]
pub struct Run {
    /// The name that the supervisor or the broker gave it; printable ASCII.
    pub id: Bytes,
    /// The payload's media type, as a header value.
    pub content_type: Bytes,
    /// The bytes to relay, unchanged.
    pub payload: Bytes,
    /// Where its worker posts the reply, if one is awaited.
    pub reply: Option<Arc<ReplyTarget>>,
    /// What else its worker is told, if it waits with a long poll.
    pub fields: Option<RunFields>,
}

/// The proof that an offer has to reach, and its deadlines.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryRequirements {
    /// The weakest proof that counts as a delivery.
    pub proof: Proof,
    /// How long an acknowledged run may stay unread.
    pub read_timeout: Duration,
    /// The offer ends early if, at its present rate, the peer would not have taken every byte by then. The time that is
    /// left after it is for the proof, or for another waiter.
    pub taken_by: Instant,
    /// The offer ends by then, whatever is known of it.
    pub until: Instant,
}

/// The result of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// What is known of the delivery.
    pub verdict: Verdict,
    /// No byte was sent, so the run may go to another waiter even where redelivery is forbidden.
    pub nothing_sent: bool,
    /// Every byte was sent, and its acknowledgement was seen.
    pub acked: bool,
    /// The offer ended at its deadline ([`DeliveryRequirements::until`]), not by anything that the peer did or failed to do.
    pub by_budget: bool,
}

impl Delivery {
    /// An offer that ended before any byte was sent.
    pub(super) fn not_sent(verdict: Verdict) -> Self {
        Self { verdict, nothing_sent: true, acked: false, by_budget: false }
    }
}

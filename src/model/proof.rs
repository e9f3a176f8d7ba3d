//! Owns the verdicts on one offer, and the proofs of delivery.

use super::closed_enum;

closed_enum! {
    /// What was proved of a delivery, from the weakest proof to the strongest; a proxy's receipt counts as one.
    Proof {
        /// The kernel took every byte.
        Written = "written",
        /// The peer's kernel acknowledged every byte.
        Acked = "acked",
        /// The process read every byte.
        Received = "received",
        /// A proxy in front of the controller has every byte.
        Hop = "hop",
    }
}

closed_enum! {
    /// The result of one offer.
    Verdict {
        /// The kernel took every byte.
        Written = "written",
        /// The peer's kernel acknowledged every byte.
        Acked = "acked",
        /// The process read every byte.
        Received = "received",
        /// A proxy in front of the controller has every byte.
        Hop = "hop",
        /// The waiter's connection had ended before a byte was sent.
        Gone = "gone",
        /// The connection broke.
        Lost = "lost",
        /// The peer did not acknowledge in time.
        Unacked = "unacked",
        /// The peer acknowledged, but did not read in time.
        Frozen = "frozen",
        /// The peer reads, but too slowly for the POST's budget.
        Slow = "slow",
        /// Another broker of the cluster has the waiter, and found the forwarded run too old to offer it; nothing was sent.
        Stale = "stale",
        /// Another broker of the cluster has the waiter, and did not answer; the run may be delivered.
        Silent = "silent",
        /// Another run was still being written to the waiter's connection; nothing was sent.
        Busy = "busy",
    }
}

impl Verdict {
    /// The proof, if the delivery was proved.
    pub const fn proof(self) -> Option<Proof> {
        match self {
            Self::Written => Some(Proof::Written),
            Self::Acked => Some(Proof::Acked),
            Self::Received => Some(Proof::Received),
            Self::Hop => Some(Proof::Hop),
            Self::Gone
            | Self::Lost
            | Self::Unacked
            | Self::Frozen
            | Self::Slow
            | Self::Stale
            | Self::Silent
            | Self::Busy => None,
        }
    }

    /// Whether the run went on its way to a waiter: the next offer after it, if there is one, is a redelivery.
    pub const fn is_attempt(self) -> bool {
        match self {
            Self::Gone | Self::Stale | Self::Busy => false,
            Self::Written
            | Self::Acked
            | Self::Received
            | Self::Hop
            | Self::Lost
            | Self::Unacked
            | Self::Frozen
            | Self::Slow
            | Self::Silent => true,
        }
    }
}

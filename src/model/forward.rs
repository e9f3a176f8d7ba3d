//! Owns how a run that one broker of a cluster forwards to another can end, as each of the two sees it.

use super::closed_enum;

closed_enum! {
    /// How a forward ended for the broker that sent it.
    ForwardOutcome {
        /// A waiter of the other broker has the run.
        Delivered = "delivered",
        /// The other broker offered the run, and no waiter proved that it has the run.
        Undelivered = "undelivered",
        /// A waiter of the other broker may have the run.
        Unknown = "unknown",
        /// The other broker has no waiter for the run any more.
        Miss = "miss",
        /// The run was too old when it reached the other broker, and was not offered.
        Stale = "stale",
        /// The other broker does not know something that the forward requires.
        Unsupported = "unsupported",
        /// The other broker has as many forwards under way as it may.
        Overloaded = "overloaded",
        /// NATS found nobody who receives for the other broker.
        NoResponders = "no_responders",
        /// No answer came in time; the run may be delivered.
        Silent = "silent",
        /// It was not sent: the connection to NATS was down, or its queue was full.
        NotSent = "not_sent",
        /// The run is larger than a message to NATS may be.
        TooLarge = "too_large",
    }
}

closed_enum! {
    /// How a forward ended for the broker that received it.
    TakenOutcome {
        /// A waiter has the run.
        Delivered = "delivered",
        /// The run was offered, and no waiter proved that it has the run.
        Undelivered = "undelivered",
        /// A waiter may have the run.
        Unknown = "unknown",
        /// No waiter fits the run.
        Miss = "miss",
        /// The run was too old when it came, and was not offered.
        Stale = "stale",
        /// The forward requires something that this broker does not know.
        Unsupported = "unsupported",
        /// As many forwards are under way as may be.
        Overloaded = "overloaded",
        /// The message could not be read.
        Malformed = "malformed",
    }
}

//! Owns how a dispatch that asks for a reply can end.

use super::closed_enum;

closed_enum! {
    /// How a dispatch that asks for a reply ended: in exactly one of these.
    ReplyOutcome {
        /// The caller has all of the worker's reply.
        Replied = "replied",
        /// No waiter got the run.
        Miss = "miss",
        /// A waiter may have the run: its proof did not come.
        Unknown = "unknown",
        /// The worker answered that the run failed.
        WorkerError = "worker_error",
        /// The worker has the run, and neither its reply nor its error came in time.
        ReplyTimeout = "reply_timeout",
        /// The worker began a reply, and did not end it as announced.
        ReplyBroken = "reply_broken",
        /// The caller left before the end of the reply.
        Cancelled = "cancelled",
        /// The same run was posted before.
        Duplicate = "duplicate",
        /// A limit of replies, of POSTs or of memory is reached.
        Limited = "limited",
        /// The request could not be used, or is not allowed.
        Refused = "refused",
    }
}

//! Owns why a run can find no waiter.

use super::closed_enum;

closed_enum! {
    /// Why a run found no waiter. The first group comes from the core, the second from the layers around it.
    ///
    /// Brokers of a cluster send each other a reason as its place in this list: a new one goes to the end.
    MissReason {
        /// No controller waits for this deployment.
        NoPool = "no_pool",
        /// The deployment has waiters, but none of this version.
        WrongVersion = "wrong_version",
        /// The version has waiters, but none with this cpu and memory.
        WrongMachine = "wrong_machine",
        /// The pool's last waiter was matched less than a minute ago, or its waiters are too near their deadline.
        AllTaken = "all_taken",
        /// Only stock controllers wait, and the payload is not a message that they accept.
        NotAMessage = "not_a_message",
        /// The broker is draining.
        Draining = "draining",

        /// The run was offered, and no waiter proved that it has the run.
        Undelivered = "undelivered",
        /// One waiter may have the run: its proof did not come, and the run must not be offered again.
        Unknown = "unknown",
        /// Only other brokers of the cluster have waiters for the run, and it is too large to be forwarded to them.
        TooLargeToForward = "too_large_to_forward",
        /// The run names no deployment.
        NoDeployment = "no_deployment",
        /// A limit of POSTs or of memory is reached; the status is 429.
        Overloaded = "overloaded",
        /// The run asks for a reply, and only stock controllers wait: they cannot reply.
        NoProof = "no_proof",
        /// The run asks for a reply, only other brokers of the cluster have waiters, and this broker has no `--advertise` by which
        /// a reply could come back.
        NoReplyRoute = "no_reply_route",
    }
}

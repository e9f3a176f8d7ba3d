//! Owns why a run can find no waiter.

use super::closed_enum;

closed_enum! {
    /// Why a run found no waiter. The first group comes from the core, the second from the layers around it.
    MissReason {
        /// Nobody waits for this deployment.
        NoPool = "no_pool",
        /// The deployment has waiters, none of this version.
        WrongVersion = "wrong_version",
        /// The version has waiters, none of this machine.
        WrongMachine = "wrong_machine",
        /// The pool was emptied moments ago, or its last waiters are about to leave.
        AllTaken = "all_taken",
        /// Only stock controllers wait, and the payload is not their message.
        NotAMessage = "not_a_message",
        /// The broker is ending.
        Draining = "draining",

        /// Waiters were tried, none proved that it has the run.
        Undelivered = "undelivered",
        /// One waiter may have it: its proof did not come, and a second one must not get it.
        Unknown = "unknown",
        /// The run names no deployment.
        NoDeployment = "no_deployment",
        /// The broker sheds load.
        Overloaded = "overloaded",
    }
}

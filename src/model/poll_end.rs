//! Owns how a held poll can end.

use super::closed_enum;

closed_enum! {
    /// How a held poll ended.
    PollEnd {
        /// A run was matched to it.
        Matched = "matched",
        /// The controller closed its connection, or its host died.
        ClientGone = "client_gone",
        /// Its deadline came.
        Expired = "expired",
        /// The broker drains.
        Drained = "drained",
        /// An operator retired its pool.
        Retired = "retired",
        /// The same controller polled again.
        Replaced = "replaced",
        /// It was refused, and never held.
        Refused = "refused",
        /// A run is still being written to its connection; it waits again afterwards.
        SetAside = "set_aside",
    }
}

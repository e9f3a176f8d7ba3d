//! Owns how a held poll can end.

use super::closed_enum;

closed_enum! {
    /// How a held poll ended.
    PollEnd {
        /// A run was matched to it.
        Matched = "matched",
        /// The controller closed its connection, or its machine died.
        ClientGone = "client_gone",
        /// Its time was over.
        Expired = "expired",
        /// The broker said goodbye before ending.
        Drained = "drained",
        /// An operator sent it away for good.
        Retired = "retired",
        /// The same controller polled again.
        Replaced = "replaced",
        /// It was not held at all.
        Refused = "refused",
    }
}

//! Owns how a POST can end.

use super::{MissReason, closed_enum};

/// How a POST ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DispatchOutcome {
    /// A controller has the run.
    Hit,
    /// No controller has it.
    Miss(MissReason),
    /// The POST was invalid.
    Refused,
    /// The supervisor closed its connection before the response.
    Aborted,
}

impl DispatchOutcome {
    /// The outcome without the reason.
    pub const fn kind(self) -> DispatchKind {
        match self {
            Self::Hit => DispatchKind::Hit,
            Self::Miss(_) => DispatchKind::Miss,
            Self::Refused => DispatchKind::Refused,
            Self::Aborted => DispatchKind::Aborted,
        }
    }
}

closed_enum! {
    /// How a POST ended, without the reason.
    DispatchKind {
        /// A controller has the run.
        Hit = "hit",
        /// No controller has it.
        Miss = "miss",
        /// The POST was invalid.
        Refused = "refused",
        /// The supervisor closed its connection before the response.
        Aborted = "aborted",
    }
}

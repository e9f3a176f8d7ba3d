//! Owns how a POST can end.

use super::{MissReason, closed_enum};

/// How a POST ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DispatchOutcome {
    /// A controller has the run.
    Hit,
    /// Nobody has it.
    Miss(MissReason),
    /// The POST was wrong.
    Refused,
    /// The supervisor left before its answer.
    Aborted,
}

impl DispatchOutcome {
    /// Without the reason.
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
        /// Nobody has it.
        Miss = "miss",
        /// The POST was wrong.
        Refused = "refused",
        /// The supervisor left before its answer.
        Aborted = "aborted",
    }
}

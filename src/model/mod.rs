//! Owns the domain's vocabulary: closed enumerations that every layer shares, each value with one fixed text.
//!
//! The texts are a contract: responses, metrics, events and the history contain them.

mod closed_enum;
mod forward;
mod miss_reason;
mod outcome;
mod poll_end;
mod proof;
mod reply_outcome;
mod transport;
mod uuid;

pub(crate) use closed_enum::closed_enum;
pub use forward::{ForwardOutcome, TakenOutcome};
pub use miss_reason::MissReason;
pub use outcome::{DispatchKind, DispatchOutcome};
pub use poll_end::PollEnd;
pub use proof::{Proof, Verdict};
pub use reply_outcome::ReplyOutcome;
pub use transport::Transport;
pub use uuid::random_uuid;

//! Owns replies: a caller waits on its held POST, a worker opens the reply to its run, and writes it down the caller's connection.
//!
//! ```text
//! dispatch ─ begin_offer ─► token ─► worker ─ open ─► OpenReply ─ writes ─► the caller's connection
//! caller ── AwaitedReply ◄──────── ended ────────────────┘
//! ```
//! As with a dispatch, the task that has the bytes writes them: waking the caller's task for each would double the latency. No HTTP.

mod awaited;
mod caller;
mod names;
mod registry;
mod state;
mod token;
mod tokens;
mod worker;

pub use awaited::AwaitedReply;
pub use caller::{Caller, ReplyForm, ResponseStyle};
pub use names::{EarlierReply, NamedRun};
pub use registry::Replies;
pub use state::{OpenError, Reply, ReplyEnd};
pub use token::ReplyToken;
pub use tokens::ForwardedReply;
pub use worker::{OpenReply, ReplyGone};

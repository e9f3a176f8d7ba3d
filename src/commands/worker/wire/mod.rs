//! Owns how a worker waits at a broker: polls bring runs, and each run's reply goes back.

mod body;
mod poller;
mod reply;
mod reply_head;
mod run;

pub(super) use body::WorkerConnection;
pub(super) use poller::{PollOptions, Poller};
pub(super) use reply::{Gone, Reply};
pub(super) use reply_head::ReplyHead;
pub(super) use run::Run;

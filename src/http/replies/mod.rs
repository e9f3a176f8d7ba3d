//! Owns replies over HTTP: what a worker posts becomes the response to its run's caller.

mod caller;
mod head;
mod worker;

pub(super) use caller::{CallerTerms, PendingReply, refuse_reply};
pub(super) use worker::{ReplyRequest, WorkerAnswer, receive};

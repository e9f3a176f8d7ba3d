//! Owns replies over HTTP: what a worker posts becomes the response to its run's caller.

mod answer;
mod caller;
mod caller_response;
mod event_frame;
mod function_error;
#[cfg(fuzzing)]
pub(super) mod fuzz;
mod head;
mod peer;
mod worker;
mod worker_body;

pub(super) use answer::{ReplyRequest, WorkerAnswer};
pub(super) use caller::{CallerTerms, HandedReply, HandedRun, HeldReply, PendingReply, refuse_reply};
pub(super) use worker::{ReceivedReply, receive};

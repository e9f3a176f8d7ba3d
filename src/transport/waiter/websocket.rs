//! Owns what a WebSocket writes: runs, pings, and goodbyes (docs/websocket.md).

use super::goodbye::{Goodbye, retry_in_ms};
use crate::transport::delivery::Run;
use crate::transport::websocket::{
    write_binary_head, write_close, write_drain_message, write_run_message, write_text_head,
};

pub(super) use crate::transport::websocket::{write_ping as write_heartbeat, write_pong};

/// Closed because the broker goes away.
const GOING_AWAY: u16 = 1001;
/// Closed because a limit is reached: the controller may try again later.
const TRY_AGAIN_LATER: u16 = 1013;
/// Closed because the same controller waits on another connection.
const REPLACED: u16 = 4409;
/// Closed because an operator has retired the controller.
const RETIRED: u16 = 4410;
/// Closed as the controller has asked for.
const NORMAL: u16 = 1000;
/// Closed because a message is not understood, or claims what is not.
const POLICY: u16 = 1008;

/// Appends the message that announces a run, and the head of its payload.
pub(super) fn write_run_head(offer: u32, run: &Run, out: &mut Vec<u8>) {
    let reply = run.reply.as_ref().map(|reply| reply.path());
    write_text(out, |out| {
        write_run_message(&run.id, offer, &run.content_type, run.payload.len(), reply, out);
    });
    write_binary_head(run.payload.len(), out);
}

/// Appends what the controller is told at once when its session begins to close.
pub(super) fn write_announcement(goodbye: Goodbye, out: &mut Vec<u8>) {
    if goodbye == Goodbye::Drained {
        write_text(out, |out| write_drain_message(retry_in_ms(), out));
    }
}

/// Appends a text message.
fn write_text(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    write(out);
    // The head says how long the message is, so it is rendered last, and moved to the front.
    let length = out.len() - begin;
    write_text_head(length, out);
    out[begin..].rotate_left(length);
}

/// Appends the close frame.
pub(super) fn write_goodbye(goodbye: Goodbye, out: &mut Vec<u8>) {
    match goodbye {
        Goodbye::Drained => write_close(GOING_AWAY, "the broker drains", out),
        Goodbye::Retired => write_close(RETIRED, "retired by an operator", out),
        Goodbye::Replaced => write_close(REPLACED, "the same controller waits on a newer connection", out),
        Goodbye::Limit(limit) => write_close(TRY_AGAIN_LATER, limit.limit(), out),
        Goodbye::Violation(violation) => write_close(violation.close_code(), &violation.to_string(), out),
        Goodbye::Rejected(rejected) => write_close(POLICY, &rejected.to_string(), out),
        Goodbye::TooManySlots => write_close(POLICY, "more than 256 slots are ready", out),
        Goodbye::UnknownOffer => write_close(POLICY, "ack: no such offer was made on this connection", out),
        Goodbye::Closed(code) => write_close(code.unwrap_or(NORMAL), "", out),
    }
}

//! Owns the WebSocket protocol as bytes: the handshake's key, frames, and the control messages. It uses no socket.

mod frame;
mod handshake;
mod message;

pub(super) use frame::{
    Decoder, Incoming, Input, Violation, write_binary_head, write_close, write_ping, write_pong,
    write_text_head,
};
pub use handshake::accept_key;
pub(super) use message::{ControlMessage, RejectedMessage, write_drain_message, write_run_message};

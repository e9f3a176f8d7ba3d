//! Owns what fuzzers reach: WebSocket frames and control messages, as plain values. It exists with `--cfg fuzzing` only.

use super::websocket::{self, ControlMessage, Decoder, Incoming, Input};

/// What a client has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A whole message.
    Text(String),
    /// With its payload.
    Ping(Vec<u8>),
    /// Without its payload.
    Pong,
    /// With its code. Nothing is read after it.
    Close(Option<u16>),
    /// The code that the connection is closed with, and the reason. Nothing is read after it.
    Violation(u16, String),
}

/// What a controller has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// So many slots.
    Ready(u16),
    /// A run, and its offer.
    Ack(String, Option<u32>),
}

/// What bytes are that come in these pieces, and whether nothing is kept after them.
pub fn read_frames<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Frame>, bool) {
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = Input::from(&mut piece[..]);
        loop {
            seen.push(match decoder.next(&mut input) {
                Ok(None) => break,
                Ok(Some(Incoming::Text(text))) => Frame::Text(text.into_owned()),
                Ok(Some(Incoming::Ping(payload))) => Frame::Ping(payload.into_owned()),
                Ok(Some(Incoming::Pong)) => Frame::Pong,
                Ok(Some(Incoming::Close(code))) => {
                    seen.push(Frame::Close(code));
                    return (seen, false);
                }
                Err(violation) => {
                    seen.push(Frame::Violation(violation.close_code(), violation.to_string()));
                    return (seen, false);
                }
            });
        }
        assert!(input.is_empty(), "the whole input is consumed");
    }
    (seen, decoder.is_empty())
}

/// Parses a control message, or says why it is refused.
pub fn parse_control(text: &str) -> Result<Control, String> {
    match ControlMessage::parse(text) {
        Ok(ControlMessage::Ready(slots)) => Ok(Control::Ready(slots)),
        Ok(ControlMessage::Ack { run, offer }) => Ok(Control::Ack(run.into_owned(), offer)),
        Err(rejected) => Err(rejected.to_string()),
    }
}

/// The frames of a run's announcement and of a close for the same reason, as a server sends them.
pub fn write_frames(run: &[u8], content_type: &[u8], reason: &str) -> Vec<u8> {
    let (mut message, mut out) = (Vec::new(), Vec::new());
    websocket::write_run_message(run, u32::MAX, content_type, usize::MAX, None, &mut message);
    websocket::write_text_head(message.len(), &mut out);
    out.append(&mut message);
    websocket::write_ping(&mut out);
    websocket::write_close(1008, reason, &mut out);
    out
}

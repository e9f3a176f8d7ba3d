//! Owns the control messages of a WebSocket: the JSON of its text frames, in both directions.

use std::borrow::Cow;
use std::io::Write;

use serde::{Deserialize, Serialize};

/// How many slots one message can make ready.
const MAX_SLOTS: u16 = 256;

/// What a controller says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::transport) enum ControlMessage<'a> {
    /// It can take so many more runs, 1 to 256.
    Ready(u16),
    /// It has read a run: of this offer, or of the only one of that run.
    Ack { run: Cow<'a, str>, offer: Option<u32> },
}

/// Why a message is not understood. The text is the reason that the controller is told; it quotes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::transport) enum RejectedMessage {
    #[error("a message that is not a JSON object with a type")]
    Malformed,
    #[error("a message of unknown type")]
    UnknownType,
    #[error("ready: slots is not a number from 1 to 256")]
    Ready,
    #[error("ack: run is not a string, or offer not a number")]
    Ack,
}

#[derive(Deserialize)]
struct Tag<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Ready {
    #[serde(default = "one_slot")]
    slots: u16,
}

#[derive(Deserialize)]
struct Ack<'a> {
    #[serde(borrow)]
    run: Cow<'a, str>,
    offer: Option<u32>,
}

fn one_slot() -> u16 {
    1
}

impl<'a> ControlMessage<'a> {
    /// Parses the text of one message. Fields that its type does not have are ignored.
    pub(in crate::transport) fn parse(text: &'a str) -> Result<Self, RejectedMessage> {
        // Twice, because a type that serde finds among the fields would make it copy all of them.
        let tag: Tag<'_> = serde_json::from_str(text).map_err(|_| RejectedMessage::Malformed)?;
        match &*tag.kind {
            "ready" => match serde_json::from_str(text) {
                Ok(Ready { slots: slots @ 1..=MAX_SLOTS }) => Ok(Self::Ready(slots)),
                Ok(_) | Err(_) => Err(RejectedMessage::Ready),
            },
            "ack" => match serde_json::from_str(text) {
                Ok(Ack { run, offer }) => Ok(Self::Ack { run, offer }),
                Err(_) => Err(RejectedMessage::Ack),
            },
            _ => Err(RejectedMessage::UnknownType),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RunMessage<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    run: Cow<'a, str>,
    offer: u32,
    content_type: Cow<'a, str>,
    size: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DrainMessage {
    #[serde(rename = "type")]
    kind: &'static str,
    retry_in_ms: u64,
}

/// Appends the message before a run's payload of so many bytes. What of its id or content type is not UTF-8 is replaced.
pub(in crate::transport) fn write_run_message(
    run: &[u8],
    offer: u32,
    content_type: &[u8],
    size: usize,
    out: &mut impl Write,
) {
    let [run, content_type] = [run, content_type].map(String::from_utf8_lossy);
    write(&RunMessage { kind: "run", run, offer, content_type, size }, out);
}

/// Appends the message before the close of a broker that drains.
pub(in crate::transport) fn write_drain_message(retry_in_ms: u64, out: &mut impl Write) {
    write(&DrainMessage { kind: "drain", retry_in_ms }, out);
}

fn write(message: &impl Serialize, out: &mut impl Write) {
    let written = serde_json::to_writer(out, message);
    debug_assert!(written.is_ok(), "memory takes every write");
}

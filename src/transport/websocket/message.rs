//! Owns the control messages of a WebSocket: the JSON of its text frames, in both directions.

use std::borrow::Cow;

use serde::Deserialize;

use crate::json;

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

/// A text that is borrowed where that is possible. Serde borrows a `Cow` only where it is not inside of another type.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Every field that a message may have.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default = "one_slot")]
    slots: u16,
    #[serde(borrow)]
    run: Option<Text<'a>>,
    offer: Option<u32>,
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
        // Nearly every message has fields of its own type only, or such as another type could have. Serde would take an array for an
        // object with all of them.
        let fields = text.starts_with('{').then(|| serde_json::from_str(text).ok()).flatten();
        match fields {
            Some(Fields { kind, slots: slots @ 1..=MAX_SLOTS, .. }) if kind == "ready" => {
                Ok(Self::Ready(slots))
            }
            Some(Fields { kind, run: Some(Text(run)), offer, .. }) if kind == "ack" => {
                Ok(Self::Ack { run, offer })
            }
            Some(_) | None => Self::parse_by_type(text),
        }
    }

    /// Parses the type first, and then the fields that it has.
    fn parse_by_type(text: &'a str) -> Result<Self, RejectedMessage> {
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

/// Appends the message before a run's payload of so many bytes. What of its id or content type is not UTF-8 is replaced.
pub(in crate::transport) fn write_run_message(
    run: &[u8],
    offer: u32,
    content_type: &[u8],
    size: usize,
    reply: Option<&str>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"type\":\"run\",\"run\":");
    json::append_text(out, &String::from_utf8_lossy(run));
    out.extend_from_slice(b",\"offer\":");
    json::append_number(out, offer);
    out.extend_from_slice(b",\"contentType\":");
    json::append_text(out, &String::from_utf8_lossy(content_type));
    out.extend_from_slice(b",\"size\":");
    json::append_number(out, size);
    if let Some(reply) = reply {
        out.extend_from_slice(b",\"reply\":");
        json::append_text(out, reply);
    }
    out.push(b'}');
}

/// Appends the message before the close of a broker that drains.
pub(in crate::transport) fn write_drain_message(retry_in_ms: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"drain\",\"retryInMs\":");
    json::append_number(out, retry_in_ms);
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(run: &str, offer: Option<u32>) -> ControlMessage<'_> {
        ControlMessage::Ack { run: run.into(), offer }
    }

    #[test]
    fn a_controller_is_understood() {
        for (text, expected) in [
            (r#"{"type":"ready","slots":1}"#, ControlMessage::Ready(1)),
            (r#" {"slots" : 256 , "type" : "ready"} "#, ControlMessage::Ready(256)),
            (r#"{"type":"ready"}"#, ControlMessage::Ready(1)),
            (r#"{"type":"ready","run":7,"future":[{"slots":0}]}"#, ControlMessage::Ready(1)),
            (r#"{"type":"ack","run":"run_1","offer":7}"#, ack("run_1", Some(7))),
            (
                r#"{"offer":4294967295,"run":"run_1","type":"ack","slots":"many"}"#,
                ack("run_1", Some(u32::MAX)),
            ),
            (r#"{"type":"ack","run":"run_1"}"#, ack("run_1", None)),
            (r#"{"type":"\u0061ck","run":"r\u0075n","offer":null}"#, ack("run", None)),
        ] {
            assert_eq!(ControlMessage::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_a_short_reason() {
        use RejectedMessage::{Ack, Malformed, Ready, UnknownType};
        for (text, expected) in [
            ("", Malformed),
            ("secret", Malformed),
            ("[]", Malformed),
            (r#"["ack","run",7]"#, Malformed),
            (r#"["ack",1,"run",7]"#, Malformed),
            (r#"["ready",5,null,null]"#, Malformed),
            (r#"["ready"]"#, Ready),
            (r#"["ack"]"#, Ack),
            (r#""ready""#, Malformed),
            ("{}", Malformed),
            (r#"{"type":null}"#, Malformed),
            (r#"{"type":"ready""#, Malformed),
            (r#"{"type":"ready"}{"type":"ready"}"#, Malformed),
            (r#"{"type":"ready","type":"ready"}"#, Malformed),
            (r#"{"type":"ready","slots":secret}"#, Malformed),
            (r#"{"type":"secret"}"#, UnknownType),
            (r#"{"type":"Ready"}"#, UnknownType),
            (r#"{"type":"run","run":"secret"}"#, UnknownType),
            (r#"{"type":"ready","slots":0}"#, Ready),
            (r#"{"type":"ready","slots":257}"#, Ready),
            (r#"{"type":"ready","slots":65537}"#, Ready),
            (r#"{"type":"ready","slots":-1}"#, Ready),
            (r#"{"type":"ready","slots":1.5}"#, Ready),
            (r#"{"type":"ready","slots":"secret"}"#, Ready),
            (r#"{"type":"ready","slots":null}"#, Ready),
            (r#"{"type":"ready","slots":1,"slots":1}"#, Ready),
            (r#"{"type":"ack"}"#, Ack),
            (r#"{"type":"ack","offer":7}"#, Ack),
            (r#"{"type":"ack","run":null}"#, Ack),
            (r#"{"type":"ack","run":["secret"]}"#, Ack),
            (r#"{"type":"ack","run":"secret","offer":4294967296}"#, Ack),
            (r#"{"type":"ack","run":"secret","offer":-1}"#, Ack),
            (r#"{"type":"ack","run":"secret","offer":"7"}"#, Ack),
            (r#"{"type":"ack","run":"secret","run":"secret"}"#, Ack),
        ] {
            let rejected = ControlMessage::parse(text).unwrap_err();
            assert_eq!(rejected, expected, "{text}");
            let reason = rejected.to_string();
            assert!(reason.len() < 124 && !reason.contains("secret"), "{reason}");
        }
        assert_eq!(ControlMessage::parse(&"[".repeat(4096)), Err(Malformed), "nesting is bounded");
    }

    #[test]
    fn a_plain_run_is_borrowed() {
        let text = r#"{"type":"ack","run":"run_1","offer":7}"#;
        assert!(matches!(
            ControlMessage::parse(text),
            Ok(ControlMessage::Ack { run: Cow::Borrowed("run_1"), offer: Some(7) })
        ));
    }

    #[test]
    fn a_run_and_a_drain_are_announced() {
        let mut out = b"before".to_vec();
        write_run_message(b"run_1", 7, b"application/json", 1440, None, &mut out);
        let expected =
            r#"before{"type":"run","run":"run_1","offer":7,"contentType":"application/json","size":1440}"#;
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        write_drain_message(1234, &mut out);
        assert_eq!(out, br#"{"type":"drain","retryInMs":1234}"#);
    }

    #[test]
    fn what_a_header_may_contain_is_escaped() {
        let mut out = Vec::new();
        write_run_message(
            br#"a"b\c"#,
            u32::MAX,
            b"text/plain; title=\"caf\xe9\"\t",
            0,
            Some("/v1/runs/a?token=b"),
            &mut out,
        );
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["run"], r#"a"b\c"#);
        assert_eq!(value["contentType"], "text/plain; title=\"caf\u{fffd}\"\t");
        assert_eq!((&value["offer"], &value["size"]), (&u32::MAX.into(), &0.into()));
        assert_eq!(value["reply"], "/v1/runs/a?token=b");
    }
}

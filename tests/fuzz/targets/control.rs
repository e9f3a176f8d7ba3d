//! Owns the fuzzing of WebSocket control messages: they mean what the naive model of JSON says, and what is written is read back.

#![no_main]

use std::borrow::Cow;
use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use pilotlight::transport::fuzz::{Control, parse_control, write_frames};
use pilotlight_fuzz::json::{self, Node, Value};
use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocket};

/// The longest reason of a close.
const MAX_REASON: usize = 123;

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        check_parsed(text);
    }
    check_written(input);
});

fn check_parsed(text: &str) {
    let parsed = parse_control(text);
    if let Err(reason) = &parsed {
        assert!(reason.len() <= MAX_REASON, "{reason}");
    }
    let message = json::parse(text);
    let expected = message.as_ref().and_then(understood);
    match (&parsed, &expected, &message) {
        (Ok(parsed), Some(expected), _) => assert_eq!(parsed, expected),
        // The model accepts no deeper nesting, also in fields that are ignored.
        (Ok(_), None, None) if text.matches(['[', '{']).count() >= 300 => {}
        (Ok(parsed), None, _) => panic!("understood as {parsed:?}"),
        (Err(reason), Some(_), Some(message)) => assert!(is_odd(text, message), "{reason}"),
        (Err(_), ..) => {}
    }
}

/// What a message means, with numbers of any form.
fn understood(message: &Node) -> Option<Control> {
    let integer = |node: &Node, most: u32| {
        node.number().filter(|number| number.fract() == 0.0 && (0.0..=f64::from(most)).contains(number))
    };
    match message.only("type")?.text()? {
        "ready" => match message.all("slots")[..] {
            [] => Some(Control::Ready(1)),
            [slots] => {
                integer(slots, 256).filter(|slots| *slots > 0.0).map(|slots| Control::Ready(slots as u16))
            }
            _ => None,
        },
        "ack" => {
            let run = message.only("run")?.text()?.to_owned();
            match message.all("offer")[..] {
                [] => Some(Control::Ack(run, None)),
                [Node { value: Value::Null, .. }] => Some(Control::Ack(run, None)),
                [offer] => integer(offer, u32::MAX).map(|offer| Control::Ack(run, Some(offer as u32))),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether the model accepts more than the parser does: a number that is not written as digits only, or half of a surrogate
/// pair in a name.
fn is_odd(text: &str, message: &Node) -> bool {
    let is_not_digits = |name: &str| {
        message
            .only(name)
            .is_some_and(|node| !text[node.at.clone()].bytes().all(|byte| byte.is_ascii_digit()))
    };
    let Value::Object(members) = &message.value else { return false };
    is_not_digits("slots") || is_not_digits("offer") || members.iter().any(|(name, _)| name.is_none())
}

/// tungstenite's client reads what the server writes.
fn check_written(input: &[u8]) {
    let (run, content_type) = input.split_at(input.len() / 2);
    let reason = String::from_utf8_lossy(input);
    let written = write_frames(run, content_type, &reason);
    let mut socket = WebSocket::from_raw_socket(Cursor::new(written), Role::Client, None);
    let Ok(Message::Text(text)) = socket.read() else { panic!("no text") };
    let message = json::parse(&text).expect("written, but no JSON");
    let named = |name: &str| message.only(name).and_then(Node::text).map(str::to_owned);
    let lossy = |bytes| Some(String::from_utf8_lossy(bytes)).map(Cow::into_owned);
    assert_eq!(named("type").as_deref(), Some("run"));
    assert_eq!((named("run"), named("contentType")), (lossy(run), lossy(content_type)));
    assert!(matches!(socket.read(), Ok(Message::Ping(payload)) if payload.is_empty()));
    let Ok(Message::Close(Some(close))) = socket.read() else { panic!("no close") };
    let told = close.reason.as_str();
    assert!(u16::from(close.code) == 1008 && reason.starts_with(told), "{close}");
    assert!(told.len() == reason.len() || (MAX_REASON - 3..=MAX_REASON).contains(&told.len()), "{close}");
}

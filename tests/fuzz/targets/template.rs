//! Owns the fuzzing of templates: a body with other values in the places of a known body's is read as serde_json alone and
//! simd-json read it.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pilotlight::config::MessageCheck;
use pilotlight::http::Message;
use pilotlight_fuzz::json::{self, Node, Value};
use simd_json::prelude::{ValueAsScalar, ValueObjectAccess};

/// A body, and the ranges of the values in it that are texts (inside their quotes) or numbers.
struct Known {
    body: &'static str,
    places: Vec<std::ops::Range<usize>>,
}

static KNOWN: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let bodies = [
        include_str!("../corpus/body/stock"),
        include_str!("../corpus/body/everything"),
        include_str!("../corpus/body/pretty"),
        include_str!("../corpus/body/dates"),
        include_str!("../corpus/body/dev"),
        include_str!("../corpus/body/more"),
        include_str!("../corpus/body/nested"),
        include_str!("../corpus/body/odd"),
    ];
    bodies.map(|body| Known { body, places: places(body) }).into()
});

// Input: which known body, which check; then edits, each of them where, how and how many bytes, and those bytes.
fuzz_target!(|input: &[u8]| {
    let [first, edits @ ..] = input else { return };
    let known = &KNOWN[usize::from(first >> 1) % KNOWN.len()];
    let check = if first & 1 == 0 { MessageCheck::Strict } else { MessageCheck::Shape };
    warm(known.body.as_bytes(), check);
    let edited = edit(known, edits);
    check_body(&edited, check);
    // The edited body is now the known one, and the known one a change of it.
    if Message::in_new_body(&edited, check).is_ok() {
        for _ in 0..3 {
            check_body(&edited, check);
            let _ = Message::in_body(&edited, check);
        }
        check_body(known.body.as_bytes(), check);
        check_body(&edited, check);
    }
});

/// Posts a body until there is a template for it, unless there can be none.
fn warm(body: &[u8], check: MessageCheck) {
    for _ in 0..4 {
        if Message::in_known_body(body, check).is_some() {
            return;
        }
        let _ = Message::in_body(body, check);
    }
}

/// The last change of a place counts; bytes may also be put anywhere.
fn edit(known: &Known, mut edits: &[u8]) -> Vec<u8> {
    let mut changes = Vec::new();
    while let [place, how, rest @ ..] = edits {
        let length = usize::from(how & 0x3f).min(rest.len());
        let (bytes, after) = rest.split_at(length);
        edits = after;
        let place_at = usize::from(*place) % known.places.len().max(1);
        let range = match (known.places.get(place_at), how >> 6) {
            (Some(place), 0..=2) => place.clone(),
            _ => {
                let at = (usize::from(*place) * 251 + usize::from(*how)) % known.body.len();
                at..at
            }
        };
        changes.push((range, bytes));
    }
    changes.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
    changes.dedup_by_key(|(range, _)| range.start);
    let mut body = known.body.as_bytes().to_vec();
    for (range, bytes) in changes {
        body.splice(range, bytes.iter().copied());
    }
    body
}

fn check_body(body: &[u8], check: MessageCheck) {
    let parsed = Message::in_new_body(body, check);
    let read = Message::in_known_body(body, check);
    if let Some((text, read)) = read {
        let (expected, parsed) = parsed.as_ref().expect("a template accepts what the parser refuses");
        assert_eq!(text.as_bytes().as_ptr_range(), expected.as_bytes().as_ptr_range(), "another range");
        assert_eq!(&read, parsed, "another message");
        check_simd(body, &read);
        check_model(std::str::from_utf8(body).expect("no UTF-8"));
    }
    // The way that a request goes, whichever reads it.
    match (Message::in_body(body, check), parsed) {
        (Ok((text, message)), Ok((expected, parsed))) => {
            assert_eq!(text.as_bytes().as_ptr_range(), expected.as_bytes().as_ptr_range());
            assert_eq!(message, parsed);
        }
        (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected.to_string()),
        (read, parsed) => panic!("{read:?} is not {parsed:?}"),
    }
}

/// A third parser, which refuses some numbers that the others accept, but no body of a template.
fn check_simd(body: &[u8], message: &Message<'_>) {
    let mut copy = body.to_vec();
    let value = match simd_json::to_borrowed_value(&mut copy) {
        Ok(value) => value,
        // It has no integers above 64 bits.
        Err(error) if error.to_string().contains("InvalidNumber") => return,
        Err(error) => panic!("simd-json refuses it: {error}"),
    };
    let at = |path: &[&str]| {
        path.iter().try_fold(&value, |value, name| value.get(*name)).and_then(|value| value.as_str())
    };
    let number = |name: &str| {
        let machine = value.get("dequeuedMessage").and_then(|message| message.get("run"));
        machine.and_then(|run| run.get("machine")?.get(name)?.cast_f64()).expect("a number")
    };
    assert_eq!(at(&["dequeuedMessage", "run", "friendlyId"]), Some(message.run()));
    assert_eq!(at(&["dequeuedMessage", "snapshot", "friendlyId"]), Some(message.snapshot()));
    if let Some(key) = message.key() {
        assert_eq!(at(&["dequeuedMessage", "deployment", "friendlyId"]), Some(key.deployment));
        assert_eq!(at(&["dequeuedMessage", "backgroundWorker", "version"]), Some(key.version));
        assert_eq!([number("cpu"), number("memory")], [key.cpu.get(), key.memory.get()]);
    }
}

/// The naive model accepts it, and finds nothing deeper than allowed.
fn check_model(text: &str) {
    assert!(json::parse(text).expect("no JSON").depth() <= 128);
}

fn places(body: &str) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    collect(&json::parse(body).expect("the corpus is JSON"), &mut found);
    found
}

fn collect(node: &Node, found: &mut Vec<std::ops::Range<usize>>) {
    match &node.value {
        Value::Text(_) => found.push(node.at.start + 1..node.at.end - 1),
        Value::Number(_) => found.push(node.at.clone()),
        Value::List(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(members) => members.iter().for_each(|(_, member)| collect(member, found)),
        Value::Null | Value::Bool(_) => {}
    }
}

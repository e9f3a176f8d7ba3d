//! Owns the fuzzing of bodies: an accepted body is one JSON text, is parsed as the naive model parses it, and is relayed
//! unchanged.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pilotlight::config::MessageCheck;
use pilotlight::http::Message;
use pilotlight_fuzz::json::{self, Node};
use serde::Deserialize;
use serde_json::{Deserializer, Value};

fuzz_target!(|input: &[u8]| {
    // A message that passes the strict check also passes the other one, with the same result.
    let (strict, shape) =
        (Message::in_body(input, MessageCheck::Strict), Message::in_body(input, MessageCheck::Shape));
    if let Ok((_, strict)) = &strict {
        let (_, shape) = shape.as_ref().expect("refused by the check of the shape");
        assert_eq!((shape.run(), shape.key()), (strict.run(), strict.key()));
    }
    for (read, check) in [(strict, MessageCheck::Strict), (shape, MessageCheck::Shape)] {
        match read {
            Ok((relayed, message)) => check_read(input, relayed, &message, check),
            // A refusal quotes nothing of the body, so its length is bounded.
            Err(error) => assert!(error.to_string().len() < 512, "{error}"),
        }
    }
});

fn check_read(input: &[u8], relayed: &str, message: &Message<'_>, check: MessageCheck) {
    let text = std::str::from_utf8(input).expect("accepted, but no UTF-8");
    check_serde(text);
    let body = json::parse(text).expect("accepted, but no JSON");
    assert!(body.depth() <= 128, "{} levels", body.depth());
    let found = body.only("dequeuedMessage").expect("accepted without one message");
    let begin = relayed.as_ptr() as usize - text.as_ptr() as usize;
    assert_eq!(begin..begin + relayed.len(), found.at, "the relayed bytes are not those of the message");
    check_message(found, message);
    let alone = Message::parse(relayed.as_bytes(), check).expect("the message alone is valid, too");
    assert_eq!((alone.run(), alone.key()), (message.run(), message.key()));
    check_general(text, relayed, message, check);
}

/// serde's own value accepts the text, too, unless it cannot represent a number or half of a surrogate pair.
fn check_serde(text: &str) {
    let mut reader = Deserializer::from_str(text);
    reader.disable_recursion_limit();
    let value = Value::deserialize(&mut reader).and_then(|_| reader.end());
    let why = value.map_or_else(|error| error.to_string(), |()| String::new());
    let fits = ["number out of range", "surrogate", "hex escape"].iter().any(|reason| why.contains(reason));
    assert!(why.is_empty() || fits, "{why}");
}

/// Each field that decides about the pool occurs once, and has the value that the broker uses.
fn check_message(node: &Node, message: &Message<'_>) {
    let at = |path: &[&str]| {
        path.iter().fold(node, |node, name| {
            node.only(name).unwrap_or_else(|| panic!("not once: {name} of {path:?}"))
        })
    };
    assert_eq!(at(&["run", "friendlyId"]).text(), Some(message.run()));
    let machine = ["cpu", "memory"].map(|name| at(&["run", "machine", name]).number().expect("a number"));
    let deployment = at(&["deployment"]);
    let friendly = deployment.all("friendlyId");
    assert!(friendly.len() <= 1, "two deployments");
    let Some(key) = message.key() else {
        assert!(friendly.first().is_none_or(|id| id.text() == Some("")), "a deployment was lost");
        return;
    };
    assert_eq!(friendly.first().and_then(|id| id.text()), Some(key.deployment));
    assert_eq!(at(&["backgroundWorker", "version"]).text(), Some(key.version));
    assert_eq!([key.cpu.get(), key.memory.get()], machine);
}

/// Both parsers agree: another member in the body, which only the general parser accepts, changes nothing.
fn check_general(text: &str, relayed: &str, message: &Message<'_>, check: MessageCheck) {
    let (before, after) = text.split_once('{').expect("an object");
    let longer = format!("{before}{{\"another member\":[0],{after}");
    let (other, general) =
        Message::in_body(longer.as_bytes(), check).expect("the general parser accepts it, too");
    assert_eq!(other, relayed);
    assert_eq!((general.run(), general.key()), (message.run(), message.key()));
}

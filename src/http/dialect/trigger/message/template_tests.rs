//! Owns the tests of templates: a body that differs from earlier ones in its values only is read as the parser reads it.

use super::kind::{Field, Kind};
use super::template::MAX_LEAVES;
use super::*;
use MessageCheck::{Shape, Strict};

const MESSAGE: &str = include_str!("../../../../../tests/data/dequeued-message.json");

/// The example as `JSON.stringify` writes it.
pub(super) fn stock() -> String {
    let mut in_text = false;
    let is_kept = |c: &char| {
        in_text ^= *c == '"';
        in_text || !c.is_whitespace()
    };
    format!("{{\"dequeuedMessage\":{}}}", MESSAGE.chars().filter(is_kept).collect::<String>())
}

/// The example with everything that the schema knows, and more.
fn rich() -> String {
    let waitpoint = r#"{"id":"w","index":0,"friendlyId":"waitpoint_1","type":"MANUAL","completedAt":1787336872104,
        "idempotencyKey":"k","completedByTaskRun":{"id":"r","friendlyId":"run_1","batch":{"id":"b","friendlyId":"batch_1"}},
        "completedAfter":"2026-08-21T18:27:52Z","completedByBatch":{"id":"b","friendlyId":"f"},"output":"[]",
        "outputType":"application/json","outputIsError":false}"#;
    let checkpoint = r#""checkpoint":{"id":"c","type":"DOCKER","location":"l","imageRef":null,"reason":"r"}"#;
    let more = r#""more":[1,"x",{"y":[true,null,1.5]}],"templateKey":"t""#;
    stock()
        .replace(
            "\"completedWaitpoints\":[]",
            &format!("\"completedWaitpoints\":[{waitpoint}],{checkpoint},{more}"),
        )
        .replace("\"placementTags\":[]", "\"placementTags\":[{\"key\":\"k\",\"values\":[\"v\",\"w\"]}]")
}

pub(super) fn known(body: &(impl AsRef<[u8]> + ?Sized), check: MessageCheck) -> Option<(&str, Message<'_>)> {
    Message::in_known_body(body.as_ref(), check)
}

/// Posts the body until there is a template for it.
pub(super) fn warm(body: &str, check: MessageCheck) {
    for _ in 0..3 {
        Message::in_body(body.as_bytes(), check).unwrap();
    }
    assert!(known(body, check).is_some(), "{body}");
}

/// Whether a template reads the body, which then the parser must read alike.
#[track_caller]
fn is_known(body: &(impl AsRef<[u8]> + ?Sized), check: MessageCheck) -> bool {
    let body = body.as_ref();
    let shown = String::from_utf8_lossy(body);
    let Some((message, read)) = Message::in_known_body(body, check) else { return false };
    let (expected, parsed) =
        Message::in_new_body(body, check).unwrap_or_else(|error| panic!("{error}: {shown}"));
    assert_eq!(message.as_bytes().as_ptr_range(), expected.as_bytes().as_ptr_range(), "{shown}");
    assert_eq!(read, parsed, "{shown}");
    true
}

/// The range of each text and number that is a value, with a text's quotes.
fn leaves(body: &str) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(byte) = body.as_bytes().get(at) {
        let length = match byte {
            b'"' => 2 + body[at + 1..].find('"').unwrap(),
            b'-' | b'0'..=b'9' => body[at..].find([',', '}', ']']).unwrap(),
            _ => 0,
        };
        if length > 0 && !body[at + length..].starts_with(':') {
            found.push(at..at + length);
        }
        at += length.max(1);
    }
    found
}

const VALUES: [&str; 61] = [
    "\"\"",
    "\"x\"",
    "\"a longer text than there was before, so that every length differs\"",
    "\"é€😀\"",
    "\"\u{7f}\"",
    "\"\u{2028}\"",
    "\"a\nb\"",
    "\"a\\nb\"",
    "\"\0\"",
    "\"\u{1f}\"",
    "\"\\u0041\"",
    "\"\\\\\"",
    "\"a\\\"b\"",
    "\"a\"b\"",
    "\"a\\\"",
    "\"",
    "\"a",
    "a\"",
    "0",
    "7",
    "12",
    "305",
    "-5",
    "-0",
    "0.5",
    "0.50",
    "5e-1",
    "1.5E+2",
    "1e-400",
    "1000000",
    "1000001",
    "1e400",
    "-1e400",
    "+1",
    ".5",
    "1.",
    "01",
    "-",
    "1e",
    "1.e5",
    "0x1",
    "NaN",
    "1 ",
    "123456789012345678901234",
    "0.30000000000000004",
    "00.5",
    "1,\"z\":2",
    "null",
    "true",
    "false",
    "[]",
    "{}",
    "\"2026-08-21T18:27:52.104Z\"",
    "\"2026-08-21T18:27:52+00:00\"",
    "\"2026-02-30T00:00:00Z\"",
    "\"2026-08-21T18:27:60Z\"",
    "8.64e15",
    "8.65e15",
    "\"QUEUED\"",
    "\"small-2x\"",
    "\"PREVIEW\"",
];

#[test]
fn whatever_is_in_the_place_of_a_value_is_read_as_the_parser_reads_it() {
    for (body, check) in [(stock(), Strict), (rich(), Strict), (stock(), Shape), (rich(), Shape)] {
        warm(&body, check);
        let places = leaves(&body);
        assert!(places.len() > 30, "{}", places.len());
        let (mut read, mut left) = (0, 0);
        for place in places {
            for value in VALUES {
                let mut changed = body.clone();
                changed.replace_range(place.clone(), value);
                let is_known = is_known(&changed, check);
                read += usize::from(is_known);
                // What the parser accepts is mostly of this shape.
                left += usize::from(!is_known && Message::in_new_body(changed.as_bytes(), check).is_ok());
            }
            let mut bytes = body.clone().into_bytes();
            bytes[place.start + 1] = 0xc3;
            assert!(!is_known(&bytes, check), "no UTF-8");
        }
        assert!(read > 300, "only {read} bodies were read, {left} were left to the parser");
    }
}

#[test]
fn a_value_of_its_kind_is_read_and_any_other_is_left_to_the_parser() {
    let body = stock();
    warm(&body, Strict);
    let with = |from: &str, to: &str| {
        assert_eq!(body.matches(from).count(), 1, "{from}");
        body.replace(from, to)
    };
    for (from, to) in [
        ("\"run_cmcx7k1aa0000l508e5s6u7ef\"", "\"run 2\""),
        ("\"description\":\"Run was dequeued for execution\"", "\"description\":\"É\""),
        ("\"workerQueueLength\":3", "\"workerQueueLength\":-12.5e3"),
        ("\"cpu\":0.5", "\"cpu\":1000000"),
        ("\"memory\":0.5", "\"memory\":0.30000000000000004"),
        ("\"dequeuedAt\":\"2026-08-21T18:27:52.131Z\"", "\"dequeuedAt\":\"1970-01-01T00:00:00+00:00\""),
        ("\"PENDING_EXECUTING\"", "\"QUEUED\""),
        ("\"small-1x\"", "\"micro\""),
        ("\"tracestate\":\"\"", "\"tracestate\":\"a=b,c=d\""),
        ("\"deployment_cmcx6zpx00009l508w8m7k1cd\"", "\"\""),
    ] {
        assert!(is_known(&with(from, to), Strict), "{to}");
    }
    for (from, to) in [
        ("\"run_cmcx7k1aa0000l508e5s6u7ef\"", "\"\""),
        ("\"run_cmcx7k1aa0000l508e5s6u7ef\"", "\"r\u{fc}n\""),
        ("\"20260821.3\"", "\"2026\u{7f}\""),
        ("\"snapshot_cmcx7k2p90001l508h3t5x9qz\"", "\"\u{e9}\""),
        ("\"Run was dequeued for execution\"", "\"a\tb\""),
        ("\"Run was dequeued for execution\"", "\"a\\tb\""),
        ("\"workerQueueLength\":3", "\"workerQueueLength\":03"),
        ("\"workerQueueLength\":3", "\"workerQueueLength\":null"),
        ("\"cpu\":0.5", "\"cpu\":-0.5"),
        ("\"cpu\":0.5", "\"cpu\":1000001"),
        ("\"memory\":0.5", "\"memory\":.5"),
        ("\"memory\":0.5", "\"memory\":1e400"),
        ("\"dequeuedAt\":\"2026-08-21T18:27:52.131Z\"", "\"dequeuedAt\":1787336872131"),
        ("\"dequeuedAt\":\"2026-08-21T18:27:52.131Z\"", "\"dequeuedAt\":\"2026-08-21 18:27:52Z\""),
        ("\"PENDING_EXECUTING\"", "\"EXECUTED\""),
        ("\"small-1x\"", "\"small-1X\""),
        ("\"version\":\"1\"", "\"version\":\"2\""),
        ("\"isTest\":false", "\"isTest\":true"),
        ("\"isTest\":false", "\"isTest\": false"),
        ("\"isTest\":false", "\"isTest\":null"),
        ("\"isTest\":false", "\"istest\":false"),
        ("\"isTest\":false,\"isReplay\":false", "\"isReplay\":false,\"isTest\":false"),
        ("\"isTest\":false", "\"isTest\":false,\"isTest\":false"),
        ("\"isTest\":false", "\"isTest\":false,\"more\":1"),
        ("\"placementTags\":[]", "\"placementTags\":[{\"key\":\"k\"}]"),
        ("\"placementTags\":[]", "\"placementTags\":{}"),
        ("\"completedWaitpoints\":[]", "\"completedWaitpoints\":[[]]"),
        ("\"tracestate\"", "\"baggage\""),
        ("{\"dequeuedMessage\"", " {\"dequeuedMessage\""),
    ] {
        assert!(!is_known(&with(from, to), Strict), "{to}");
    }
    for end in 0..body.len() {
        assert!(!is_known(&body[..end], Strict), "the first {end} bytes");
    }
    for more in ["}", " ", "\n", "\0", "x", ",", "{}"] {
        assert!(!is_known(&format!("{body}{more}"), Strict), "{more:?} behind it");
    }
}

#[test]
fn a_pretty_body_has_a_template_and_a_line_break_in_a_value_is_none_of_its_own() {
    let body = format!("{{ \"dequeuedMessage\" :\n{MESSAGE} }}\n");
    warm(&body, Strict);
    assert!(is_known(&body.replace("node-22", "bun"), Strict));
    for text in ["node\n22", "node\\n22", "node\"22", "node\\22"] {
        assert!(!is_known(&body.replace("node-22", text), Strict), "{text:?}");
    }
    // One line break less between two members, one more in a value.
    let moved = body.replacen(",\n  \"dequeuedAt\"", ",  \"dequeuedAt\"", 1).replace("node-22", "node\n22");
    assert!(!is_known(&moved, Strict));
}

#[test]
fn a_template_is_kept_once_the_shape_has_come_again_and_again() {
    let body = stock();
    for (at, run) in ["run_1", "run_22", "run_333"].into_iter().enumerate() {
        let body = body.replace("run_cmcx7k1aa0000l508e5s6u7ef", run);
        assert!(known(&body, Strict).is_none(), "{at} bodies are not enough");
        Message::in_body(body.as_bytes(), Strict).unwrap();
    }
    assert!(known(&body, Strict).is_some());
    assert_eq!(templates::count(), 1);
}

#[test]
fn shapes_that_alternate_are_all_learned() {
    let bodies = [stock(), rich(), stock().replace("\"isTest\":false", "\"isTest\":true,\"more\":1")];
    for _ in 0..3 {
        for body in &bodies {
            Message::in_body(body.as_bytes(), Strict).unwrap();
        }
    }
    assert!(bodies.iter().all(|body| is_known(body, Strict)));
}

#[test]
fn strangers_do_not_displace_the_shape_that_everyone_posts() {
    let body = stock();
    warm(&body, Strict);
    for at in 0..100 {
        let strange = body.replace("\"tracestate\"", &format!("\"stranger{at}\""));
        for _ in 0..4 {
            Message::in_body(strange.as_bytes(), Strict).unwrap();
        }
        assert!(known(&strange, Strict).is_some(), "it has a template, too");
        assert!(templates::count() <= 4);
    }
    for _ in 0..3 {
        Message::in_body(body.as_bytes(), Strict).unwrap();
    }
    assert!(known(&body, Strict).is_some());
    for at in 0..100 {
        let strange = body.replace("\"tracestate\"", &format!("\"other{at}\""));
        // It comes until it has a template, and then no more.
        for _ in 0..3 {
            Message::in_body(strange.as_bytes(), Strict).unwrap();
        }
    }
    assert!(known(&body, Strict).is_some(), "displaced by strangers that came three times each");
}

#[test]
fn a_template_is_of_its_thread_and_its_check_alone() {
    let body = stock();
    let newer = body.replace("small-1x", "huge-64x");
    warm(&newer, Shape);
    assert!(known(&body, Shape).is_some());
    assert!(known(&newer, Strict).is_none());
    assert!(known(&newer, Shape).is_none(), "another check has applied since, so all is forgotten");
    warm(&newer, Shape);
    let error = Message::in_body(newer.as_bytes(), Strict).unwrap_err();
    assert_eq!(error.field(), MessageField::MachineName);
    warm(&body, Strict);
    assert!(known(&newer, Strict).is_none());
    std::thread::scope(|threads| {
        threads.spawn(|| assert!(known(&body, Strict).is_none(), "another thread's template"));
    });
}

#[test]
fn no_value_is_kept() {
    for body in [stock(), rich()] {
        warm(&body, Strict);
        let kept = templates::kept_bytes();
        assert!(kept.len() > 500);
        for value in leaves(&body).into_iter().map(|place| &body[place]) {
            // Short ones, such as `"1"` and `"trigger"`, are also in names.
            if value.len() > 9 {
                let value = value.trim_matches('"').as_bytes();
                assert!(!kept.windows(value.len()).any(|window| window == value), "{value:?}");
            }
        }
    }
    let secret = stock().replace("\"tracestate\"", "\"a key: with/what=is+no name\"");
    for _ in 0..5 {
        Message::in_body(secret.as_bytes(), Strict).unwrap();
    }
    assert!(known(&secret, Strict).is_none());
    assert!(!String::from_utf8(templates::kept_bytes()).unwrap().contains("what=is"));
}

#[test]
fn no_name_of_a_body_that_came_once_is_kept() {
    warm(&stock(), Strict);
    for name in ["firstAndOnly", "secondAndOnly"] {
        let body = stock().replace("tracestate", name);
        Message::in_body(body.as_bytes(), Strict).unwrap();
        assert!(!String::from_utf8(templates::kept_bytes()).unwrap().contains(name), "{name}");
    }
}

#[test]
fn a_body_without_a_template_keeps_no_other_shape_from_being_learned() {
    let post = |body: &str| drop(Message::in_body(body.as_bytes(), Strict).unwrap());
    post(&stock());
    // It has as many quotes as the stock body, and a name that no template keeps.
    post(&stock().replace("tracestate", "a/b"));
    for _ in 0..100 {
        post(&stock());
    }
    assert!(known(&stock(), Strict).is_some());
}

#[test]
fn a_template_is_small() {
    let numbers =
        |count: usize| stock().replace("\"tracestate\"", &format!("\"n\":[{}1],\"t\"", "1,".repeat(count)));
    let spaces = |count: usize| stock().replace("\"tracestate\"", &format!("{}\"t\"", " ".repeat(count)));
    let own = leaves(&stock()).len() - 1;
    for (body, is_learned) in [
        (numbers(MAX_LEAVES - own - 1), true),
        (numbers(MAX_LEAVES - own), false),
        (spaces(3000), true),
        (spaces(4096), false),
        (stock().replace("\"tracestate\"", "\"trace\\u0073tate\""), false),
        (format!("{},\"more\":1}}", &stock()[..stock().len() - 1]), false),
    ] {
        for _ in 0..5 {
            Message::in_body(body.as_bytes(), Strict).unwrap();
        }
        assert_eq!(is_known(&body, Strict), is_learned, "{body}");
    }
}

#[test]
fn the_description_of_the_schema_has_serdes_own_names() {
    let objects = schema::objects();
    assert_eq!(objects.len(), 15);
    for (names, kind) in objects {
        let Kind::Object(fields) = kind else { panic!("{kind:?}") };
        assert_eq!(fields.len(), names.len());
        for (field, name) in fields.iter().zip(&names) {
            let is_named = |name: &str| field.is_named(name.as_bytes());
            assert!(is_named(name), "{field:?} is not {name}");
            assert!(
                !is_named(&format!("{name}s")) && !is_named(&name[1..]) && !is_named(&name.to_uppercase())
            );
        }
    }
    let field = Field { name: "r#a_bc_d", kind: Kind::Any, part: None };
    assert!(field.is_named(b"aBcD") && !field.is_named(b"a_bc_d") && !field.is_named(b"aBcd"));
}

//! Owns the tests of messages: which bodies are accepted, and that both parsers agree.

use super::template_tests::{known, stock, warm};
use super::*;
use MessageCheck::{Shape as ShapeOnly, Strict};

const MESSAGE: &str = include_str!("../../../../../tests/data/dequeued-message.json");

fn bytes_and_run(body: &str) -> Option<(String, String)> {
    Message::in_body(body.as_bytes(), Strict)
        .ok()
        .map(|(text, message)| (text.to_owned(), message.run().to_owned()))
}

#[test]
fn the_messages_own_bytes_are_found_in_every_layout() {
    let message = MESSAGE.trim();
    for body in [
        format!("{{\"dequeuedMessage\":{message}}}"),
        format!("\n{{ \"dequeuedMessage\"\t: {message}\r\n}} "),
        format!("{{\"dequeuedMessage\":{message},\"more\":[1,{{}}]}}"),
        format!("{{\"more\":{{\"dequeuedMessage\":1}},\"dequeuedMessage\":{message}}}"),
        format!("{{\"\\u0064equeuedMessage\":{message}}}"),
    ] {
        let (text, run) = bytes_and_run(&body).unwrap_or_else(|| panic!("{body}"));
        assert_eq!((text.as_str(), run.as_str()), (message, "run_cmcx7k1aa0000l508e5s6u7ef"));
    }
}

#[test]
fn a_body_that_is_not_one_message_is_refused() {
    let message = MESSAGE.trim();
    for body in [
        format!("{{\"dequeuedMessage\":{message}"),
        format!("{{\"dequeuedMessage\":{message}}}}}"),
        format!("{{\"dequeuedMessage\":{message}}}x"),
        format!("{{\"dequeuedMessage\":{message} 1}}"),
        format!("{{\"dequeuedMessage\":{message},}}"),
        format!("{{\"dequeuedMessage\":{message},\"dequeuedMessage\":{message}}}"),
        format!("[{{\"dequeuedMessage\":{message}}}]"),
        format!("\"dequeuedMessage\":{message}"),
        format!("{{dequeuedMessage:{message}}}"),
        message.to_owned(),
    ] {
        assert_eq!(bytes_and_run(&body), None, "{body}");
    }
}

#[test]
fn a_figure_is_the_same_number_in_a_message_as_in_a_header() {
    for figure in ["1.4000000000000001", "0.30000000000000004", "9.200000000000001", "0.09090909090909091"] {
        let message = MESSAGE.replace("\"cpu\": 0.5", &format!("\"cpu\": {figure}"));
        let message = Message::parse(message.as_bytes(), Strict).unwrap();
        assert_eq!(message.key().unwrap().cpu, Number::parse(figure).unwrap(), "{figure}");
    }
}

#[test]
fn nesting_is_bounded_and_brackets_in_text_do_not_nest() {
    let with = |extra: &str| {
        format!("{{\"dequeuedMessage\":{}}}", MESSAGE.replacen('{', &format!("{{\"extra\":{extra},"), 1))
    };
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(bytes_and_run(&with(&nested(126))).is_some());
    assert!(bytes_and_run(&with(&nested(127))).is_none());
    assert!(bytes_and_run(&with(&nested(100_000))).is_none());
    assert!(bytes_and_run(&with(&format!("\"\\\"{}\"", "[".repeat(500)))).is_some());
}

/// The example with every enumeration in it.
fn with_every_word() -> serde_json::Value {
    let mut message: serde_json::Value = serde_json::from_str(MESSAGE).unwrap();
    message["checkpoint"] = serde_json::json!({ "id": "c", "type": "DOCKER", "location": "l" });
    message["completedWaitpoints"] = serde_json::json!([{
        "id": "w", "friendlyId": "f", "type": "RUN", "completedAt": "2026-08-21T18:27:52.104Z", "outputIsError": false,
    }]);
    message
}

fn refusal(message: &serde_json::Value, check: MessageCheck) -> Option<MessageError> {
    let body = format!("{{\"dequeuedMessage\":{message}}}");
    Message::in_body(body.as_bytes(), check).err()
}

const ENUMERATIONS: [(&str, MessageField); 5] = [
    ("/snapshot/executionStatus", MessageField::ExecutionStatus),
    ("/checkpoint/type", MessageField::CheckpointType),
    ("/completedWaitpoints/0/type", MessageField::WaitpointType),
    ("/run/machine/name", MessageField::MachineName),
    ("/environment/type", MessageField::EnvironmentType),
];

#[test]
fn a_word_that_the_schema_does_not_know_is_refused_by_name_or_passes_if_the_shape_is_enough() {
    assert!(refusal(&with_every_word(), Strict).is_none());
    for (place, field) in ENUMERATIONS {
        for word in ["HUGE-64X", "", "docker"] {
            let mut message = with_every_word();
            *message.pointer_mut(place).unwrap() = word.into();
            let strict = refusal(&message, Strict).expect(place);
            assert_eq!(strict.field(), field, "{strict}");
            let said = strict.to_string();
            assert!(said.contains(field.text()) && said.contains("--message-check shape"), "{said}");
            assert!(word.is_empty() || !said.contains(&format!(" {word} ")), "a payload is quoted: {said}");
            assert!(refusal(&message, ShapeOnly).is_none(), "{place} {word}");
            let alone = message.to_string();
            assert!(Message::parse(alone.as_bytes(), ShapeOnly).is_some(), "{place} {word}");
            assert!(Message::parse(alone.as_bytes(), Strict).is_none(), "{place} {word}");
        }
    }
}

#[test]
fn the_shape_is_checked_whatever_words_may_pass() {
    for (place, field) in ENUMERATIONS {
        for value in [serde_json::json!(1), serde_json::json!({ "micro": null }), serde_json::Value::Null] {
            let mut message = with_every_word();
            *message.pointer_mut(place).unwrap() = value;
            for check in [Strict, ShapeOnly] {
                assert_eq!(refusal(&message, check).expect(place).field(), field);
            }
        }
    }
    let mut message = with_every_word();
    message["version"] = "2".into();
    assert_eq!(refusal(&message, ShapeOnly).unwrap().field(), MessageField::Version);
}

#[test]
fn a_refusal_names_its_field() {
    let with = |place: &str, value: serde_json::Value| {
        let mut message = with_every_word();
        *message.pointer_mut(place).unwrap() = value;
        message
    };
    let without = |parent: &str, name: &str| {
        let mut message = with_every_word();
        message.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
        message
    };
    for (message, field) in [
        (with("/run/isTest", "yes".into()), MessageField::Run),
        (with("/run/friendlyId", 7.into()), MessageField::RunId),
        (with("/run/friendlyId", "a\nb".into()), MessageField::RunId),
        (with("/run/machine/centsPerMs", "0".into()), MessageField::Machine),
        (with("/run/machine/cpu", (-1).into()), MessageField::Cpu),
        (with("/run/machine", serde_json::Value::Null), MessageField::Machine),
        (with("/completedWaitpoints/0/completedAt", "soon".into()), MessageField::Waitpoints),
        (with("/dequeuedAt", "soon".into()), MessageField::Other),
        (with("/project/id", 1.into()), MessageField::Project),
        (without("/run/machine", "memory"), MessageField::Memory),
        (without("/snapshot", "executionStatus"), MessageField::ExecutionStatus),
        (without("", "environment"), MessageField::Environment),
    ] {
        for check in [Strict, ShapeOnly] {
            let error = refusal(&message, check).unwrap();
            assert_eq!(error.field(), field, "{error}");
        }
    }
    for body in ["", "{", "[]", "{\"dequeuedMessage\":", "{\"other\":1}", "{\"dequeuedMessage\":{]}}"] {
        assert_eq!(
            Message::in_body(body.as_bytes(), Strict).unwrap_err().field(),
            MessageField::Body,
            "{body}"
        );
    }
    assert_eq!(Message::in_body(b"\xff", Strict).unwrap_err().field(), MessageField::Body);
}

#[test]
fn a_message_alone_has_a_template_of_its_own_that_is_for_no_body() {
    let body = stock();
    let message = &body["{\"dequeuedMessage\":".len()..body.len() - 1];
    let alone = |text: &str| Message::parse(text.as_bytes(), Strict).map(|found| found.run.into_owned());
    let run = alone(message).unwrap();
    (0..3).for_each(|_| assert_eq!(alone(message), Some(run.clone())));
    assert_eq!(templates::count(), 1);
    let other = message.replace(&run, "run_other");
    assert_eq!(alone(&other).as_deref(), Some("run_other"));
    assert!(known(message, Strict).is_none() && Message::in_body(message.as_bytes(), Strict).is_err());
    // Nor is a body a message, once it has a template.
    warm(&body, Strict);
    assert_eq!(templates::count(), 2);
    assert_eq!(alone(&body), None);
    assert_eq!(alone(message), Some(run));
}

//! Owns the stories of messages: which bodies are read, and that both ways to read one agree.

use super::*;

const MESSAGE: &str = include_str!("../../../tests/data/dequeued-message.json");

fn bytes_and_run(body: &str) -> Option<(String, String)> {
    Message::in_body(body.as_bytes()).ok().map(|(text, message)| (text.to_owned(), message.run().to_owned()))
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
        let message = Message::parse(message.as_bytes()).unwrap();
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

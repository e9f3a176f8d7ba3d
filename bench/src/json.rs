//! Owns the comparison of JSON parsers on a POST's body: the cost of checking all of it and of finding the message's own
//! bytes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use pilotlight::config::MessageCheck;
use pilotlight::http::Message;
use pilotlight_bench::stdout::print;

const ROUNDS: usize = 21;
const ROUND: Duration = Duration::from_millis(40);
const MESSAGE: &str = include_str!("../../tests/data/dequeued-message.json");

/// Prints nanoseconds per body, medians of alternating rounds.
pub(crate) fn compare() {
    for padding in [0, 128 * 1024] {
        let body = body(padding);
        print(&format!(
            "\nbody of {} bytes, ns per body, median of {ROUNDS} alternating rounds\n",
            body.len()
        ));
        let mut ours = || drop(black_box(Message::in_body(black_box(&body), MessageCheck::Strict)));
        // simd-json writes into its input, so each body is copied first, as the broker would have to.
        let mut simd_tape = || {
            let mut copy = body.clone();
            drop(black_box(simd_json::to_tape(&mut copy).map(|tape| tape.0.len())));
        };
        let mut scan = || {
            black_box(end_of_value(black_box(&body)));
        };
        let mut contenders: [(&str, &mut dyn FnMut()); 3] = [
            ("serde_json: checked against the schema, key and message bytes found", &mut ours),
            ("simd-json: copy and tape, no schema check, no message bytes", &mut simd_tape),
            ("what simd-json lacks: a scan for where the message ends", &mut scan),
        ];
        let mut figures = vec![Vec::new(); contenders.len()];
        for _ in 0..ROUNDS {
            for (at, (_, run)) in contenders.iter_mut().enumerate() {
                figures[at].push(nanos_each(run));
            }
        }
        for ((name, _), figures) in contenders.iter().zip(&mut figures) {
            figures.sort_unstable();
            print(&format!("{:>9}   {name}\n", figures[ROUNDS / 2]));
        }
    }
}

fn nanos_each(run: &mut dyn FnMut()) -> u128 {
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < ROUND {
        for _ in 0..16 {
            run();
        }
        count += 16;
    }
    begun.elapsed().as_nanos() / count
}

fn body(padding: usize) -> Vec<u8> {
    let mut message: serde_json::Value = serde_json::from_str(MESSAGE).unwrap_or_default();
    if padding > 0 {
        let waitpoint = serde_json::json!({
            "id": "w", "friendlyId": "waitpoint_1", "type": "MANUAL", "completedAt": "2026-08-21T18:27:52.104Z",
            "output": "x".repeat(1024), "outputType": "application/json", "outputIsError": false,
        });
        message["completedWaitpoints"] = vec![waitpoint; padding / 1200].into();
    }
    serde_json::json!({ "dequeuedMessage": message }).to_string().into_bytes()
}

/// The end of the value that the body begins with, by brackets and quotes alone.
fn end_of_value(body: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = body.get(at) {
        at += 1;
        match byte {
            b'"' => at += end_of_string(&body[at..]),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    at
}

fn end_of_string(rest: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = memchr::memchr2(b'"', b'\\', &rest[at..]) {
        at += found + 1;
        if rest[at - 1] == b'"' {
            return at;
        }
        at += 1;
    }
    rest.len()
}

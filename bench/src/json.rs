//! Owns the comparison of the ways to read a POST's body: by a template, by `serde_json`, by simd-json.

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
    for padding in [0, 16 * 1024, 128 * 1024] {
        let body = body(padding);
        print(&format!(
            "\nbody of {} bytes, ns per body, median of {ROUNDS} alternating rounds\n",
            body.len()
        ));
        let mut ours = || drop(black_box(Message::in_body(black_box(&body), MessageCheck::Strict)));
        (0..4).for_each(|_| ours());
        let is_known = Message::in_known_body(&body, MessageCheck::Strict).is_some();
        let mut parser = || drop(black_box(Message::in_new_body(black_box(&body), MessageCheck::Strict)));
        // simd-json writes into its input, so each body is copied first, as the broker would have to.
        let (mut copy, mut buffers) = (Vec::new(), simd_json::Buffers::default());
        let mut simd_tape = || {
            copy.clear();
            copy.extend_from_slice(black_box(&body));
            drop(black_box(
                simd_json::to_tape_with_buffers(&mut copy, &mut buffers).map(|tape| tape.0.len()),
            ));
        };
        let ours_name = if is_known {
            "as the broker does: by a template"
        } else {
            "as the broker does: it has no template"
        };
        let mut contenders: [(&str, &mut dyn FnMut()); 3] = [
            (ours_name, &mut ours),
            ("serde_json: checked against the schema, key and message bytes found", &mut parser),
            ("simd-json: copy and tape in memory used again, no schema check", &mut simd_tape),
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

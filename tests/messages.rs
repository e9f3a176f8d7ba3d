//! Owns the tests of messages from a platform that is newer than the broker: logged by field, counted, accepted if configured.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use support::{Broker, Pool};
use tempfile::NamedTempFile;

const REFUSED: &str = "pilotlight_messages_refused_total";

/// A broker whose log is a file.
fn logging(arguments: &[&str]) -> (Broker, NamedTempFile) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    Broker::logging(command.args(["--proof", "written"]).args(arguments).env("RUST_LOG", "warn"))
}

fn lines(log: &NamedTempFile) -> Vec<Value> {
    let text = fs::read_to_string(log.path()).unwrap();
    // The last line may not be written yet.
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn newer(pool: &Pool, run: &str, place: &str, word: &str) -> String {
    let mut message = pool.message(run);
    *message.pointer_mut(place).unwrap() = word.into();
    format!("{{\"dequeuedMessage\":{message}}}")
}

#[tokio::test]
async fn a_newer_platforms_values_are_logged_once_by_field_and_counted() {
    let (broker, log) = logging(&[]);
    let pool = Pool::small("d1");
    let mut one = broker.held_poll(&pool, "one").await;
    for number in 0..10 {
        for (place, word) in [("/run/machine/name", "huge-64x"), ("/snapshot/executionStatus", "DREAMING")] {
            let (status, answer) = broker.post(&newer(&pool, &format!("run_{number}"), place, word)).await;
            assert_eq!(status, 400, "{answer}");
            assert!(answer["detail"].as_str().unwrap().contains("--message-check shape"), "{answer}");
        }
    }
    assert_eq!(broker.post("{\"dequeuedMessage\":7}").await.0, 400);
    for (field, count) in
        [("run.machine.name", 10), ("snapshot.executionStatus", 10), ("body", 0), ("other", 1), ("run", 0)]
    {
        assert_eq!(broker.metric(&format!("{REFUSED}{{field=\"{field}\"}}")).await, count, "{field}");
    }
    broker.wait_until("three lines", async || lines(&log).len() >= 3).await;
    let entries = lines(&log);
    let fields: Vec<_> = entries.iter().map(|line| line["fields"]["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["run.machine.name", "snapshot.executionStatus", "other"], "{entries:?}");
    let text = fs::read_to_string(log.path()).unwrap();
    assert!(!text.contains("huge") && !text.contains("DREAMING"), "a payload is in the log: {text}");
    assert!(one.is_held().await, "a refused message claims no waiter");
}

#[tokio::test]
async fn with_the_shape_alone_new_words_pass_as_they_are_and_a_reload_is_enough() {
    let config = NamedTempFile::new().unwrap();
    let (broker, _log) = logging(&["--config", config.path().to_str().unwrap()]);
    let pool = Pool::small("d1");
    let mut one = broker.held_poll(&pool, "one").await;
    let body = newer(&pool, "run_1", "/run/machine/name", "huge-64x");
    assert_eq!(broker.post(&body).await.0, 400);
    fs::write(config.path(), "message-check = \"shape\"\n").unwrap();
    broker.signal(Signal::HUP);
    broker.wait_for_metric("pilotlight_config_reloads_total{result=\"done\"}", 1).await;
    let mut wrong = pool.message("run_2");
    wrong["run"]["machine"]["name"] = 7.into();
    assert_eq!(broker.post(&format!("{{\"dequeuedMessage\":{wrong}}}")).await.0, 400);
    let (status, answer) = broker.post(&body).await;
    assert_eq!((status, &answer["didWarmStart"]), (200, &Value::Bool(true)), "{answer}");
    let run = one.answer().await;
    let message = body.strip_prefix("{\"dequeuedMessage\":").unwrap().strip_suffix('}').unwrap();
    assert_eq!(String::from_utf8(run.body).unwrap(), message);
    assert_eq!(broker.metric(&format!("{REFUSED}{{field=\"run.machine.name\"}}")).await, 2);
}

#[tokio::test]
async fn the_other_dialect_goes_by_the_same_check() {
    for (check, delivered) in [("strict", false), ("shape", true)] {
        let broker = Broker::start(&["--message-check", check]);
        let pool = Pool::small("d1");
        let _stock = broker.held_poll(&pool, "one").await;
        let mut message = pool.message("run_1");
        message["environment"]["type"] = "MOON".into();
        let request = support::post(&pool.path(), &message.to_string());
        let answer = broker.client().await.ask(request).await.json();
        assert_eq!(answer["delivered"], delivered, "{check}: {answer}");
    }
}

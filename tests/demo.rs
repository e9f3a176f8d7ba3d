//! Owns the tests of the demo: of one broker, and of a cluster over a real NATS server.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this file is tests only")]

mod support;

use std::process::{Command, Output};

use support::nats::NatsServer;

fn demo(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.arg("demo").args(arguments).env("RUST_LOG", "error");
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// The number after a word of the summary, which is the last line.
fn figure(said: &str, word: &str) -> u32 {
    let summary = said.lines().last().unwrap();
    let after = summary.split(word).nth(1).unwrap_or_else(|| panic!("no {word}: {said}"));
    after.trim_start_matches([' ', '(']).split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn one_broker_delivers_every_run() {
    let (code, said, wrong) = demo(&["--controllers", "20", "--rate", "40", "--duration", "1s"]);
    assert_eq!(code, Some(0), "{said}{wrong}");
    assert!(said.starts_with("broker: http://127.0.0.1:") && !said.contains("another broker"), "{said}");
    assert_eq!((figure(&said, "hits"), figure(&said, "lost")), (figure(&said, "runs"), 0));
}

#[test]
fn several_brokers_deliver_each_others_runs() {
    let Some(nats) = NatsServer::start("") else { return };
    let flags =
        ["--brokers", "3", "--nats", &nats.url(), "--controllers", "40", "--rate", "40", "--duration", "2s"];
    // A broker that stands still for a moment on a busy machine is silent, and its run may be received twice then. Not each time.
    let is_calm = |(_, _, wrong): &(_, _, String)| !wrong.contains("received twice");
    let (code, said, wrong) = (0..3).map(|_| demo(&flags)).find(is_calm).expect("no run is received twice");
    assert_eq!(code, Some(0), "{said}{wrong}");
    for line in ["broker 1: http://", "broker 3: http://", "3 brokers · 40 controllers"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let (hits, forwarded) = (figure(&said, "hits"), forwarded(&said));
    // Two thirds of the runs are posted where their controllers do not wait.
    assert!(hits >= 60 && forwarded * 2 > hits && forwarded * 10 < hits * 9, "{said}");
    assert_eq!(figure(&said, "lost"), 0, "{said}");
}

fn forwarded(said: &str) -> u32 {
    let summary = said.lines().last().unwrap();
    let inside = summary.split('(').nth(1).unwrap_or_else(|| panic!("no forwards: {said}"));
    assert!(inside.contains("through another broker)"), "{said}");
    inside.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn several_brokers_without_nats_are_refused_with_how_to_start_it() {
    let (code, said, wrong) = demo(&["--brokers", "2", "--duration", "1s"]);
    assert_eq!((code, said.as_str()), (Some(2), ""), "{wrong}");
    for words in ["--brokers 2 needs --nats", "start `nats-server`", "--nats nats://127.0.0.1:4222"] {
        assert!(wrong.contains(words), "{words}: {wrong}");
    }
}

#[test]
fn brokers_that_do_not_find_each_other_say_so() {
    let (code, _, wrong) = demo(&["--brokers", "2", "--nats", "nats://127.0.0.1:1", "--duration", "1s"]);
    assert_eq!(code, Some(1), "{wrong}");
    assert!(wrong.contains("have not found each other") && wrong.contains("nats-server"), "{wrong}");
}

//! Owns the test of what a request costs: counts, which do not depend on a machine's speed, against `bench/counts.json`.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]

use std::path::{Path, PathBuf};
use std::process::Command;

use pilotlight_bench::count::{Conditions, Limits, ROUNDS, count_all, missing_tools, table};

/// How to accept new figures.
const WRITE: &str = "PILOTLIGHT_WRITE_COUNTS";

#[test]
fn a_request_costs_no_more_than_the_table_says() {
    let missing = missing_tools();
    if !missing.is_empty() {
        return eprintln!("skipped: nothing is counted without {}", missing.join(" and "));
    }
    let broker = built_broker();
    if std::env::var_os(WRITE).is_some() {
        return limits(&broker, ROUNDS).write().unwrap();
    }
    let kept = Limits::read().unwrap();
    // One round takes a third of the time, and is all it takes as long as nothing has become dearer.
    if kept.exceeded_by(&limits(&broker, 1)).is_empty() {
        return;
    }
    let exceeded = kept.exceeded_by(&limits(&broker, ROUNDS));
    assert!(
        exceeded.is_empty(),
        "a request costs more than bench/counts.json says:\n{}\nFind out what costs it: valgrind --tool=callgrind, or `pilotlight-bench \
         count` for each commit. If the cost is worth it, say so in the commit's message, and write the table anew:\n\
         {WRITE}=1 cargo test -p pilotlight-bench --test counts\n",
        exceeded.join("\n")
    );
}

/// What requests and held waiters cost now; each cost of a request is the median of so many.
fn limits(broker: &Path, rounds: usize) -> Limits {
    let counts = count_all(broker, rounds).unwrap();
    let conditions = Conditions::here().unwrap();
    eprintln!("{}", table(&conditions, &counts));
    let held =
        [("held poll", "poll"), ("held WebSocket", "websocket"), ("held stream of events", "event-stream")];
    Limits::new(conditions, &counts, &held.map(|(name, kind)| (name, live_bytes(kind))))
}

/// The broker of the profile `release`: optimized, and quick to build.
fn built_broker() -> PathBuf {
    let here = Path::new(env!("CARGO_BIN_EXE_pilotlight-bench"));
    let target = here.ancestors().nth(2).unwrap();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--quiet", "-p", "pilotlight", "--target-dir"])
        .arg(target)
        .status();
    assert!(built.unwrap().success(), "the broker cannot be built");
    target.join("release/pilotlight")
}

/// The live bytes of each of some thousand held waiters of a kind, as `pilotlight-bench memory` counts them.
fn live_bytes(kind: &str) -> f64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight-bench"));
    let output =
        command.args(["memory", "--each", "3000", "--kind", kind]).env("RUST_LOG", "error").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let live = text.split("Per connection: ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    live.unwrap_or_else(|| panic!("no figure: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

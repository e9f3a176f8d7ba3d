//! Owns the short trials of a cluster: chaos and a rolling restart, as `tests/run --long` runs them for longer.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may panic, and says what it skips and what the program printed"
)]

use std::path::Path;
use std::process::Command;

use pilotlight_bench::nats::NatsServer;

/// Runs the program with these arguments, on the broker of the same profile; prints what it printed if it fails.
fn check(arguments: &str) {
    if let Err(error) = NatsServer::program() {
        return eprintln!("skipped: {error:#}");
    }
    let program = Path::new(env!("CARGO_BIN_EXE_pilotlight-reliability"));
    build_broker_beside(program);
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A test of this package alone does not build it.
fn build_broker_beside(program: &Path) {
    let target = program.ancestors().nth(2).unwrap();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--quiet", "-p", "pilotlight", "--target-dir"])
        .arg(target)
        .status();
    assert!(built.unwrap().success(), "the broker cannot be built");
}

#[test]
fn every_run_is_accounted_for_while_brokers_and_nats_fail() {
    check("cluster-chaos --for 12s --rate 60 --controllers 120 --fleets 4 --pools 4 --seed 3");
}

#[test]
fn a_rolling_restart_loses_no_run_no_controller_and_no_hit() {
    check("rolling-restart --drain-window 2s --between 1s --controllers 100 --pools 5 --rate 50");
}

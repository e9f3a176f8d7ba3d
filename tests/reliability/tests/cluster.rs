//! Owns the short trials of a cluster: chaos and a rolling restart, as `tests/run --long` runs them for longer.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may panic, and says what it skips and what the program printed"
)]

mod program;

use pilotlight_bench::nats::NatsServer;

fn check(arguments: &str) {
    match NatsServer::program() {
        Ok(_) => program::check(arguments),
        Err(error) => eprintln!("skipped: {error:#}"),
    }
}

#[test]
fn every_run_is_accounted_for_while_brokers_and_nats_fail() {
    check("cluster-chaos --for 12s --rate 60 --controllers 120 --fleets 4 --pools 4 --seed 3");
}

#[test]
fn a_rolling_restart_loses_no_run_no_controller_and_no_hit() {
    check("rolling-restart --drain-window 2s --between 1s --controllers 100 --pools 5 --rate 50");
}

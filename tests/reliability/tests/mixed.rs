//! Owns the short trials of controllers that wait in every way, as `tests/run --long` runs them for longer.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and says what the program printed"
)]

mod program;

use program::check;

#[test]
fn each_run_of_a_mixed_pool_is_received_once_also_while_a_third_dies() {
    check("mixed --runs 1500 --seed 3");
}

#[test]
fn every_run_is_accounted_for_while_sessions_and_polls_fail() {
    check(
        "chaos --for 26s --rate 60 --controllers 96 --fleets 4 --pools 3 --websockets 0.35 --streams 0.35 --seed 5",
    );
}

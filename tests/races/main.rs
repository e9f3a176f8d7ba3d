//! Owns the races: concurrent code under every thread order that shuttle and loom generate.
#![cfg(races)]
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic, and is no library")]

mod handover;
mod idempotency;
mod pool_feed;
mod waitlist;
mod ways_out;
mod world;

/// `PILOTLIGHT_LONG=1` runs ten times as many schedules.
fn is_long() -> bool {
    std::env::var_os("PILOTLIGHT_LONG").is_some_and(|long| long == "1")
}

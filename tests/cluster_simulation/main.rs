//! Owns the simulation of a cluster: seeded random histories of a few brokers in virtual time, with everything that can go wrong
//! between them, and an oracle that sees all.
//!
//! Real are the core (`Broker`), the directory and the announcements (`Member`), the bytes of every message, the rules of a
//! forward and the delivery policy. Simulated are time, NATS, controllers and supervisors, and the code that drives the real
//! parts, which in the broker is asynchronous (`delivery.rs` here).
//!
//! A failure prints its seed; `PILOTLIGHT_SEED=n cargo test --test cluster_simulation` repeats it, `PILOTLIGHT_LONG=1` runs more
//! seeds.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it found")]
#![allow(unreachable_pub, reason = "the files of one test")]

mod delivery;
mod faults;
mod fleet;
mod network;
mod oracle;
mod owner;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use faults::{BROKER_FAULTS, Fault, simulate};
use oracle::Stats;

const SEEDS: u64 = 2000;
const LONG: u64 = 100_000;

/// Faults of the broker that the oracle must find.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Bugs {
    /// An owner claims waiters for a forward of any age.
    pub ignores_age: bool,
    /// A broker does not note what it tells in answers, so that the next waiter is not announced.
    pub hides_waiter: bool,
    /// A cloned broker keeps its id.
    pub keeps_id: bool,
    /// What is published while disconnected is sent later.
    pub buffers_publishes: bool,
    /// The rows of a silent broker stay visible.
    pub keeps_silent_rows: bool,
    /// The second copy of an answer counts for the next forward.
    pub takes_answers_twice: bool,
}

/// What some seeds have led to.
#[derive(Default)]
struct Findings {
    stats: Stats,
    events: usize,
    /// The seeds with violations.
    failed: BTreeMap<u64, Vec<String>>,
}

/// Simulates the seeds, up to the first one with a violation if `is_enough`.
fn simulate_all(
    seeds: Range<u64>,
    bugs: Bugs,
    faults: &[Fault],
    is_enough: impl Fn(&[String]) -> bool + Sync,
) -> Findings {
    let next = AtomicU64::new(seeds.start);
    let findings = Mutex::new(Findings::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let oracle = std::panic::catch_unwind(|| simulate(seed, bugs, faults)).unwrap_or_else(|panic| {
                eprintln!("PILOTLIGHT_SEED={seed} repeats this panic");
                std::panic::resume_unwind(panic);
            });
            let mut findings = findings.lock().unwrap();
            findings.stats.add(&oracle.stats);
            findings.events += oracle.events;
            if is_enough(&oracle.violations) {
                next.store(seeds.end, Ordering::Relaxed);
            }
            if !oracle.violations.is_empty() {
                findings.failed.insert(seed, oracle.violations);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    findings.into_inner().unwrap()
}

fn assert_no_violations(seeds: Range<u64>, bugs: Bugs, faults: &[Fault]) -> Stats {
    let began = Instant::now();
    let Findings { stats, events, failed } = simulate_all(seeds.clone(), bugs, faults, |_| false);
    let took = began.elapsed();
    eprintln!("{} seeds, {events} events in {took:?}: {stats:#?}", seeds.end - seeds.start);
    for (seed, violations) in failed.iter().take(10) {
        eprintln!("PILOTLIGHT_SEED={seed} repeats: {violations:#?}");
    }
    assert!(failed.is_empty(), "{} seeds have violations", failed.len());
    stats
}

/// The oracle must find this bug, by a violation that contains this text.
fn assert_found(bugs: Bugs, faults: &[Fault], text: &str) {
    let has_text = |violations: &[String]| violations.iter().any(|violation| violation.contains(text));
    let Findings { failed, .. } = simulate_all(0..SEEDS, bugs, faults, has_text);
    let found = failed.iter().find(|(_, violations)| has_text(violations));
    eprintln!("{bugs:?}: {found:?}");
    assert!(found.is_some(), "{bugs:?} is not found");
}

#[test]
fn every_run_is_delivered_as_its_mode_allows_and_every_broker_knows_the_others() {
    let chosen = std::env::var_os("PILOTLIGHT_SEED").and_then(|seed| seed.to_str()?.parse().ok());
    let is_long = std::env::var_os("PILOTLIGHT_LONG").is_some();
    let seeds = chosen.map_or(0..if is_long { LONG } else { SEEDS }, |seed: u64| seed..seed + 1);
    let stats = assert_no_violations(seeds, Bugs::default(), &BROKER_FAULTS);
    let Stats { remote_hits, probes, silent, stale, no_receivers, questions, changed_ids, .. } = stats;
    let happened = [remote_hits, probes, silent, stale, no_receivers, questions, changed_ids];
    assert!(chosen.is_some() || happened.iter().all(|times| *times > 100), "too little happened: {stats:?}");
}

/// The real client sends nothing late, and one that does may only cost misses.
#[test]
fn what_a_client_sends_late_does_no_harm() {
    let buffers = Bugs { buffers_publishes: true, ..Bugs::default() };
    assert_no_violations(0..SEEDS / 4, buffers, &BROKER_FAULTS);
}

#[test]
fn an_owner_that_ignores_the_age_of_forwards_is_found() {
    let bugs = Bugs { ignores_age: true, ..Bugs::default() };
    assert_found(bugs, &BROKER_FAULTS, "after its origin had given up");
}

#[test]
fn a_forward_that_was_kept_while_disconnected_is_found_unless_its_age_is_checked() {
    let ignores_age = Bugs { ignores_age: true, ..Bugs::default() };
    assert_no_violations(0..SEEDS / 8, ignores_age, &[Fault::Down]);
    let bugs = Bugs { buffers_publishes: true, ..ignores_age };
    assert_found(bugs, &[Fault::Down], "after its origin had given up");
}

#[test]
fn a_linger_that_hides_a_waiter_is_found() {
    let bugs = Bugs { hides_waiter: true, ..Bugs::default() };
    assert_found(bugs, &[], "has 0 waiters, not 1");
}

#[test]
fn two_brokers_with_one_id_are_found() {
    let bugs = Bugs { keeps_id: true, ..Bugs::default() };
    assert_found(bugs, &[Fault::Clone], "believes that pool");
}

#[test]
fn rows_that_outlive_their_broker_are_found() {
    let bugs = Bugs { keeps_silent_rows: true, ..Bugs::default() };
    assert_found(bugs, &[Fault::Kill], "which is dead");
}

#[test]
fn an_answer_that_is_taken_twice_is_found() {
    let bugs = Bugs { takes_answers_twice: true, ..Bugs::default() };
    assert_found(bugs, &BROKER_FAULTS, "was received after its answer");
}

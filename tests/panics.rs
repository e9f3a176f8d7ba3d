//! Owns what a panic takes with it: the whole process under a lock that everybody shares, and no more than itself elsewhere.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![cfg(not(races))]

use std::hash::{Hash, Hasher};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use pilotlight::broker::{
    AcceptedPayload, Filter, HostId, Key, Limits, MonotonicTime, Number, ParkRequest, SelectionPolicy,
};
use pilotlight::exchange::{Exchange, IdempotencyCache, ParkedGuard, SuspectSweep};
use pilotlight::journal::{Journal, JournalConfig};
use pilotlight::metrics::Metrics;
use pilotlight::model::PollEnd;

const MACHINE: HostId = HostId { address: 1, name: None };
const SIGABRT: i32 = 6;
const SURVIVED: &str = "the others are served";

/// A world with one waiter of a suspect machine, whose deadline has come.
fn world() -> (Arc<Exchange<()>>, ParkedGuard<()>) {
    let metrics = Arc::new(Metrics::new().unwrap());
    let journal = Arc::new(Journal::open(&JournalConfig::default(), metrics.clone()).unwrap());
    let limits = Limits { waiters: 10, waiters_per_pool: 10, pools: 10 };
    let exchange = Arc::new(Exchange::new(limits, SelectionPolicy::Newest, metrics, journal));
    let number = Number::new(1.0).unwrap();
    let ticket = ParkRequest {
        key: Key { deployment: "d".into(), version: "1".into(), cpu: number, memory: number },
        accepts: AcceptedPayload::Any,
        controller: "".into(),
        origin: [127, 0, 0, 1].into(),
        host: MACHINE,
        offer_until: MonotonicTime::from_micros(u64::MAX / 2),
        deadline: MonotonicTime::default(),
        waiter: (),
    };
    let Ok((place, None)) = exchange.park(ticket) else { panic!("nobody else is here") };
    exchange.suspect(MACHINE);
    (exchange, place)
}

/// A run's name that panics when it is looked up.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Broken;

impl Hash for Broken {
    fn hash<H: Hasher>(&self, _: &mut H) {
        panic!("broken")
    }
}

fn in_a_thread(act: impl FnOnce() + Send + 'static) {
    assert!(thread::spawn(act).join().is_err(), "it panicked");
}

/// The other side of each test, in a process of its own.
#[test]
#[ignore = "started by the tests"]
fn the_one_that_panics() {
    let Some(how) = std::env::var_os("PANICS") else { return };
    let (exchange, place) = world();
    let same = exchange.clone();
    match how.to_str().unwrap() {
        "under the core's lock" => in_a_thread(move || {
            let sign_of = |&(): &()| panic!("broken");
            same.sweep_suspects(&mut SuspectSweep::<()>::default(), sign_of, |()| {}, |(), _| false);
        }),
        "under the memory's lock" => in_a_thread(|| {
            let repeats = Arc::new(IdempotencyCache::<Broken, ()>::default());
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(repeats.begin(&Broken, None, Duration::ZERO));
        }),
        "in a goodbye" => in_a_thread(move || same.expire(PollEnd::Expired, |_| panic!("broken"))),
        "with a place" => in_a_thread(move || {
            let _place = place;
            panic!("broken");
        }),
        other => panic!("{other} is unknown"),
    }
    let left = (exchange.counts(), exchange.waiters(&Filter::default(), 0, 10).rows.len());
    assert_eq!(left, ((0, 0), 0), "whoever was taken, or left, is out");
    println!("{SURVIVED}");
}

fn panics(how: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_one_that_panics", "--ignored", "--nocapture"])
        .env("PANICS", how)
        .output()
        .unwrap()
}

#[test]
fn a_panic_under_a_shared_lock_ends_the_process_and_says_so() {
    for how in ["under the core's lock", "under the memory's lock"] {
        let ended = panics(how);
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.signal(), Some(SIGABRT), "{how}: {said}");
        assert!(said.contains("broken") && said.contains("panicked under the lock"), "{how}: {said}");
    }
}

#[test]
fn a_panic_elsewhere_ends_its_own_work_only() {
    for how in ["in a goodbye", "with a place"] {
        let ended = panics(how);
        let said = String::from_utf8(ended.stdout).unwrap();
        assert!(ended.status.success() && said.contains(SURVIVED), "{how}: {said}");
    }
}

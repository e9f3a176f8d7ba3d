//! Owns the tests of panics: under a shared lock a panic ends the process, and elsewhere only its own task.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![cfg(not(races))]

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use pilotlight::broker::{
    AcceptedPayload, Filter, HostId, KeyRef, Limits, MonotonicTime, Number, ParkRequest, SelectionPolicy,
};
use pilotlight::exchange::{Exchange, IdempotencyCache, ParkedGuard, SuspectSweep};
use pilotlight::journal::{Journal, JournalConfig};
use pilotlight::metrics::Metrics;
use pilotlight::model::PollEnd;

const HOST: HostId = HostId { address: IpAddr::V4(Ipv4Addr::LOCALHOST), name: None };
const SIGABRT: i32 = 6;
const SURVIVED: &str = "other requests are served";

/// An exchange with one waiter of a suspect host, whose deadline has come.
fn exchange_with_waiter() -> (Arc<Exchange<()>>, ParkedGuard<()>) {
    let metrics = Arc::new(Metrics::new().unwrap());
    let journal = Arc::new(Journal::open(&JournalConfig::default(), metrics.clone()).unwrap());
    let limits = Limits { waiters: 10, waiters_per_pool: 10, pools: 10 };
    let exchange = Arc::new(Exchange::new(limits, SelectionPolicy::Newest, metrics, journal));
    let number = Number::new(1.0).unwrap();
    let request = ParkRequest {
        key: KeyRef { deployment: "d", version: "1", cpu: number, memory: number },
        accepts: AcceptedPayload::Any,
        controller: "".into(),
        host: HOST,
        is_exclusive: true,
        offer_until: MonotonicTime::from_micros(u64::MAX / 2),
        deadline: MonotonicTime::default(),
        waiter: (),
    };
    let Ok((guard, None)) = exchange.park(request, exchange.now()) else {
        panic!("there is no other waiter")
    };
    exchange.suspect(HOST);
    (exchange, guard)
}

/// An idempotency key that panics when it is compared with another one.
#[derive(Clone, Copy, Eq)]
struct Broken;

impl Hash for Broken {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl PartialEq for Broken {
    fn eq(&self, _: &Self) -> bool {
        panic!("broken")
    }
}

fn in_a_thread(act: impl FnOnce() + Send + 'static) {
    assert!(thread::spawn(act).join().is_err(), "it panicked");
}

/// The child process of each test.
#[test]
#[ignore = "started by the other tests"]
fn the_process_that_panics() {
    let Some(how) = std::env::var_os("PANICS") else { return };
    let (exchange, guard) = exchange_with_waiter();
    let same = exchange.clone();
    match how.to_str().unwrap() {
        "under the core's lock" => in_a_thread(move || {
            let sign_of = |&(): &()| panic!("broken");
            same.sweep_suspects(&mut SuspectSweep::<()>::default(), sign_of, |()| {}, |(), _| false);
        }),
        "under the cache's lock" => in_a_thread(|| {
            let cache = Arc::new(IdempotencyCache::<Broken, ()>::default());
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let first = runtime.block_on(cache.begin(&Broken, None, Duration::ZERO));
            runtime.block_on(cache.begin(&Broken, None, Duration::ZERO));
            drop(first);
        }),
        "while a waiter is ended" => in_a_thread(move || same.expire(PollEnd::Expired, |_| panic!("broken"))),
        "with a parked guard" => in_a_thread(move || {
            let _guard = guard;
            panic!("broken");
        }),
        other => panic!("{other} is unknown"),
    }
    let left = (exchange.counts(), exchange.waiters(&Filter::default(), 0, 10).rows.len());
    assert_eq!(left, ((0, 0), 0), "the waiter was removed");
    println!("{SURVIVED}");
}

fn panics(how: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_panics", "--ignored", "--nocapture"])
        .env("PANICS", how)
        .output()
        .unwrap()
}

#[test]
fn a_panic_under_a_shared_lock_ends_the_process_with_a_message() {
    for how in ["under the core's lock", "under the cache's lock"] {
        let ended = panics(how);
        let output = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.signal(), Some(SIGABRT), "{how}: {output}");
        assert!(output.contains("broken") && output.contains("panicked under the lock"), "{how}: {output}");
    }
}

#[test]
fn a_panic_elsewhere_ends_its_own_task_only() {
    for how in ["while a waiter is ended", "with a parked guard"] {
        let ended = panics(how);
        let output = String::from_utf8(ended.stdout).unwrap();
        assert!(ended.status.success() && output.contains(SURVIVED), "{how}: {output}");
    }
}

//! Owns the tests with many controllers and supervisors at once: every run is accounted for, and no memory or descriptor is
//! left in use.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use support::client::Client;
use support::{Broker, Pool, post};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

const CONTROLLERS: usize = 500;
const KEYS: usize = 20;
const SUPERVISORS: usize = 50;
const RUNS: usize = 20_000;

/// Every receipt: the run, and the key of the controller that got it.
type Receipts = Arc<Mutex<HashMap<String, Vec<usize>>>>;

fn pool(key: usize) -> Pool {
    Pool::new(&format!("d{}", key / 4), &format!("v{}", key % 2), ["0.5", "1"][key / 2 % 2], "0.5")
}

async fn controller(broker: SocketAddr, number: usize, receipts: Receipts) {
    let key = number % KEYS;
    let poll = pool(key).poll(&format!("controller_{number}"));
    let mut client = Client::connect(broker).await;
    loop {
        client.send(&poll).await;
        let Some(run) = client.try_answer().await else { panic!("a poll was closed") };
        if run.header("connection") == Some("close") {
            client = Client::connect(broker).await;
        }
        let run = run.json()["run"]["friendlyId"].as_str().unwrap().to_owned();
        receipts.lock().entry(run).or_default().push(key);
    }
}

/// Posts runs until all are delivered; a run that was missed is posted again, like a new one.
async fn supervisor(broker: SocketAddr, next: Arc<AtomicUsize>, misses: Arc<AtomicUsize>) {
    let mut client = Client::connect(broker).await;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= RUNS {
            return;
        }
        for attempt in 0.. {
            let body = pool(number % KEYS).body(&format!("run_{number}_{attempt}"));
            let answer = client.ask(post("/warm-start", &body)).await.json();
            if answer["didWarmStart"] == true {
                break;
            }
            assert_eq!(answer["reason"], "all_taken");
            misses.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn every_run_of_a_crowd_is_received_once_by_a_controller_of_its_key() {
    dispatch_to_a_crowd("written", &[]).await;
}

#[tokio::test]
async fn every_true_of_a_crowd_is_proved_received() {
    dispatch_to_a_crowd("received", &[]).await;
}

/// Many serving threads on few cores, so that a decision of one thread often becomes visible late to another.
#[tokio::test]
async fn a_crowd_on_many_threads_is_served_the_same() {
    dispatch_to_a_crowd("written", &["--threads", "8"]).await;
}

async fn dispatch_to_a_crowd(proof: &str, arguments: &[&str]) {
    let broker = Broker::proving(proof, &[&["--connection-timeout", "299s"], arguments].concat());
    let receipts = Receipts::default();
    let mut controllers = JoinSet::new();
    for number in 0..CONTROLLERS {
        controllers.spawn(controller(broker.public, number, receipts.clone()));
    }
    broker.wait_for_waiters(CONTROLLERS as u64).await;
    let next = Arc::new(AtomicUsize::new(0));
    let misses = Arc::new(AtomicUsize::new(0));
    let supervisors = (0..SUPERVISORS).map(|_| supervisor(broker.public, next.clone(), misses.clone()));
    supervisors.collect::<JoinSet<_>>().join_all().await;
    broker.wait_for_waiters(CONTROLLERS as u64).await;
    assert!(controllers.try_join_next().is_none(), "a controller ended");
    let receipts = std::mem::take(&mut *receipts.lock());
    // A run that was answered `false` has no receipt: only the attempt that hit has one.
    assert_eq!(receipts.len(), RUNS);
    for (run, keys) in receipts {
        let number: usize = run.split('_').nth(1).unwrap().parse().unwrap();
        assert_eq!(keys, [number % KEYS], "{run}");
    }
    let misses = misses.load(Ordering::Relaxed) as u64;
    let dispatched =
        async |outcome: &str| broker.metric(&format!("pilotlight_dispatches_total{{{outcome}}}")).await;
    assert_eq!(dispatched("outcome=\"hit\",reason=\"none\"").await, RUNS as u64);
    assert_eq!(dispatched("outcome=\"miss\",reason=\"all_taken\"").await, misses);
}

/// Connects from many loopback addresses, because a single one runs out of ports.
async fn abort_a_poll(broker: SocketAddr, number: usize) {
    let source = Ipv4Addr::from(0x7f00_0100 + u32::try_from(number % 2000).unwrap());
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    let mut stream = socket.connect(broker).await.unwrap();
    let poll = Pool::small(&format!("d{}", number % 100)).poll(&format!("controller_{number}"));
    stream.write_all(poll.as_bytes()).await.unwrap();
    if number.is_multiple_of(2) {
        // The other half is aborted before the broker can have read it.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_hundred_thousand_aborts_leave_no_memory_behind() {
    let broker = Broker::start(&[]);
    let cycle = async |range: std::ops::Range<usize>| {
        let next = Arc::new(AtomicUsize::new(range.start));
        let mut lanes = JoinSet::new();
        for _ in 0..64 {
            let (next, end, public) = (next.clone(), range.end, broker.public);
            lanes.spawn(async move {
                while let Some(number) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < end) {
                    abort_a_poll(public, number).await;
                }
            });
        }
        lanes.join_all().await;
        broker.wait_for_metric("pilotlight_connections{listener=\"public\",tls=\"false\"}", 0).await;
        // The last connections may have been accepted only now.
        broker.wait_for_waiters(0).await;
        broker.metric("process_resident_memory_bytes").await
    };
    let first = cycle(0..10_000).await;
    let last = cycle(10_000..100_000).await;
    assert!(last.abs_diff(first) <= first / 10, "RSS went from {first} to {last} bytes");
    assert!(broker.metric("pilotlight_polls_total{end=\"client_gone\"}").await > 40_000, "polls were held");
    broker
        .wait_until("the descriptors are closed", async || broker.metric("process_open_fds").await < 64)
        .await;
}

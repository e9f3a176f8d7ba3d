//! Owns the tests with many runs at several brokers: every POST is accounted for, in quiet times and among faults.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it counted")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::cluster::{Cluster, wait_until_known_at};
use support::fleet::{Account, Dialect, Fleet, Posted, Supervisor};
use support::nats::NatsServer;
use support::relay::Relay;
use support::{Broker, Pool};
use tokio::task::JoinSet;

const BROKERS: usize = 3;
const POOLS: usize = 12;

fn pool(number: usize) -> Pool {
    Pool::small(&format!("d{number}"))
}

/// Stock and native supervisors and controllers, in each combination.
fn dialect(number: usize) -> Dialect {
    if number.is_multiple_of(2) { Dialect::Native } else { Dialect::Trigger }
}

/// Posts one run after the other, each to a random broker at which none of its controllers waits.
async fn post_elsewhere(mut supervisor: Supervisor, next: Arc<AtomicUsize>, runs: usize) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= runs {
            return;
        }
        let at = (number % POOLS + 1 + fastrand::usize(..BROKERS - 1)) % BROKERS;
        supervisor.post(at, &pool(number % POOLS), dialect(number / POOLS), &format!("run_{number}")).await;
    }
}

#[tokio::test]
async fn each_of_10_000_runs_whose_waiters_are_at_other_brokers_is_received_once_or_answered_with_a_reason() {
    const RUNS: usize = 10_000;
    let Some(cluster) = Cluster::with(BROKERS, "received", &["--connection-timeout", "299s"]).await else {
        return;
    };
    let mut fleet = Fleet::new(&cluster.addresses);
    for number in 0..POOLS {
        // The controllers of a pool all wait at one broker.
        fleet.add(10, number % BROKERS, &pool(number), Dialect::Native);
        fleet.add(10, number % BROKERS, &pool(number), Dialect::Trigger);
    }
    for (at, broker) in cluster.brokers.iter().enumerate() {
        broker.wait_for_waiters((fleet.len() / BROKERS) as u64).await;
        wait_until_known_at(&cluster.brokers[(at + 1) % BROKERS], &pool(at)).await;
    }
    let next = Arc::new(AtomicUsize::new(0));
    let supervisors = (0..30).map(|_| post_elsewhere(fleet.supervisor(), next.clone(), RUNS));
    supervisors.collect::<JoinSet<_>>().join_all().await;
    let account = fleet.ledger.judge().await;
    eprintln!("{account:?}");
    assert_eq!((account.posts, account.unanswered), (RUNS, 0));
    assert!(account.hit_rate() > 0.8, "{account:?}");
    // Those that the judge allows: a machine that stands still for a moment makes a broker silent.
    assert!(account.duplicates <= RUNS / 100, "{account:?}");
    let forwarded = cluster.metric("pilotlight_cluster_forwards_total{outcome=\"delivered\"}").await;
    assert_eq!(forwarded, account.hits as u64, "every hit was one of another broker");
}

/// The judge of the tests in this file.
#[test]
fn what_no_answer_allows_is_wrong() {
    let judged = |dialect, answer: &str, received| {
        let answer = (!answer.is_empty()).then(|| serde_json::from_str(answer).unwrap());
        let (run, begun, took) = ("run".to_owned(), Instant::now(), Duration::ZERO);
        Account::default().add(&Posted { run, at: 0, dialect, begun, took, answer }, received).is_ok()
    };
    let hit = r#"{"delivered": true, "proof": "received", "offers": 1}"#;
    let second = r#"{"didWarmStart": true, "proof": "received", "offers": 2}"#;
    let [unknown, miss, none] = [("unknown", 1), ("no_pool", 0), ("unknown", 0)].map(|(reason, offers)| {
        format!(r#"{{"delivered": false, "reason": "{reason}", "offers": {offers}}}"#)
    });
    for (dialect, answer, allowed) in [
        (Dialect::Native, hit, &[1][..]),
        (Dialect::Trigger, second, &[1, 2]),
        (Dialect::Native, second, &[1]),
        (Dialect::Native, &unknown, &[0, 1]),
        (Dialect::Trigger, &unknown, &[0, 1, 2]),
        (Dialect::Trigger, hit, &[1]),
        (Dialect::Native, &miss, &[0]),
        (Dialect::Native, &none, &[]),
        (Dialect::Native, "", &[0, 1]),
        (Dialect::Trigger, "", &[0, 1, 2]),
    ] {
        let found: Vec<_> = (0..3).filter(|&received| judged(dialect, answer, received)).collect();
        assert_eq!(found, allowed, "{dialect:?} {answer}");
    }
}

/// A cluster whose brokers reach NATS through relays, which can be frozen.
struct Stage {
    cluster: Cluster,
    relays: Vec<Relay>,
}

impl Stage {
    async fn start() -> Option<Self> {
        let nats = NatsServer::start("")?;
        let cluster = Cluster::empty(nats, "received", &["--drain-window", "300ms"]);
        let mut stage = Self { cluster, relays: Vec::new() };
        for _ in 0..BROKERS {
            stage.relays.push(Relay::between(([127, 0, 0, 1], 0).into(), stage.cluster.nats.address).await);
            let broker = stage.broker(stage.relays.len() - 1);
            stage.cluster.addresses.lock().push(broker.public);
            stage.cluster.brokers.push(broker);
        }
        stage.cluster.settle().await;
        Some(stage)
    }

    fn broker(&self, at: usize) -> Broker {
        Broker::run(&mut self.cluster.command(&format!("nats://{}", self.relays[at].address), &[]))
    }

    /// Starts a broker in the place of one that has ended.
    fn replace(&mut self, at: usize) {
        let broker = self.broker(at);
        self.cluster.addresses.lock()[at] = broker.public;
        self.cluster.brokers[at] = broker;
    }

    /// One fault, and its end.
    async fn suffer(&mut self, fault: Fault, at: usize, lasts: Duration) {
        match fault {
            Fault::Kill => {
                self.cluster.kill(at);
                tokio::time::sleep(lasts).await;
                self.replace(at);
            }
            Fault::Drain => {
                self.cluster.brokers[at].signal(Signal::TERM);
                assert!(self.cluster.brokers[at].ended().await.success());
                self.replace(at);
            }
            Fault::Pause => {
                self.cluster.brokers[at].stop().await;
                tokio::time::sleep(lasts).await;
                self.cluster.resume(at);
            }
            Fault::Partition => {
                self.relays[at].freeze();
                tokio::time::sleep(lasts).await;
                self.relays[at].thaw();
            }
            Fault::NatsPause => {
                self.cluster.nats.pause();
                tokio::time::sleep(lasts).await;
                self.cluster.nats.resume();
            }
            Fault::NatsRestart => {
                self.cluster.nats.stop();
                tokio::time::sleep(lasts).await;
                self.cluster.nats.restart();
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    Drain,
    Pause,
    Partition,
    NatsPause,
    NatsRestart,
}

const FAULTS: [Fault; 6] =
    [Fault::Kill, Fault::Pause, Fault::Partition, Fault::NatsPause, Fault::NatsRestart, Fault::Drain];

/// Posts runs of random pools to one broker until told to stop.
async fn post_to(at: usize, mut supervisor: Supervisor, next: Arc<AtomicUsize>, is_over: Arc<AtomicBool>) {
    while !is_over.load(Ordering::Relaxed) {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let key = fastrand::usize(..POOLS);
        supervisor.post(at, &pool(key), dialect(number), &format!("run_{number}")).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..200))).await;
    }
}

/// Each fault in turn; with `PILOTLIGHT_LONG`, for minutes. `PILOTLIGHT_SEED` repeats the order and the times.
#[tokio::test]
async fn among_kills_pauses_and_partitions_no_true_is_wrong_and_no_run_comes_twice_unasked() {
    let chosen = std::env::var_os("PILOTLIGHT_SEED").and_then(|seed| seed.to_str()?.parse().ok());
    let seed = chosen.unwrap_or_else(|| fastrand::u64(..));
    let rounds = if std::env::var_os("PILOTLIGHT_LONG").is_some() { 20 } else { 1 };
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let Some(mut stage) = Stage::start().await else { return };
    let mut fleet = Fleet::new(&stage.cluster.addresses);
    for number in 0..POOLS {
        // Most pools have controllers at two brokers.
        for offset in 0..2 {
            let at = (number + offset) % BROKERS;
            fleet.add(5, at, &pool(number), Dialect::Native);
            fleet.add(5, at, &pool(number), Dialect::Trigger);
        }
    }
    let (next, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    // Those of a broker that is paused wait; the others go on.
    let supervisors =
        (0..60).map(|number| post_to(number % BROKERS, fleet.supervisor(), next.clone(), is_over.clone()));
    let supervisors: JoinSet<_> = supervisors.collect();
    for _ in 0..rounds {
        let mut faults = FAULTS;
        random.shuffle(&mut faults);
        for fault in faults {
            let (at, lasts) = (random.usize(..BROKERS), Duration::from_millis(random.u64(200..3500)));
            stage.suffer(fault, at, lasts).await;
            let begun = Instant::now();
            stage.cluster.settle().await;
            eprintln!("{fault:?} of {at} for {lasts:?}; all see each other {:?} later", begun.elapsed());
        }
    }
    is_over.store(true, Ordering::Relaxed);
    supervisors.join_all().await;
    let account = fleet.ledger.judge().await;
    eprintln!("{account:?}");
    assert!(account.posts > 500 && account.hit_rate() > 0.5, "{account:?}");
    // Afterwards all is as before: every pool is reached through every broker.
    for at in 0..BROKERS {
        for key in 0..POOLS {
            stage.cluster.brokers[at]
                .wait_until("a hit", async || {
                    let run = format!("after_{}", next.fetch_add(1, Ordering::Relaxed));
                    let mut supervisor = fleet.supervisor();
                    supervisor
                        .post(at, &pool(key), Dialect::Native, &run)
                        .await
                        .is_some_and(|post| post.is_hit())
                })
                .await;
        }
    }
    fleet.ledger.judge().await;
}

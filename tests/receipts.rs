//! Owns the tests of receipts: whether a `true` is correct when controllers stop, die, abort, half-close or do not read.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and prints what it skips")]

mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::client::Client;
use support::{Broker, Pool, post};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

fn outcome(answer: &Value) -> (bool, &str, u64) {
    let word = answer["proof"].as_str().or(answer["reason"].as_str()).unwrap();
    (answer["didWarmStart"].as_bool().unwrap(), word, answer["offers"].as_u64().unwrap())
}

/// A controller in its own process: a shell that polls, and prints each line that it receives.
struct Process {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Process {
    async fn start(broker: &Broker, pool: &Pool) -> Self {
        let before = broker.waiters("").await;
        let port = broker.public.port();
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; printf '%s' \"$POLL\" >&3; while read -r line <&3; do echo \"$line\"; done"
        );
        let mut child = Command::new("bash")
            .args(["-c", &script])
            .env("POLL", pool.poll("process"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        broker.wait_for_waiters(before + 1).await;
        Self { child, lines }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops the process, and waits until it has stopped, because the signal takes effect later.
    async fn stop(&self) {
        self.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self.child.id());
        while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Everything that the process received until its end.
    fn received(&mut self) -> String {
        self.lines.by_ref().map_while(Result::ok).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_stopped_process_is_no_receipt_and_the_next_waiter_has_the_run() {
    let broker = Broker::proving("received", &[]);
    let pool = Pool::small("d1");
    let mut alive = broker.held_poll(&pool, "alive").await;
    let stopped = Process::start(&broker, &pool).await;
    stopped.stop().await;
    let body = pool.body("run_1");
    let (answer, receipt) = tokio::join!(broker.post(&body), alive.answer());
    assert_eq!(outcome(&answer.1), (true, "received", 2));
    assert_eq!(receipt.json()["run"]["friendlyId"], "run_1");
    assert_eq!(broker.metric("pilotlight_offers_total{verdict=\"frozen\"}").await, 1);
    let alone = Process::start(&broker, &pool).await;
    alone.stop().await;
    let begun = Instant::now();
    assert_eq!(outcome(&broker.post(&pool.body("run_2")).await.1), (false, "undelivered", 1));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_process_killed_with_the_run_unread_leaves_it_unknown() {
    let broker = Broker::proving("received", &["--proof-timeout", "5s", "--dispatch-budget", "8s"]);
    let pool = Pool::small("d1");
    let mut spare = broker.held_poll(&pool, "spare").await;
    let mut victim = Process::start(&broker, &pool).await;
    victim.stop().await;
    let body = pool.body("run_1");
    let killing = async {
        broker.wait_for_waiters(1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        victim.signal(Signal::KILL);
    };
    let (answer, ()) = tokio::join!(broker.post(&body), killing);
    assert_eq!(
        outcome(&answer.1),
        (false, "unknown", 1),
        "a proxy that has forwarded the run looks the same"
    );
    assert_eq!(broker.metric("pilotlight_offers_total{verdict=\"lost\"}").await, 1);
    assert_eq!(victim.received(), "");
    assert!(spare.is_held().await, "no other controller gets a byte");
    assert_eq!(broker.post(&body).await.1["reason"], "unknown", "nor when it is posted again");
    // The next run is not affected.
    let body = pool.body("run_2");
    let (answer, receipt) = tokio::join!(broker.post(&body), spare.answer());
    assert_eq!((outcome(&answer.1), receipt.status), ((true, "received", 1), 200));
}

#[tokio::test]
async fn a_process_killed_before_the_run_is_never_written_to() {
    let broker = Broker::proving("received", &[]);
    let pool = Pool::small("d1");
    for _ in 0..10 {
        let victim = Process::start(&broker, &pool).await;
        let mut supervisor = broker.client().await;
        broker.stop().await;
        supervisor.send(post("/warm-start", &pool.body("run_1"))).await;
        drop(victim);
        broker.signal(Signal::CONT);
        let answer = supervisor.answer().await.json();
        assert_eq!(answer["didWarmStart"], false, "{answer}");
    }
    assert_eq!(broker.metric("pilotlight_offers_total{verdict=\"lost\"}").await, 0);
}

#[tokio::test]
async fn a_half_closed_controller_is_passed_over() {
    let broker = Broker::proving("received", &[]);
    let pool = Pool::small("d1");
    let mut half = broker.held_poll(&pool, "half").await;
    half.stream.shutdown().await.unwrap();
    broker.wait_for_waiters(0).await;
    assert!(!outcome(&broker.post(&pool.body("run_1")).await.1).0);
    assert!(half.rest().await.is_empty());
}

#[tokio::test]
async fn a_client_that_reads_to_the_end_has_read_the_run() {
    let broker = Broker::proving("received", &[]);
    let pool = Pool::small("d1");
    for round in 0..20 {
        let mut controller = broker.held_poll(&pool, "to-the-end").await;
        let reading = async {
            let answer = controller.rest().await.len();
            drop(controller);
            answer
        };
        let body = pool.body(&format!("run_{round}"));
        let (answer, read) = tokio::join!(broker.post(&body), reading);
        assert_eq!(outcome(&answer.1), (true, "received", 1), "round {round}");
        assert!(read > 1000);
    }
}

#[tokio::test]
async fn php_reads_to_the_end_and_has_read_the_run() {
    if Command::new("php").arg("-v").output().is_err() {
        return eprintln!("skipped: no php here");
    }
    let broker = Broker::proving("received", &[]);
    let pool = Pool::small("d1");
    let script = format!("echo file_get_contents('http://{}{}?timeout=20s');", broker.public, pool.path());
    for _ in 0..5 {
        let worker = Command::new("php").args(["-r", &script]).stdout(Stdio::piped()).spawn().unwrap();
        broker.wait_for_waiters(1).await;
        let answer = broker.client().await.ask(post(&pool.path(), "the run")).await.json();
        assert_eq!((&answer["delivered"], &answer["proof"]), (&true.into(), &"received".into()), "{answer}");
        assert_eq!(worker.wait_with_output().unwrap().stdout, b"the run");
    }
}

/// A client that closes with the run unread must not count as one that has read it, however late it closes.
#[tokio::test]
async fn a_client_that_leaves_the_run_unread_is_no_receipt_after_our_fin_either() {
    let broker = Broker::proving("received", &["--proof-timeout", "2s"]);
    let pool = Pool::small("d1");
    for wait in [0, 10, 24, 26, 40, 100, 300] {
        let client = broker.held_poll(&pool, "unread").await;
        let leaving = async {
            client.stream.readable().await.unwrap();
            tokio::time::sleep(Duration::from_millis(wait)).await;
            drop(client);
        };
        let body = pool.body(&format!("run_{wait}"));
        let (answer, ()) = tokio::join!(broker.post(&body), leaving);
        assert!(!outcome(&answer.1).0, "after {wait} ms: {answer:?}");
    }
}

#[tokio::test]
async fn a_closed_window_is_no_receipt() {
    let broker = Broker::proving("received", &[]);
    let pool = Pool::small("d1");
    let mut stalled = Client::connect_narrow(broker.public, 4096).await;
    stalled.send(pool.poll("stalled")).await;
    broker.wait_for_waiters(1).await;
    let mut message = pool.message("run_1");
    message["padding"] = "x".repeat(200_000).into();
    let (_, answer) = broker.post(&format!("{{\"dequeuedMessage\":{message}}}")).await;
    assert_eq!(outcome(&answer), (false, "undelivered", 1));
    assert_eq!(broker.metric("pilotlight_offers_total{verdict=\"unacked\"}").await, 1);
    assert!(stalled.rest().await.len() < 200_000, "the reset dropped the rest");
}

#[tokio::test]
async fn acked_keeps_the_connection_open() {
    let broker = Broker::proving("acked", &[]);
    let pool = Pool::small("d1");
    let mut controller = broker.held_poll(&pool, "one").await;
    for round in 0..5 {
        let run = format!("run_{round}");
        assert_eq!(outcome(&broker.post(&pool.body(&run)).await.1), (true, "acked", 1));
        let answer = controller.answer().await;
        assert_eq!((answer.header("connection"), &answer.json()["run"]["friendlyId"]), (None, &run.into()));
        controller.send(pool.poll("one")).await;
        broker.wait_for_waiters(1).await;
    }
    assert_eq!(broker.metric("pilotlight_connections_accepted_total{listener=\"public\"}").await, 6);
}

#[tokio::test]
async fn a_native_run_chooses_its_proof_and_says_unknown_when_in_doubt() {
    let broker = Broker::proving("received", &[]);
    let pool = Pool::small("d1");
    let mut first = broker.held_poll(&pool, "first").await;
    let _stalled = broker.held_poll(&pool, "stalled").await;
    let message = pool.message("run_1").to_string();
    let mut supervisor = broker.client().await;
    let answer = supervisor.ask(post(&pool.path(), &message)).await.json();
    assert_eq!((&answer["delivered"], &answer["reason"]), (&false.into(), &"unknown".into()));
    assert!(first.is_held().await, "no other controller gets a byte of it");
    let answer = supervisor.ask(post(&format!("{}?proof=acked", pool.path()), &message)).await.json();
    assert_eq!((&answer["delivered"], &answer["proof"]), (&true.into(), &"acked".into()));
    assert_eq!(first.answer().await.body, message.as_bytes());
}

#[tokio::test]
async fn a_reset_leaves_a_native_run_unknown_and_it_goes_to_no_other_waiter() {
    let broker = Broker::proving("received", &[]);
    let pool = Pool::small("d1");
    let mut other = broker.held_poll(&pool, "other").await;
    let rude = broker.held_poll(&pool, "rude").await;
    let reading = async {
        // The run stays unread. Without linger, the close sends a reset at once.
        rude.stream.readable().await.unwrap();
        rude.stream.set_zero_linger().unwrap();
        drop(rude);
    };
    let request = post(&pool.path(), &pool.message("run_1").to_string());
    let mut supervisor = broker.client().await;
    let (answer, ()) = tokio::join!(supervisor.ask(request), reading);
    assert_eq!(answer.json()["reason"], "unknown");
    assert!(other.is_held().await, "it may have been read: no other controller gets a byte");
}

#[tokio::test]
async fn an_offer_that_could_not_be_proved_in_time_is_not_made() {
    let broker = Broker::proving("received", &[]);
    let pool = Pool::small("d1");
    let mut supervisor = broker.client().await;
    let message = pool.message("run_1").to_string();
    supervisor.send(post(&format!("{}?wait=2s", pool.path()), &message)).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut late = broker.held_poll(&pool, "late").await;
    assert_eq!(supervisor.answer().await.json()["reason"], "no_pool");
    assert!(late.is_held().await);
    assert_eq!(broker.waiters("").await, 1);
}

#[tokio::test]
async fn a_thousand_unproven_deliveries_delay_no_other() {
    let broker = Broker::proving("received", &["--proof-timeout", "1500ms"]);
    let mut stalled = Vec::new();
    for number in 0..1000 {
        let mut client = broker.client().await;
        client.send(Pool::small(&format!("stalled_{number}")).poll("stalled")).await;
        stalled.push(client);
    }
    broker.wait_for_waiters(1000).await;
    let mut unproven = JoinSet::new();
    for number in 0..1000 {
        let mut supervisor = broker.client().await;
        supervisor.send(post("/warm-start", &Pool::small(&format!("stalled_{number}")).body("r"))).await;
        unproven.spawn(async move { supervisor.answer().await.json()["didWarmStart"] == true });
    }
    broker.wait_for_waiters(0).await;
    let pool = Pool::small("healthy");
    for round in 0..20 {
        let mut alive = broker.held_poll(&pool, "alive").await;
        let body = pool.body(&format!("run_{round}"));
        let (answer, _) = tokio::join!(broker.post(&body), alive.answer());
        assert_eq!(outcome(&answer.1), (true, "received", 1));
        if round == 0 {
            assert!(unproven.try_join_next().is_none(), "all thousand offers are still open");
        }
    }
    assert!(unproven.join_all().await.iter().all(|hit| !hit));
}

/// A receipt is a response that was read to its end before the client closed. Every `true` must have one, no `false` may.
#[tokio::test]
async fn a_true_has_exactly_one_receipt_however_clients_abort() {
    const ROUNDS: usize = 500;
    let broker = Broker::proving("received", &[]);
    let receipts: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let pool = Pool::small("d1");
    let mut answers: HashMap<String, bool> = HashMap::new();
    let mut rng = fastrand::Rng::with_seed(7);
    for round in 0..ROUNDS {
        let mut client = broker.held_poll(&pool, &format!("controller_{round}")).await;
        let run = format!("run_{round}");
        let patience = Duration::from_micros(rng.u64(..2500));
        let kept = receipts.clone();
        let controller = async {
            let read = tokio::time::timeout(patience, client.try_answer()).await;
            drop(client);
            if let Ok(Some(answer)) = read {
                let run = answer.json()["run"]["friendlyId"].as_str().unwrap().to_owned();
                *kept.lock().entry(run).or_default() += 1;
            }
        };
        let body = pool.body(&run);
        let supervisor = async {
            tokio::time::sleep(Duration::from_micros(rng.u64(..1500))).await;
            broker.post(&body).await.1["didWarmStart"] == true
        };
        let (hit, ()) = tokio::join!(supervisor, controller);
        answers.insert(run, hit);
        broker.wait_for_waiters(0).await;
    }
    let receipts = receipts.lock();
    for (run, hit) in &answers {
        assert_eq!(receipts.get(run).copied().unwrap_or(0), usize::from(*hit), "{run} was answered {hit}");
    }
    let hits = answers.values().filter(|hit| **hit).count();
    eprintln!("{hits} of {ROUNDS} proved");
    assert!((50..ROUNDS - 50).contains(&hits), "{hits} of {ROUNDS}: the clients did not race the run");
}

//! Owns the tests of deliveries to controllers that have left, are slow, or do not read.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::client::Client;
use support::{Broker, Pool, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A body too large for the kernel's buffers on both sides.
fn large_body(pool: &Pool, run: &str) -> (String, String) {
    let message = padded(pool, run, 3_900_000);
    (format!("{{\"dequeuedMessage\":{message}}}"), message)
}

fn padded(pool: &Pool, run: &str, bytes: usize) -> String {
    let mut message = pool.message(run);
    message["padding"] = "x".repeat(bytes).into();
    message.to_string()
}

/// A held poll whose kernel takes only a few KiB before its process reads.
async fn stalled_poll(broker: &Broker, pool: &Pool, controller: &str) -> Client {
    poll_with_buffer(broker, pool, controller, 4096).await
}

async fn poll_with_buffer(broker: &Broker, pool: &Pool, controller: &str, bytes: u32) -> Client {
    let mut client = Client::connect_narrow(broker.public, bytes).await;
    let before = broker.waiters("").await;
    client.send(pool.poll(controller)).await;
    broker.wait_for_waiters(before + 1).await;
    client
}

#[tokio::test]
async fn a_controller_that_left_unnoticed_is_passed_over() {
    let broker = Broker::start(&["--threads", "1"]);
    let pool = Pool::small("d1");
    for round in 0..20 {
        let mut alive = broker.held_poll(&pool, "alive").await;
        let leaving = broker.held_poll(&pool, "leaving").await;
        let mut supervisor = broker.client().await;
        // The broker is stopped meanwhile, so it sees the run and the closed connection at the same moment.
        broker.stop().await;
        supervisor.send(post("/warm-start", &pool.body("r"))).await;
        drop(leaving);
        broker.signal(Signal::CONT);
        assert_eq!(supervisor.answer().await.json()["didWarmStart"], true, "round {round}");
        assert_eq!(alive.answer().await.status, 200);
        drop(alive);
        broker.wait_for_waiters(0).await;
    }
    assert!(broker.metric("pilotlight_offers_total{verdict=\"gone\"}").await >= 1);
}

#[tokio::test]
async fn a_large_run_reaches_a_slow_reader_whole() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut controller = stalled_poll(&broker, &pool, "slow").await;
    let (body, message) = large_body(&pool, "r");
    let posted = broker.post(&body);
    let received = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        controller.answer().await
    };
    let ((_, answer), run) = tokio::join!(posted, received);
    assert_eq!(answer["didWarmStart"], true);
    assert!(run.body == message.as_bytes(), "{} of {} bytes", run.body.len(), message.len());
}

/// Reads this many bytes every 50 ms until the response is complete; false if it ends before.
async fn read_slowly(controller: &mut Client, each: usize) -> bool {
    let mut read = Vec::new();
    let mut whole = usize::MAX;
    while read.len() < whole {
        let mut bytes = vec![0; each];
        let Ok(more @ 1..) = controller.stream.read(&mut bytes).await else { return false };
        read.extend_from_slice(&bytes[..more]);
        if let Some(head) = read.windows(4).position(|end| end == b"\r\n\r\n") {
            let text = str::from_utf8(&read[..head]).unwrap();
            let length = text.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
            whole = head + 4 + length.parse::<usize>().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    true
}

#[tokio::test]
async fn a_slow_link_that_makes_progress_is_not_cut_off() {
    for proof in ["written", "acked", "received"] {
        for arguments in
            [&["--dispatch-budget", "20s"][..], &["--dispatch-budget", "20s", "--proof-timeout", "300ms"]]
        {
            let broker = Broker::proving(proof, arguments);
            let pool = Pool::small("d1");
            let mut controller = poll_with_buffer(&broker, &pool, "slow", 64 * 1024).await;
            let mut supervisor = broker.client().await;
            let run = post(&pool.path(), &padded(&pool, "r", 1_500_000));
            // About 8 Mbit/s.
            let (answer, is_whole) = tokio::join!(supervisor.ask(run), async {
                let is_whole = read_slowly(&mut controller, 50_000).await;
                let _ = controller.stream.shutdown().await;
                is_whole
            });
            let answer = answer.json();
            assert_eq!(
                (&answer["delivered"], is_whole),
                (&true.into(), true),
                "{proof} {arguments:?}: {answer}"
            );
            assert_eq!(answer["proof"], proof);
        }
    }
}

#[tokio::test]
async fn a_worker_that_pauses_in_the_middle_of_a_run_is_not_cut_off() {
    for proof in ["acked", "received"] {
        let broker = Broker::proving(proof, &["--dispatch-budget", "20s", "--proof-timeout", "3s"]);
        let pool = Pool::small("d1");
        let mut controller = poll_with_buffer(&broker, &pool, "pauses", 64 * 1024).await;
        let mut supervisor = broker.client().await;
        // All of it fits into the buffers of the broker's kernel.
        let run = post(&pool.path(), &padded(&pool, "r", 1_500_000));
        let (answer, is_whole) = tokio::join!(supervisor.ask(run), async {
            let mut bytes = vec![0; 500_000];
            for _ in 0..2 {
                // Longer than the timeout of an acknowledgement, and than the window in which the rate is measured.
                tokio::time::sleep(Duration::from_millis(400)).await;
                controller.stream.read_exact(&mut bytes).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(400)).await;
            let mut rest = vec![0; 500_000];
            let is_whole = controller.stream.read_exact(&mut rest).await.is_ok();
            let _ = controller.stream.shutdown().await;
            is_whole
        });
        let answer = answer.json();
        assert_eq!((&answer["delivered"], is_whole), (&true.into(), true), "{proof}: {answer}");
    }
}

#[tokio::test]
async fn a_run_that_crawls_is_given_up_as_slow_and_makes_no_suspect() {
    for proof in ["written", "acked", "received"] {
        let broker = Broker::proving(proof, &["--dispatch-budget", "20s"]);
        let pool = Pool::small("d1");
        let mut controller = stalled_poll(&broker, &pool, "crawls").await;
        let mut supervisor = broker.client().await;
        let run = post(&pool.path(), &padded(&pool, "r", 3_900_000));
        let begun = Instant::now();
        let (answer, is_whole) = tokio::join!(supervisor.ask(run), read_slowly(&mut controller, 4000));
        let answer = answer.json();
        assert_eq!((&answer["reason"], is_whole), (&"unknown".into(), false), "{proof}: {answer}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{proof}: within half of the budget");
        assert_eq!(broker.metric("pilotlight_offers_total{verdict=\"slow\"}").await, 1, "{proof}");
        let _next = broker.held_poll(&pool, "next").await;
        assert!(broker.operate("GET", "/waiters").await.1.contains("\"suspect\":false"));
    }
}

#[tokio::test]
async fn a_run_that_its_controller_does_not_read_goes_to_the_next() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut alive = broker.held_poll(&pool, "alive").await;
    let mut stalled = stalled_poll(&broker, &pool, "stalled").await;
    let (body, message) = large_body(&pool, "r");
    let (posted, run) = tokio::join!(broker.post(&body), alive.answer());
    assert_eq!((&posted.1["didWarmStart"], &posted.1["offers"]), (&true.into(), &2.into()), "{}", posted.1);
    assert!(run.body == message.as_bytes());
    assert!(stalled.rest().await.len() < message.len(), "the stalled controller cannot have the whole run");
    assert_eq!(broker.metric("pilotlight_redeliveries_total").await, 1);
}

#[tokio::test]
async fn a_run_that_no_controller_reads_is_undelivered_within_the_budget() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut stalled = Vec::new();
    for number in 0..4 {
        stalled.push(stalled_poll(&broker, &pool, &format!("stalled{number}")).await);
    }
    let begun = Instant::now();
    let (_, answer) = broker.post(&large_body(&pool, "r").0).await;
    assert_eq!(answer["reason"], "undelivered");
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn without_redelivery_only_one_controller_ever_gets_a_byte() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut alive = broker.held_poll(&pool, "alive").await;
    let _stalled = stalled_poll(&broker, &pool, "stalled").await;
    let (_, message) = large_body(&pool, "r");
    let answer = broker.client().await.ask(post(&pool.path(), &message)).await.json();
    assert_eq!((&answer["delivered"], &answer["reason"]), (&false.into(), &"unknown".into()));
    assert!(alive.is_held().await);
    let again = post(&format!("{}?redeliver=true", pool.path()), &message);
    let _stalled = stalled_poll(&broker, &pool, "stalled").await;
    let mut supervisor = broker.client().await;
    let (answer, run) = tokio::join!(supervisor.ask(again), alive.answer());
    assert_eq!(answer.json()["offers"], 2);
    assert!(run.body == message.as_bytes());
}

#[tokio::test]
async fn a_delivery_is_finished_when_its_supervisor_leaves() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut controller = stalled_poll(&broker, &pool, "slow").await;
    let (body, message) = large_body(&pool, "r");
    let mut supervisor = broker.client().await;
    supervisor.send(post("/warm-start", &body)).await;
    broker.wait_for_waiters(0).await;
    drop(supervisor);
    let aborted = "pilotlight_dispatches_total{outcome=\"aborted\",reason=\"none\"}";
    broker.wait_for_metric(aborted, 1).await;
    assert!(controller.answer().await.body == message.as_bytes());
    assert_eq!(broker.metric("pilotlight_offers_total{verdict=\"written\"}").await, 1);
}

#[tokio::test]
async fn two_stalled_controllers_leave_time_for_a_third() {
    // The default times, threefold: on a busy machine a large run takes long, too.
    let broker = Broker::proving("received", &["--proof-timeout", "1500ms", "--dispatch-budget", "6s"]);
    let pool = Pool::small("d1");
    let mut alive = broker.held_poll(&pool, "alive").await;
    let _stalled =
        [stalled_poll(&broker, &pool, "stalled_1").await, stalled_poll(&broker, &pool, "stalled_2").await];
    let (body, message) = large_body(&pool, "r");
    let (posted, run) = tokio::join!(broker.post(&body), alive.answer());
    assert_eq!((&posted.1["proof"], &posted.1["offers"]), (&"received".into(), &3.into()), "{}", posted.1);
    assert!(run.body == message.as_bytes());
    assert_eq!(
        broker.metric("pilotlight_offers_total{verdict=\"frozen\"}").await,
        2,
        "their kernels took a part"
    );
    assert_eq!(broker.metric("pilotlight_redeliveries_total").await, 2);
}

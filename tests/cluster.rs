//! Owns the end-to-end tests of several brokers as one pool: runs that are posted at one broker and whose controllers wait at
//! another.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::client::Client;
use support::cluster::{
    Cluster, dispatch, native_get, native_poll, native_post, outcome, wait_until_known_at,
};
use support::nats::NatsServer;
use support::{Broker, Pool, post};

const DELIVERED: &str = "pilotlight_cluster_forwards_total{outcome=\"delivered\"}";
const TAKEN: &str = "pilotlight_cluster_forwards_taken_total{outcome=\"delivered\"}";
/// Longer than a broker takes to tell the others which runs its waiters have.
const LEARNED: Duration = Duration::from_millis(200);
const HITS: &str = "pilotlight_dispatches_total{outcome=\"hit\",reason=\"none\"}";

/// The row of the history of one broker for one run.
async fn history(broker: &Broker, run: &str) -> Value {
    let row = async || {
        let (status, body) = broker.operate("GET", &format!("/runs/{run}")).await;
        (status == 200).then(|| serde_json::from_str::<Value>(&body).unwrap()["runs"][0].take())
    };
    // It is written after the answer.
    broker.wait_until("the run's row", async || row().await.is_some()).await;
    row().await.unwrap()
}

#[tokio::test]
async fn a_run_reaches_a_controller_that_waits_at_another_broker() {
    let Some(cluster) = Cluster::with(3, "received", &[]).await else { return };
    let [origin, owner, other] = [0, 1, 2].map(|at| &cluster.brokers[at]);
    let pool = Pool::small("d1");
    let mut native = cluster.held_native_poll(1, &pool, "worker-1").await;
    let (answer, run) = tokio::join!(dispatch(origin, &pool, "", "job-1", b"a run"), native.answer());
    let expected = serde_json::json!(
        {"delivered": true, "proof": "received", "offers": 1, "controller": "worker-1", "run": "job-1"}
    );
    assert_eq!(answer.json(), expected, "as if the controller waited here");
    assert_eq!((run.header("pilotlight-run"), run.body.as_slice()), (Some("job-1"), &b"a run"[..]));

    let mut stock = cluster.held_poll(1, &pool, "stock").await;
    let body = pool.body("run_1");
    let ((status, answer), run) = tokio::join!(origin.post(&body), stock.answer());
    assert_eq!((status, outcome(&answer)), (200, (true, "received", 1)));
    assert!(body.contains(std::str::from_utf8(&run.body).unwrap()), "byte for byte");

    for run in ["job-1", "run_1"] {
        let row = history(origin, run).await;
        assert_eq!((&row["outcome"], &row["proof"]), (&"hit".into(), &"received".into()), "{row}");
        assert_eq!((&row["offers"], &row["broker"]), (&1.into(), &cluster.name_of(1).into()), "{row}");
    }
    assert_eq!((origin.metric(DELIVERED).await, origin.metric(TAKEN).await), (2, 0));
    assert_eq!((owner.metric(DELIVERED).await, owner.metric(TAKEN).await), (0, 2));
    assert_eq!((other.metric(DELIVERED).await, other.metric(TAKEN).await), (0, 0));
    // A run that another broker forwards is no POST.
    assert_eq!([origin.metric(HITS).await, owner.metric(HITS).await, other.metric(HITS).await], [2, 0, 0]);
}

#[tokio::test]
async fn a_controller_that_waits_at_the_same_broker_comes_first() {
    let Some(cluster) = Cluster::start(2).await else { return };
    let pool = Pool::small("d1");
    let mut away: Vec<Client> = Vec::new();
    for number in 0..5 {
        away.push(cluster.held_native_poll(1, &pool, &format!("away-{number}")).await);
    }
    let _here = native_poll(&cluster.brokers[0], &pool, "here").await;
    let answer = dispatch(&cluster.brokers[0], &pool, "", "job-1", b"first").await.json();
    assert_eq!(answer["controller"], "here");
    let row = history(&cluster.brokers[0], "job-1").await;
    assert!(row["broker"].is_null(), "it names other brokers only: {row}");
    assert_eq!(cluster.metric(DELIVERED).await, 0);
    let answer = dispatch(&cluster.brokers[0], &pool, "", "", b"second").await.json();
    assert!(answer["controller"].as_str().unwrap().starts_with("away-"), "{answer}");
    assert_eq!(cluster.metric(DELIVERED).await, 1);
}

#[tokio::test]
async fn a_pool_that_breathes_between_none_and_one_is_found_every_time() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let pool = Pool::small("d1");
    let mut controller = cluster.held_native_poll(2, &pool, "one").await;
    let mut unknown = 0;
    for round in 0..60 {
        // The run waits for the announcement, if the controller has come back later than the last one.
        let payload = round.to_string();
        let answer = dispatch(&cluster.brokers[round % 2], &pool, "?wait=1s", "", payload.as_bytes()).await;
        if answer.json()["reason"] == "unknown" {
            // It was found, but this machine has stalled for longer than a first answer is waited for.
            unknown += 1;
            drop(controller);
            cluster.brokers[2].wait_for_waiters(0).await;
        } else {
            assert_eq!(answer.json()["delivered"], true, "round {round}: {answer:?}");
            assert_eq!(controller.answer().await.body, payload.as_bytes());
        }
        controller = native_poll(&cluster.brokers[2], &pool, "one").await;
    }
    assert!(unknown <= 3, "{unknown} of 60");
    assert_eq!(cluster.metric(DELIVERED).await, 60 - unknown);
}

#[tokio::test]
async fn a_miss_says_why_for_the_whole_cluster() {
    let Some(cluster) = Cluster::start(2).await else { return };
    let (origin, pool) = (&cluster.brokers[0], Pool::small("d1"));
    let reason = async |pool: &Pool| dispatch(origin, pool, "", "", b"x").await.json()["reason"].clone();
    assert_eq!(reason(&pool).await, "no_pool");
    let mut away = cluster.held_native_poll(1, &pool, "away").await;
    let begun = Instant::now();
    assert_eq!(reason(&Pool { version: "2".into(), ..pool.clone() }).await, "wrong_version");
    assert_eq!(reason(&Pool { cpu: "8".into(), ..pool.clone() }).await, "wrong_machine");
    assert_eq!(reason(&Pool::small("d2")).await, "no_pool");
    assert!(begun.elapsed() < Duration::from_secs(1), "nobody is asked");
    assert_eq!(dispatch(origin, &pool, "", "", b"x").await.json()["delivered"], true);
    assert_eq!(away.answer().await.body, b"x");
    assert_eq!(reason(&pool).await, "all_taken", "the last one was matched moments ago, at another broker");
}

#[tokio::test]
async fn a_stock_controller_elsewhere_gets_messages_only() {
    let Some(cluster) = Cluster::start(2).await else { return };
    let (origin, pool) = (&cluster.brokers[0], Pool::small("d1"));
    let mut stock = cluster.held_poll(1, &pool, "stock").await;
    let opaque = dispatch(origin, &pool, "", "", b"not a message").await.json();
    assert_eq!(outcome(&opaque), (false, "not_a_message", 0));
    assert!(stock.is_held().await);
    let mut native = native_poll(&cluster.brokers[1], &pool, "native").await;
    let opaque = dispatch(origin, &pool, "?wait=1s", "", b"not a message").await.json();
    assert_eq!((&opaque["delivered"], &opaque["controller"]), (&true.into(), &"native".into()), "{opaque}");
    assert_eq!(native.answer().await.body, b"not a message");
    assert_eq!(origin.post(&pool.body("run_1")).await.1["didWarmStart"], true);
    assert_eq!(stock.answer().await.json()["run"]["friendlyId"], "run_1");
}

/// Up to 64 KiB a payload goes with the forward, beyond that after the claim, and what NATS would refuse goes nowhere.
#[tokio::test]
async fn a_payload_of_any_size_is_relayed_byte_for_byte_or_refused_with_a_reason() {
    let Some(cluster) = Cluster::with(2, "received", &[]).await else { return };
    let (origin, pool) = (&cluster.brokers[0], Pool::small("d1"));
    for size in [0, 1, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 300_000, 900_000] {
        let payload: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut away = cluster.held_native_poll(1, &pool, "away").await;
        let (answer, run) = tokio::join!(dispatch(origin, &pool, "", "", &payload), away.answer());
        assert_eq!(outcome(&answer.json()), (true, "received", 1), "{size} bytes");
        assert!(run.body == payload, "{} of {size} bytes", run.body.len());
    }
    let mut away = cluster.held_native_poll(1, &pool, "away").await;
    let large = vec![b'x'; 2 * 1024 * 1024];
    let begun = Instant::now();
    let answer = dispatch(origin, &pool, "", "", &large).await.json();
    assert_eq!(outcome(&answer), (false, "too_large_to_forward", 0));
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(away.is_held().await, "its controller stays");
    assert_eq!(origin.metric("pilotlight_cluster_forwards_total{outcome=\"too_large\"}").await, 1);
    assert_eq!(cluster.metric("pilotlight_cluster_connected").await, 2, "NATS has seen none of it");
    let mut here = native_poll(origin, &pool, "here").await;
    let (answer, run) = tokio::join!(dispatch(origin, &pool, "", "", &large), here.answer());
    assert_eq!((outcome(&answer.json()), run.body.len()), ((true, "received", 1), large.len()));
}

#[tokio::test]
async fn the_largest_payload_is_what_the_nats_server_takes() {
    let Some(nats) = NatsServer::start("max_payload: 100000") else { return };
    let mut cluster = Cluster::empty(nats, "written", &[]);
    for _ in 0..2 {
        cluster.join(&[]);
    }
    cluster.settle().await;
    let (origin, pool) = (&cluster.brokers[0], Pool::small("d1"));
    let mut away = cluster.held_native_poll(1, &pool, "away").await;
    let answer = dispatch(origin, &pool, "", "", &vec![b'x'; 100_001]).await.json();
    assert_eq!(outcome(&answer), (false, "too_large_to_forward", 0));
    let large = vec![b'x'; 98_000];
    let (answer, run) = tokio::join!(dispatch(origin, &pool, "", "", &large), away.answer());
    assert_eq!((outcome(&answer.json()), run.body.len()), ((true, "written", 1), 98_000));
}

#[tokio::test]
async fn a_run_waits_for_a_controller_that_comes_to_another_broker() {
    let Some(cluster) = Cluster::with(3, "written", &["--dispatch-budget", "10s"]).await else { return };
    let pool = Pool::small("d1");
    let mut supervisors = Vec::new();
    for number in 0..6 {
        let mut supervisor = cluster.brokers[number % 2].client().await;
        supervisor.send(native_post(&pool, "?wait=10s", "", number.to_string().as_bytes())).await;
        assert!(supervisor.is_held().await);
        supervisors.push(supervisor);
    }
    let mut received = Vec::new();
    for number in 0..6 {
        let mut controller = cluster.brokers[2].client().await;
        controller.send(native_get(&pool, &format!("c{number}"))).await;
        received.push(controller.answer().await.body);
    }
    for supervisor in &mut supervisors {
        assert_eq!(supervisor.answer().await.json()["delivered"], true);
    }
    received.sort();
    let expected: Vec<_> = (0..6).map(|number| number.to_string().into_bytes()).collect();
    assert_eq!(received, expected, "each run once");
}

/// One announced waiter wakes one of the runs that wait for it, not each of them.
#[tokio::test]
async fn one_waiter_is_not_stormed_by_all_runs_that_wait_for_it() {
    let Some(cluster) = Cluster::with(2, "written", &["--dispatch-budget", "10s"]).await else { return };
    let (pool, runs) = (Pool::small("d1"), 50);
    let mut supervisors = Vec::new();
    for _ in 0..runs {
        let mut supervisor = cluster.brokers[0].client().await;
        supervisor.send(native_post(&pool, "?wait=2s", "", b"x")).await;
        supervisors.push(supervisor);
    }
    let connections = "pilotlight_connections{listener=\"public\",tls=\"false\"}";
    cluster.brokers[0].wait_for_metric(connections, runs).await;
    let mut controller = cluster.brokers[1].client().await;
    assert_eq!(controller.ask(native_get(&pool, "one")).await.body, b"x");
    let mut hits = 0;
    for supervisor in &mut supervisors {
        hits += u64::from(supervisor.answer().await.json()["delivered"] == true);
    }
    assert_eq!((hits, cluster.metric(DELIVERED).await), (1, 1));
    let misses = cluster.metric("pilotlight_cluster_forwards_total{outcome=\"miss\"}").await;
    assert!(misses <= 5, "{misses} forwards for one waiter");
}

#[tokio::test]
async fn a_broker_that_holds_all_it_may_hold_is_matched_through_the_others() {
    let Some(mut cluster) = Cluster::with(1, "written", &[]).await else { return };
    let full = cluster.join(&["--max-waiters", "2"]);
    cluster.settle().await;
    let pool = Pool::small("d1");
    let mut held = Vec::new();
    for number in 0..2 {
        held.push(cluster.held_native_poll(full, &pool, &format!("held-{number}")).await);
    }
    let mut surplus = cluster.brokers[full].client().await;
    surplus.send(native_get(&pool, "surplus")).await;
    assert!(surplus.is_closed_silently().await);
    let mut elsewhere = native_poll(&cluster.brokers[0], &pool, "surplus").await;
    for name in ["surplus", "held-1", "held-0"] {
        let answer = dispatch(&cluster.brokers[0], &pool, "", "", b"x").await.json();
        assert_eq!(answer["controller"], name);
    }
    assert_eq!(elsewhere.answer().await.body, b"x");
}

#[tokio::test]
async fn forwards_beyond_the_limit_are_refused_and_their_runs_go_elsewhere() {
    let arguments = ["--proof-timeout", "10s", "--dispatch-budget", "15s"];
    let Some(mut cluster) = Cluster::with(1, "received", &arguments).await else { return };
    let limited = cluster.join(&["--max-forwards", "1"]);
    cluster.settle().await;
    let pool = Pool::small("d1");
    let mut idle = Vec::new();
    for number in 0..4 {
        // They do not read, so a forward to one of them lasts.
        idle.push(cluster.held_native_poll(limited, &pool, &format!("idle-{number}")).await);
    }
    let mut first = cluster.brokers[0].client().await;
    first.send(native_post(&pool, "", "", b"first")).await;
    cluster.brokers[limited].wait_for_waiters(3).await;
    let answer = dispatch(&cluster.brokers[0], &pool, "", "", b"second").await;
    assert_eq!(answer.json()["delivered"], false);
    assert_eq!(answer.json()["offers"], 0, "no waiter was claimed");
    assert_eq!(cluster.brokers[limited].waiters("").await, 3);
    let overloaded = cluster.metric("pilotlight_cluster_forwards_taken_total{outcome=\"overloaded\"}").await;
    assert!(overloaded >= 1);
    let third = cluster.join(&[]);
    let mut elsewhere = native_poll(&cluster.brokers[third], &pool, "elsewhere").await;
    let next = dispatch(&cluster.brokers[0], &pool, "?wait=1s", "", b"third");
    let (answer, run) = tokio::join!(next, elsewhere.answer());
    assert_eq!(
        (answer.json()["controller"].as_str(), run.body.as_slice()),
        (Some("elsewhere"), &b"third"[..])
    );
}

#[tokio::test]
async fn a_run_that_is_in_flight_at_its_owner_is_unknown_elsewhere_and_claims_nobody_else() {
    let arguments = ["--proof-timeout", "5s", "--dispatch-budget", "10s"];
    let Some(cluster) = Cluster::with(2, "received", &arguments).await else { return };
    let pool = Pool::small("d1");
    // They do not read, so an offer to one of them lasts.
    let _first = cluster.held_native_poll(0, &pool, "first").await;
    let _second = cluster.held_native_poll(0, &pool, "second").await;
    let run = post("/warm-start", &pool.body("run_1"));
    let mut supervisor = cluster.brokers[0].client().await;
    supervisor.send(&run).await;
    cluster.brokers[0].wait_for_waiters(1).await;
    let answer = cluster.brokers[1].client().await.ask(&run).await.json();
    assert_eq!((&answer["didWarmStart"], &answer["reason"]), (&false.into(), &"unknown".into()), "{answer}");
    let mut forwards = 0;
    // An owner that stands still for a moment, on a busy machine, is silent.
    for outcome in ["unknown", "silent"] {
        forwards +=
            cluster.metric(&format!("pilotlight_cluster_forwards_total{{outcome=\"{outcome}\"}}")).await;
    }
    assert!(forwards >= 1, "it was forwarded");
    assert_eq!(cluster.brokers[0].waiters("").await, 1, "the second one waits on");
}

#[tokio::test]
async fn a_draining_broker_forwards_every_run_it_still_gets() {
    let Some(cluster) = Cluster::with(2, "written", &["--drain-window", "30s"]).await else { return };
    let (draining, pool) = (&cluster.brokers[0], Pool::small("d1"));
    // The connection is kept from before.
    let mut supervisor = draining.client().await;
    assert_eq!(supervisor.ask(native_post(&pool, "", "", b"x")).await.json()["reason"], "no_pool");
    let mut away = cluster.held_native_poll(1, &pool, "away").await;
    draining.operate("POST", "/drain").await;
    assert_eq!(draining.operate("GET", "/readyz").await.0, 503);
    let answer = supervisor.ask(native_post(&pool, "", "", b"a run")).await.json();
    assert_eq!((&answer["delivered"], &answer["controller"]), (&true.into(), &"away".into()), "{answer}");
    assert_eq!(away.answer().await.body, b"a run");
    let answer = supervisor.ask(native_post(&pool, "", "", b"x")).await.json();
    assert_eq!(answer["reason"], "draining", "nobody waits anywhere: {answer}");
    let answer = supervisor.ask(post("/warm-start", &pool.body("run_1"))).await.json();
    assert_eq!(outcome(&answer), (false, "draining", 0));
}

/// Whether a native poll has ended with a goodbye instead of a run.
async fn is_sent_away(client: &mut Client) -> bool {
    let answer = client.answer().await;
    assert!([200, 204].contains(&answer.status), "{answer:?}");
    answer.status == 204
}

#[tokio::test]
async fn the_waiters_of_a_draining_broker_are_matched_until_they_are_sent_away() {
    let Some(cluster) = Cluster::with(2, "written", &["--drain-window", "4s"]).await else { return };
    let (draining, pool) = (&cluster.brokers[1], Pool::small("d1"));
    let mut held = Vec::new();
    for number in 0..20 {
        held.push(native_poll(draining, &pool, &format!("c{number}")).await);
    }
    wait_until_known_at(&cluster.brokers[0], &pool).await;
    draining.operate("POST", "/drain").await;
    let mut hits = 0;
    // The last goodbye is said at the end of the window.
    while draining.waiters("").await > 10 {
        let answer = dispatch(&cluster.brokers[0], &pool, "", "", b"a run").await.json();
        assert_eq!(answer["delivered"], true, "somebody still waits there: {answer}");
        hits += 1;
    }
    assert!(hits >= 1);
    draining.wait_for_waiters(0).await;
    let mut received = 0;
    for client in &mut held {
        received += u64::from(!is_sent_away(client).await);
    }
    assert_eq!(received, hits, "each poll was answered, by a run or by a goodbye");
    let answer = dispatch(&cluster.brokers[0], &pool, "", "", b"x").await.json();
    assert_eq!(answer["delivered"], false);
}

/// A named run that was delivered through one broker is posted again at the others.
#[tokio::test]
async fn a_named_run_has_its_first_outcome_at_every_broker() {
    let Some(cluster) = Cluster::with(3, "received", &[]).await else { return };
    let pool = Pool::small("d1");
    let mut holds = [0, 1, 2].map(|at| (at, None));
    for (at, client) in &mut holds {
        *client = Some(cluster.held_native_poll(*at, &pool, &format!("c{at}")).await);
    }
    let [mut first, second, third] = holds.map(|(_, client)| client.unwrap());
    let (answer, run) =
        tokio::join!(dispatch(&cluster.brokers[0], &pool, "", "job-1", b"a run"), first.answer());
    let answer = answer.json();
    assert_eq!((&answer["delivered"], &answer["controller"]), (&true.into(), &"c0".into()), "{answer}");
    assert_eq!(run.body, b"a run");
    tokio::time::sleep(LEARNED).await;
    for broker in &cluster.brokers {
        assert_eq!(dispatch(broker, &pool, "", "job-1", b"a run").await.json(), answer);
        let other = dispatch(broker, &pool, "", "job-1", b"another").await;
        assert_eq!((other.status, other.problem().as_str()), (422, "name-of-another-run"));
    }
    for mut client in [second, third] {
        assert!(client.is_held().await, "nobody else gets it");
    }
}

/// The same where the first POST was forwarded: the broker that claimed the waiter and the one that forwarded both know it.
#[tokio::test]
async fn a_forwarded_named_run_has_its_first_outcome_at_every_broker() {
    let Some(cluster) = Cluster::with(3, "received", &[]).await else { return };
    let pool = Pool::small("d1");
    let mut owner = cluster.held_native_poll(1, &pool, "owner").await;
    let posted = dispatch(&cluster.brokers[0], &pool, "", "job-1", b"a run");
    let (answer, _) = tokio::join!(posted, owner.answer());
    let answer = answer.json();
    assert_eq!(outcome(&answer), (true, "received", 1));
    let mut others = Vec::new();
    for broker in &cluster.brokers {
        others.push(native_poll(broker, &pool, "other").await);
    }
    tokio::time::sleep(LEARNED).await;
    for broker in &cluster.brokers {
        assert_eq!(dispatch(broker, &pool, "", "job-1", b"a run").await.json(), answer);
        let other = dispatch(broker, &pool, "", "job-1", b"another").await;
        assert_eq!((other.status, other.problem().as_str()), (422, "name-of-another-run"));
    }
    for client in &mut others {
        assert!(client.is_held().await, "nobody else gets it");
    }
    let answer = dispatch(&cluster.brokers[2], &Pool::small("d2"), "", "job-1", b"a run").await.json();
    assert_eq!(answer["reason"], "no_pool", "one name in two pools is two runs: {answer}");
}

#[tokio::test]
async fn a_named_run_whose_owner_is_gone_is_unknown_and_goes_to_nobody_else() {
    let Some(mut cluster) = Cluster::with(3, "received", &[]).await else { return };
    let pool = Pool::small("d1");
    let mut gone = cluster.held_native_poll(1, &pool, "gone").await;
    let (answer, _) =
        tokio::join!(dispatch(&cluster.brokers[1], &pool, "", "job-1", b"a run"), gone.answer());
    assert_eq!(answer.json()["delivered"], true);
    tokio::time::sleep(LEARNED).await;
    let mut other = cluster.held_native_poll(2, &pool, "other").await;
    cluster.kill(1);
    let begun = Instant::now();
    for at in [0, 2] {
        let answer = dispatch(&cluster.brokers[at], &pool, "", "job-1", b"a run").await.json();
        assert_eq!((&answer["delivered"], &answer["reason"]), (&false.into(), &"unknown".into()), "at {at}");
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(other.is_held().await);
    let answer = dispatch(&cluster.brokers[0], &pool, "", "job-2", b"a run");
    let (answer, run) = tokio::join!(answer, other.answer());
    assert_eq!((answer.json()["delivered"].as_bool(), run.body.as_slice()), (Some(true), &b"a run"[..]));
}

/// A miss is not remembered: the run may be posted again anywhere.
#[tokio::test]
async fn a_named_run_that_was_a_miss_is_delivered_when_it_is_posted_at_another_broker() {
    let Some(cluster) = Cluster::start(2).await else { return };
    let pool = Pool::small("d1");
    assert_eq!(dispatch(&cluster.brokers[0], &pool, "", "job-1", b"x").await.json()["reason"], "no_pool");
    let mut away = cluster.held_native_poll(0, &pool, "away").await;
    assert_eq!(dispatch(&cluster.brokers[1], &pool, "", "job-1", b"x").await.json()["delivered"], true);
    assert_eq!(away.answer().await.body, b"x");
}

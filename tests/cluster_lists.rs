//! Owns the tests of an operator's requests to all brokers of a cluster at once: lists of pools and waiters, and retiring.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::cluster::{Cluster, native_poll};
use support::{Broker, Pool};

/// What answers say of brokers that did not answer in time.
const UNANSWERED: &str = "missing";

async fn ask(broker: &Broker, method: &str, target: &str) -> Value {
    let (status, body) = broker.operate(method, target).await;
    assert_eq!(status, 200, "{target}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// The broker and another field of each row, in order.
fn rows(answer: &Value, list: &str, field: &str) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let rows = answer[list].as_array().unwrap_or_else(|| panic!("no {list}: {answer}"));
    rows.iter().map(|row| (text(&row["broker"]), text(&row[field]))).collect()
}

#[tokio::test]
async fn lists_of_the_cluster_name_the_broker_of_each_row() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let (one, two) = (Pool::small("d1"), Pool::small("d2"));
    let mut held = Vec::new();
    for at in 0..3 {
        held.push(native_poll(&cluster.brokers[at], &one, &format!("c{at}")).await);
    }
    held.push(native_poll(&cluster.brokers[1], &two, "other").await);
    let names = [0, 1, 2].map(|at| cluster.name_of(at));
    for broker in &cluster.brokers {
        let pools = ask(broker, "GET", "/pools?cluster=true").await;
        let expected = [(0, "d1"), (1, "d1"), (2, "d1"), (1, "d2")];
        let expected = expected.map(|(at, deployment)| (names[at].clone(), deployment.to_owned()));
        assert_eq!(rows(&pools, "pools", "deployment"), BTreeSet::from(expected));
        assert_eq!((&pools["waiters"], &pools[UNANSWERED]), (&4.into(), &serde_json::json!([])), "{pools}");
        let waiters = ask(broker, "GET", "/waiters?cluster=true&deployment=d1").await;
        let expected = [0, 1, 2].map(|at| (names[at].clone(), format!("c{at}")));
        assert_eq!(rows(&waiters, "waiters", "controller"), BTreeSet::from(expected));
        assert_eq!(waiters[UNANSWERED], serde_json::json!([]));
    }
    let own = ask(&cluster.brokers[0], "GET", "/pools").await;
    assert_eq!(own["waiters"], 1, "without the parameter it is this broker's list");
}

#[tokio::test]
async fn retiring_in_the_cluster_sends_every_brokers_controllers_away() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let (old, new) = (Pool::small("old"), Pool::small("new"));
    let (mut retired, mut kept) = (Vec::new(), Vec::new());
    for broker in &cluster.brokers {
        retired.push(broker.held_poll(&old, "old").await);
        kept.push(broker.held_poll(&new, "new").await);
    }
    let answer = ask(&cluster.brokers[1], "POST", "/retire?deployment=old&cluster=true").await;
    assert_eq!((&answer["retired"], &answer[UNANSWERED]), (&3.into(), &serde_json::json!([])), "{answer}");
    for client in &mut retired {
        assert_eq!(client.answer().await.status, 410);
    }
    for client in &mut kept {
        assert!(client.is_held().await);
    }
    for refused in ["/retire?cluster=true", "/retire?cluster=true&deployment="] {
        assert_eq!(cluster.brokers[1].operate("POST", refused).await.0, 400, "{refused}");
    }
    assert_eq!(cluster.brokers[1].operate("GET", "/pools?cluster=perhaps").await.0, 400);
}

#[tokio::test]
async fn a_broker_that_does_not_answer_is_named() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let pool = Pool::small("d1");
    let mut held = Vec::new();
    for (at, broker) in cluster.brokers.iter().enumerate() {
        held.push(broker.held_poll(&pool, &format!("c{at}")).await);
    }
    let paused = cluster.name_of(2);
    cluster.brokers[2].stop().await;
    for (method, target) in [
        ("GET", "/pools?cluster=true"),
        ("GET", "/waiters?cluster=true"),
        ("POST", "/retire?deployment=d1&cluster=true"),
    ] {
        let begun = Instant::now();
        let answer = ask(&cluster.brokers[0], method, target).await;
        assert!(begun.elapsed() < Duration::from_secs(3), "{target} took {:?}", begun.elapsed());
        assert_eq!(answer[UNANSWERED], serde_json::json!([paused]), "{target}: {answer}");
        match target.split('?').next().unwrap() {
            "/pools" => assert_eq!(answer["waiters"], 2),
            "/waiters" => assert_eq!(answer["waiters"].as_array().unwrap().len(), 2),
            _ => assert_eq!(answer["retired"], 2),
        }
    }
    for client in &mut held[..2] {
        assert_eq!(client.answer().await.status, 410);
    }
}

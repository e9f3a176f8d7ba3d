//! Owns the tests of what operators see of a cluster: long lists in many pages, brokers that are silent or gone, and refusals.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::client::Client;
use support::cluster::{Cluster, native_get};
use support::nats::NatsServer;
use support::{Broker, Pool};
use tokio::task::JoinSet;

/// A broker that does not answer delays the others' answers by at most two seconds; this machine is busy.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

async fn ask(broker: &Broker, method: &str, target: &str) -> Value {
    let (status, body) = broker.operate(method, target).await;
    assert_eq!(status, 200, "{target}: {body}");
    serde_json::from_str(&body).unwrap()
}

fn pool_at(number: usize) -> Pool {
    Pool::small(&format!("deployment_{number}"))
}

/// Polls of as many pools, all held by this broker.
async fn fill(broker: &Broker, pools: usize) -> Vec<Client> {
    let mut tasks = JoinSet::new();
    let before = broker.waiters("").await;
    let public = broker.public;
    for share in 0..8 {
        tasks.spawn(async move {
            let mut held = Vec::new();
            for number in (share..pools).step_by(8) {
                let mut client = Client::connect(public).await;
                client.send(native_get(&pool_at(number), &format!("c{number}"))).await;
                held.push(client);
            }
            held
        });
    }
    let held = tasks.join_all().await.into_iter().flatten().collect();
    broker.wait_for_waiters(before + pools as u64).await;
    held
}

fn texts<'a>(rows: &'a Value, field: &str) -> BTreeSet<&'a str> {
    rows.as_array().unwrap().iter().map(|row| row[field].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_list_of_many_pages_arrives_whole_and_retiring_them_ends_all() {
    let Some(cluster) = Cluster::start(2).await else { return };
    let [near, far] = [&cluster.brokers[0], &cluster.brokers[1]];
    let mut held = fill(far, 5_000).await;
    held.extend(fill(near, 2).await);
    let all = ask(near, "GET", "/pools?cluster=true").await;
    assert_eq!((&all["waiters"], &all["missing"]), (&5_002.into(), &json!([])));
    let rows = all["pools"].as_array().unwrap();
    assert_eq!((rows.len(), texts(&all["pools"], "deployment").len()), (5_002, 5_000));
    assert_eq!(texts(&all["pools"], "broker"), BTreeSet::from([&*cluster.name_of(0), &*cluster.name_of(1)]));

    let few = ask(near, "GET", "/waiters?cluster=true&limit=700").await;
    assert_eq!((few["waiters"].as_array().unwrap().len(), &few["more"]), (702, &true.into()));
    let last = ask(near, "GET", "/waiters?cluster=true&deployment=deployment_4999").await;
    assert_eq!(texts(&last["waiters"], "controller"), BTreeSet::from(["c4999"]));
    assert_eq!((&last["more"], last.get("next")), (&false.into(), None));
    let both = ask(near, "GET", "/waiters?cluster=true&deployment=deployment_1&limit=1").await;
    assert_eq!((both["waiters"].as_array().unwrap().len(), &both["more"]), (2, &false.into()));

    let retired = ask(near, "POST", "/retire?version=20260821.3&cluster=true").await;
    let at = |broker: usize, retired: u64| json!({ "broker": cluster.name_of(broker), "retired": retired });
    assert_eq!(retired, json!({ "retired": 5_002, "brokers": [at(0, 2), at(1, 5_000)], "missing": [] }));
    for client in &mut held {
        assert_eq!(client.answer().await.status, 410);
    }
}

#[tokio::test]
async fn pages_are_no_longer_than_nats_accepts() {
    let Some(nats) = NatsServer::start("max_payload: 4096") else { return };
    let mut cluster = Cluster::empty(nats, "written", &[]);
    cluster.join(&[]);
    cluster.join(&[]);
    cluster.settle().await;
    let _held = fill(&cluster.brokers[1], 200).await;
    for list in ["pools", "waiters"] {
        let all = ask(&cluster.brokers[0], "GET", &format!("/{list}?cluster=true")).await;
        assert_eq!((all[list].as_array().unwrap().len(), &all["missing"]), (200, &json!([])), "{list}");
    }
}

#[tokio::test]
async fn a_paused_broker_is_missing_and_retires_nobody_later() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let [_, paused, far] = [0, 1, 2].map(|at| &cluster.brokers[at]);
    let mut kept = fill(paused, 3).await;
    let _held = fill(far, 3_000).await;
    paused.stop().await;
    // At first it is only silent; then it is hidden; its name is known all the time.
    for _ in 0..4 {
        let begun = Instant::now();
        let all = ask(&cluster.brokers[0], "GET", "/pools?cluster=true").await;
        assert!(begun.elapsed() < ANSWERED_WITHIN, "{:?}", begun.elapsed());
        assert_eq!((&all["waiters"], &all["missing"]), (&3_000.into(), &json!([cluster.name_of(1)])));
    }
    let answer = ask(&cluster.brokers[0], "POST", "/retire?version=20260821.3&cluster=true").await;
    assert_eq!((&answer["retired"], &answer["missing"]), (&3_000.into(), &json!([cluster.name_of(1)])));
    // Long enough for the question to be old, whenever it is read.
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.resume(1);
    let target = "/pools?cluster=true";
    let is_back = async || ask(&cluster.brokers[0], "GET", target).await["missing"] == json!([]);
    cluster.brokers[0].wait_until("the broker answers again", is_back).await;
    assert_eq!(ask(&cluster.brokers[0], "GET", target).await["waiters"], 3);
    for client in &mut kept {
        assert!(client.is_held().await);
    }
}

#[tokio::test]
async fn without_nats_all_others_are_missing() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let mut held = fill(&cluster.brokers[0], 1).await;
    let seen = ask(&cluster.brokers[0], "GET", "/brokers").await;
    assert_eq!((&seen["cluster"], &seen["broker"]["connected"]), (&"pilotlight".into(), &true.into()));
    assert_eq!(seen["broker"]["name"], cluster.name_of(0).as_str());
    assert_eq!(texts(&seen["brokers"], "name"), BTreeSet::from([&*cluster.name_of(1), &*cluster.name_of(2)]));
    let ids = texts(&seen["brokers"], "id");
    assert!(ids.len() == 2 && ids.iter().all(|id| id.len() == 32), "{seen}");
    for other in seen["brokers"].as_array().unwrap() {
        assert!(other["silent_seconds"].as_f64().unwrap() < 5.0 && other["reachable"] == true, "{seen}");
    }
    assert!(!ids.contains(seen["broker"]["id"].as_str().unwrap()));

    cluster.nats.stop();
    cluster.brokers[0].wait_for_metric(support::cluster::CONNECTED, 0).await;
    let begun = Instant::now();
    let all = ask(&cluster.brokers[0], "GET", "/pools?cluster=true").await;
    let others = BTreeSet::from([cluster.name_of(1), cluster.name_of(2)]);
    assert_eq!((&all["waiters"], &all["missing"]), (&1.into(), &json!(others)));
    assert!(begun.elapsed() < ANSWERED_WITHIN);
    let seen = ask(&cluster.brokers[0], "GET", "/brokers").await;
    assert_eq!(
        (&seen["broker"]["connected"], &seen["brokers"][0]["reachable"]),
        (&false.into(), &false.into())
    );
    let retired = ask(&cluster.brokers[0], "POST", "/retire?version=20260821.3&cluster=true").await;
    assert_eq!((&retired["retired"], &retired["missing"]), (&1.into(), &json!(others)));
    assert_eq!(held[0].answer().await.status, 410);
}

#[tokio::test]
async fn a_broker_in_no_cluster_says_so() {
    let broker = Broker::start(&[]);
    let none = json!({ "cluster": null, "broker": null, "brokers": [] });
    assert_eq!(ask(&broker, "GET", "/brokers").await, none);
    for (method, target, why) in [
        ("GET", "/pools?cluster=true", "--nats"),
        ("GET", "/waiters?cluster=true", "--nats"),
        ("POST", "/retire?version=20260821.3&cluster=true", "--nats"),
        ("GET", "/pools?cluster=yes", "neither true nor false"),
        ("GET", "/pools?cluster=", "neither true nor false"),
        ("POST", "/retire?cluster=true", "selects every pool"),
    ] {
        let (status, body) = broker.operate(method, target).await;
        assert!(status == 400 && body.contains(why), "{target}: {body}");
    }
    assert_eq!(ask(&broker, "GET", "/pools?cluster=false").await, json!({ "pools": [], "waiters": 0 }));
    assert_eq!(ask(&broker, "GET", "/waiters").await, json!({ "waiters": [], "next": null }));
    assert_eq!(broker.operate("POST", "/brokers").await.0, 405);
}

#[tokio::test]
async fn only_the_first_waiters_of_all_brokers_are_listed() {
    let Some(cluster) = Cluster::start(2).await else { return };
    let (status, body) = cluster.brokers[0].operate("GET", "/waiters?cluster=true&from=0").await;
    assert!(status == 400 && body.contains("from cannot be used with cluster=true"), "{body}");
}

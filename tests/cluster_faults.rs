//! Owns the tests of what fails in a cluster: NATS, the network, other brokers, and what strangers publish.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]

mod support;

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use pilotlight::cluster::codec::{Announcement, News, decode, encode};
use rustix::process::Signal;
use serde_json::Value;
use support::client::Client;
use support::cluster::{
    CONNECTED, Cluster, SEEN, dispatch, native_poll, native_post, outcome, wait_until_known_at,
};
use support::lab::in_a_lab;
use support::nats::NatsServer;
use support::nats_client::{NatsClient, NatsMessage};
use support::relay::Relay;
use support::{Broker, PATIENCE, Pool};

const LATE: &str = "pilotlight_cluster_late_answers_total";

/// The value of the brokers' own budget.
const BUDGET: Duration = Duration::from_secs(2);

fn forwards(outcome: &str) -> String {
    format!("pilotlight_cluster_forwards_total{{outcome=\"{outcome}\"}}")
}

fn taken(outcome: &str) -> String {
    format!("pilotlight_cluster_forwards_taken_total{{outcome=\"{outcome}\"}}")
}

fn dropped(reason: &str) -> String {
    format!("pilotlight_cluster_messages_dropped_total{{reason=\"{reason}\"}}")
}

/// Posts a nameless native run, which must be answered within the budget.
async fn post(broker: &Broker, pool: &Pool, query: &str) -> Value {
    let begun = Instant::now();
    let answer = dispatch(broker, pool, query, "", b"a run").await.json();
    let took = begun.elapsed();
    assert!(took < BUDGET + Duration::from_secs(1), "{answer} after {took:?}");
    answer
}

/// A run that is posted here is delivered, if not at once, then soon: what was lost on the way is announced again, and on a busy
/// machine an answer may come too late.
async fn delivers(broker: &Broker, pool: &Pool) {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = dispatch(broker, pool, "?wait=100ms", "", b"reached").await.json();
        if answer["delivered"] == true {
            return;
        }
        assert!(Instant::now() < until, "{answer}");
    }
}

/// A run that is posted here reaches this controller, at once or soon.
async fn reaches(broker: &Broker, pool: &Pool, controller: &mut Client) {
    let mut received = std::pin::pin!(controller.answer());
    let run = tokio::select! {
        biased;
        run = &mut received => run,
        () = delivers(broker, pool) => received.await,
    };
    assert_eq!(run.body, b"reached");
}

/// Local runs are matched at once, and the broker is ready, or soon is: one that has just started waits for the others for a while.
async fn serves_its_own(broker: &Broker) {
    broker.wait_until("it is ready", async || broker.operate("GET", "/readyz").await.0 == 200).await;
    let pool = Pool::small("own");
    let mut controller = native_poll(broker, &pool, "own").await;
    let (answer, run) = tokio::join!(post(broker, &pool, ""), controller.answer());
    assert_eq!((answer["delivered"].as_bool(), run.body.as_slice()), (Some(true), &b"a run"[..]));
}

#[tokio::test]
async fn a_broker_serves_its_own_before_nats_is_there_and_connects_later() {
    let Some(mut nats) = NatsServer::start("") else { return };
    nats.stop();
    let mut cluster = Cluster::empty(nats, "written", &[]);
    let pool = Pool::small("d1");
    for _ in 0..2 {
        let at = cluster.join(&[]);
        serves_its_own(&cluster.brokers[at]).await;
        assert_eq!(cluster.brokers[at].metric(CONNECTED).await, 0);
    }
    let mut away = native_poll(&cluster.brokers[1], &pool, "away").await;
    assert_eq!(outcome(&post(&cluster.brokers[0], &pool, "").await), (false, "no_pool", 0));
    cluster.nats.restart();
    cluster.settle().await;
    wait_until_known_at(&cluster.brokers[0], &pool).await;
    reaches(&cluster.brokers[0], &pool, &mut away).await;
}

#[tokio::test]
async fn without_nats_each_broker_serves_its_own_and_with_another_server_all_are_one_again() {
    let Some(mut cluster) = Cluster::start(2).await else { return };
    let pool = Pool::small("d1");
    let mut away = cluster.held_native_poll(1, &pool, "away").await;
    for round in 0..2 {
        cluster.nats.stop();
        for broker in &cluster.brokers {
            broker.wait_for_metric(CONNECTED, 0).await;
            serves_its_own(broker).await;
        }
        let begun = Instant::now();
        let answer = post(&cluster.brokers[0], &pool, "").await;
        assert_eq!((&answer["delivered"], &answer["offers"]), (&false.into(), &0.into()), "{answer}");
        assert!(begun.elapsed() < Duration::from_secs(1), "round {round}: nothing is waited for");
        cluster.nats.restart();
        cluster.settle().await;
    }
    assert!(away.is_held().await, "no run of the time without NATS comes late");
    reaches(&cluster.brokers[0], &pool, &mut away).await;
}

#[tokio::test]
async fn what_nats_holds_back_while_it_is_paused_claims_nobody_later() {
    let Some(cluster) = Cluster::start(2).await else { return };
    let (origin, pool) = (&cluster.brokers[0], Pool::small("d1"));
    let mut away = cluster.held_native_poll(1, &pool, "away").await;
    cluster.nats.pause();
    let begun = Instant::now();
    let answer = post(origin, &pool, "").await;
    assert_eq!(outcome(&answer), (false, "unknown", 1), "it may have arrived");
    // For less than the three seconds after which the connection counts as lost.
    while begun.elapsed() < Duration::from_secs(1) {
        assert_eq!(post(origin, &pool, "").await["delivered"], false);
        serves_its_own(origin).await;
    }
    cluster.nats.resume();
    cluster.settle().await;
    cluster.brokers[1]
        .wait_until("the forward has come", async || cluster.brokers[1].metric(&taken("stale")).await >= 1)
        .await;
    origin.wait_until("the answer comes late", async || origin.metric(LATE).await >= 1).await;
    assert!(away.is_held().await);
    reaches(origin, &pool, &mut away).await;
}

/// A link with a round trip that is longer than the first forwards are waited for.
#[tokio::test]
async fn a_slow_link_costs_a_few_runs_until_its_round_trip_is_known() {
    let Some(nats) = NatsServer::start("") else { return };
    let (near, delay) = (SocketAddr::from(([127, 0, 0, 1], 0)), Duration::from_millis(70));
    let relay = Relay::slow(near, nats.address, delay).await;
    let mut cluster = Cluster::empty(nats, "written", &[]);
    cluster.join(&[]);
    let far = Broker::run(&mut cluster.command(&format!("nats://{}", relay.address), &[]));
    cluster.brokers.push(far);
    cluster.settle().await;
    let (origin, pool) = (&cluster.brokers[0], Pool::small("d1"));
    let mut held = Vec::new();
    for number in 0..24 {
        held.push(native_poll(&cluster.brokers[1], &pool, &format!("c{number}")).await);
    }
    wait_until_known_at(origin, &pool).await;
    let (mut unknown, mut hits) = (0, 0);
    while hits < 5 {
        let answer = post(origin, &pool, "?wait=2s").await;
        match answer["reason"].as_str() {
            None => hits += 1,
            Some("unknown") => unknown += 1,
            Some(_) => {}
        }
        assert!(unknown <= 8, "it never learns: {answer}");
    }
    assert!(unknown >= 1, "the link is not slow enough for this test");
    origin.wait_for_metric(LATE, unknown).await;
    serves_its_own(&cluster.brokers[1]).await;
}

/// Every message that was seen, changed in ways that make it worthless.
fn broken(message: &NatsMessage, random: &mut fastrand::Rng) -> Vec<Vec<u8>> {
    let NatsMessage { payload, .. } = message;
    let mut all = vec![Vec::new(), vec![0], payload[..1].to_vec(), payload[..payload.len() / 2].to_vec()];
    for version in [0, 2, 255] {
        all.push([&[version], &payload[1..]].concat());
    }
    // The version of this protocol, and noise.
    for length in [1, 10, 100, 70_000] {
        all.push([&payload[..1], &(0..length).map(|_| random.u8(..)).collect::<Vec<_>>()].concat());
    }
    all.push(vec![255; 1_000_000]);
    all
}

#[tokio::test]
async fn a_foreign_version_and_garbage_are_counted_and_change_nothing() {
    let Some(cluster) = Cluster::with(2, "received", &[]).await else { return };
    let (origin, pool) = (&cluster.brokers[0], Pool::small("d1"));
    let mut stranger = NatsClient::connect(cluster.nats.address).await;
    stranger.subscribe("pilotlight.v1.>").await;
    let mut away = cluster.held_native_poll(1, &pool, "away").await;
    reaches(origin, &pool, &mut away).await;
    // A message of each kind: an announcement, a forward, and its answer.
    let mut seen: Vec<NatsMessage> = Vec::new();
    for kind in ["directory", "to", "re"] {
        while !seen.iter().any(|message| message.subject.split('.').nth(2) == Some(kind)) {
            seen.push(stranger.next().await);
        }
    }
    let mut away = cluster.held_native_poll(1, &pool, "away").await;
    let before = cluster.brokers[1].waiters("").await;
    let mut random = fastrand::Rng::with_seed(16);
    for message in &seen {
        for payload in broken(message, &mut random) {
            for reply in ["", "pilotlight.v1.re.nobody.0", "elsewhere"] {
                stranger.publish(&message.subject, reply, &payload).await;
            }
        }
    }
    // Answers that nobody waits for, and subjects that nobody owns.
    stranger.publish(&format!("{}0", seen.last().unwrap().subject), "", b"\x01").await;
    stranger.publish("pilotlight.v1.to", "", b"\x01").await;
    stranger.publish("pilotlight.v2.directory", "", b"\x02").await;
    stranger.flush().await;
    for reason in ["foreign_version", "malformed"] {
        cluster.brokers[1]
            .wait_until("they are counted", async || cluster.metric(&dropped(reason)).await > 0)
            .await;
    }
    assert_eq!(cluster.brokers[1].waiters("").await, before, "nobody was claimed");
    assert_eq!(cluster.metric(CONNECTED).await, 2);
    cluster.settle().await;
    reaches(origin, &pool, &mut away).await;
}

/// NATS ends the connection of a client that does not read.
#[tokio::test]
async fn a_broker_that_nats_drops_as_a_slow_consumer_comes_back() {
    let Some(nats) = NatsServer::start("max_pending: 1048576\nwrite_deadline: \"1s\"") else { return };
    let mut cluster = Cluster::empty(nats, "written", &[]);
    for _ in 0..2 {
        cluster.join(&[]);
    }
    cluster.settle().await;
    let pool = Pool::small("d1");
    let mut stranger = NatsClient::connect(cluster.nats.address).await;
    stranger.subscribe("pilotlight.v1.to.*").await;
    let mut away = cluster.held_native_poll(1, &pool, "away").await;
    reaches(&cluster.brokers[0], &pool, &mut away).await;
    let subject = stranger.next().await.subject;
    let mut away = cluster.held_native_poll(1, &pool, "away").await;
    cluster.brokers[1].stop().await;
    // It does not subscribe, so that it is not dropped itself.
    let mut flooding = NatsClient::connect(cluster.nats.address).await;
    for _ in 0..60 {
        flooding.publish(&subject, "", &vec![255; 500_000]).await;
    }
    flooding.flush().await;
    cluster.brokers[0].wait_for_metric(SEEN, 0).await;
    cluster.resume(1);
    cluster.settle().await;
    assert!(away.is_held().await);
    reaches(&cluster.brokers[0], &pool, &mut away).await;
}

#[tokio::test]
async fn two_clusters_on_one_nats_do_not_mix() {
    let Some(mut cluster) = Cluster::start(2).await else { return };
    let pool = Pool::small("d1");
    let [first, second] = [0, 1].map(|_| cluster.join(&["--cluster", "other_one"]));
    for broker in &cluster.brokers {
        broker.wait_for_metric(SEEN, 1).await;
    }
    let mut here = native_poll(&cluster.brokers[1], &pool, "here").await;
    wait_until_known_at(&cluster.brokers[0], &pool).await;
    for at in [first, second] {
        assert_eq!(outcome(&post(&cluster.brokers[at], &pool, "").await), (false, "no_pool", 0));
    }
    let mut there = native_poll(&cluster.brokers[second], &pool, "there").await;
    wait_until_known_at(&cluster.brokers[first], &pool).await;
    reaches(&cluster.brokers[first], &pool, &mut there).await;
    assert!(here.is_held().await);
    reaches(&cluster.brokers[0], &pool, &mut here).await;
}

/// A cloned machine: another process has a broker's id. The stranger's heartbeat is that of the broker, sent at a time when the
/// broker sent none.
#[tokio::test]
async fn a_broker_that_hears_itself_takes_another_id_and_stays_one_of_them() {
    let Some(cluster) = Cluster::start(2).await else { return };
    let (origin, pool) = (&cluster.brokers[0], Pool::small("d1"));
    let mut stranger = NatsClient::connect(cluster.nats.address).await;
    // Not to all subjects: NATS would find a receiver for what is sent to the old id.
    stranger.subscribe("pilotlight.v1.directory").await;
    let mut away = cluster.held_native_poll(1, &pool, "away").await;
    let cloned = loop {
        let message = stranger.next().await;
        let (Announcement { from, news }, _) = decode(&message.payload).unwrap();
        if let News::Heartbeat { name, advertised, number, sent } = news
            && *name == cluster.name_of(1)
        {
            let news = News::Heartbeat { name, advertised, number, sent: sent - 1 };
            stranger.publish(&message.subject, "", &encode(&Announcement { from, news }, &[])).await;
            break from;
        }
    };
    let renamed = async |client: &mut NatsClient| loop {
        let message = client.next().await;
        let (Announcement { from, news }, _) = decode(&message.payload).unwrap();
        if matches!(news, News::Heartbeat { name, .. } if *name == cluster.name_of(1)) && from != cloned {
            return;
        }
    };
    renamed(&mut stranger).await;
    reaches(origin, &pool, &mut away).await;
    let mut here = native_poll(origin, &pool, "here").await;
    reaches(&cluster.brokers[1], &pool, &mut here).await;
    cluster.settle().await;
}

#[tokio::test]
async fn a_killed_owner_costs_nothing_for_runs_that_come_after_its_death() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let pool = Pool::small("d1");
    let mut dead = Vec::new();
    for number in 0..5 {
        dead.push(cluster.held_native_poll(1, &pool, &format!("dead-{number}")).await);
    }
    let mut alive = cluster.held_native_poll(2, &pool, "alive").await;
    cluster.kill_noticed(1).await;
    for round in 0..2 {
        let begun = Instant::now();
        // The second run waits until the controller is announced again.
        let answer = post(&cluster.brokers[0], &pool, "?wait=1s").await;
        assert_eq!(outcome(&answer), (true, "written", 1), "round {round}");
        assert!(begun.elapsed() < Duration::from_millis(300), "no deadline passed: {:?}", begun.elapsed());
        assert_eq!(alive.answer().await.body, b"a run");
        alive = native_poll(&cluster.brokers[2], &pool, "alive").await;
    }
    cluster.kill_noticed(2).await;
    let answer = post(&cluster.brokers[0], &pool, "").await;
    assert_eq!((&answer["delivered"], &answer["offers"]), (&false.into(), &0.into()), "{answer}");
    assert_ne!(answer["reason"], "unknown", "nothing was sent to anybody");
    let silent = cluster.brokers[0].metric(&forwards("silent")).await;
    assert_eq!(silent, 0);
}

/// Posts to the first broker, and returns once the forward has passed NATS.
async fn forwarded(cluster: &Cluster, pool: &Pool, query: &str) -> Client {
    let mut observer = NatsClient::connect(cluster.nats.address).await;
    observer.subscribe("pilotlight.v1.to.*").await;
    let mut supervisor = cluster.brokers[0].client().await;
    supervisor.send(native_post(pool, query, "", b"a run")).await;
    observer.next().await;
    supervisor
}

#[tokio::test]
async fn a_run_in_the_queue_of_an_owner_that_dies_is_unknown() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let pool = Pool::small("d1");
    let _dead = cluster.held_native_poll(1, &pool, "dead").await;
    cluster.brokers[1].stop().await;
    let mut supervisor = forwarded(&cluster, &pool, "").await;
    let mut other = native_poll(&cluster.brokers[2], &pool, "other").await;
    cluster.kill(1);
    let begun = Instant::now();
    assert_eq!(outcome(&supervisor.answer().await.json()), (false, "unknown", 1));
    assert!(begun.elapsed() < Duration::from_secs(1), "one deadline: {:?}", begun.elapsed());
    assert_eq!(cluster.brokers[0].metric(&forwards("silent")).await, 1);
    assert!(other.is_held().await, "nobody else gets it");
    reaches(&cluster.brokers[0], &pool, &mut other).await;
}

#[tokio::test]
async fn a_run_that_may_be_redelivered_goes_on_after_a_silent_owner_to_the_next() {
    let Some(cluster) = Cluster::with(3, "received", &[]).await else { return };
    let pool = Pool::small("d1");
    for dialect in ["native", "stock"] {
        let mut paused = Vec::new();
        for number in 0..5 {
            paused.push(cluster.held_poll(1, &pool, &format!("paused-{number}")).await);
        }
        cluster.brokers[1].stop().await;
        let mut other = native_poll(&cluster.brokers[2], &pool, "other").await;
        let origin = &cluster.brokers[0];
        // Until both are known, the one with more waiters comes first.
        wait_until_known_at(origin, &pool).await;
        let message = pool.message("run_1").to_string();
        let posted = async {
            match dialect {
                "native" => dispatch(origin, &pool, "?redeliver=true", "", message.as_bytes()).await.json(),
                _ => origin.post(&pool.body("run_1")).await.1,
            }
        };
        let (answer, run) = tokio::join!(posted, other.answer());
        assert_eq!(run.status, 200);
        let (is_hit, proof, offers) = outcome(&answer);
        assert_eq!((is_hit, proof), (true, "received"), "{dialect}: {answer}");
        assert!([1, 2].contains(&offers), "{answer}");
        cluster.resume(1);
        cluster.settle().await;
        drop(paused);
        cluster.brokers[1].wait_for_waiters(0).await;
    }
}

#[tokio::test]
async fn an_owner_that_dies_after_it_has_claimed_leaves_the_run_unknown() {
    let arguments = ["--dispatch-budget", "3s", "--proof-timeout", "2s"];
    let Some(mut cluster) = Cluster::with(3, "received", &arguments).await else { return };
    let pool = Pool::small("d1");
    // It does not read, so there is no verdict yet.
    let _idle = cluster.held_native_poll(1, &pool, "idle").await;
    let mut supervisor = cluster.brokers[0].client().await;
    supervisor.send(native_post(&pool, "", "", b"a run")).await;
    cluster.brokers[1].wait_for_waiters(0).await;
    let mut other = cluster.held_native_poll(2, &pool, "other").await;
    cluster.kill(1);
    let begun = Instant::now();
    assert_eq!(outcome(&supervisor.answer().await.json()), (false, "unknown", 1));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(other.is_held().await, "nobody else gets it");
}

#[tokio::test]
async fn an_origin_that_dies_after_it_has_forwarded_loses_its_answer_only() {
    let Some(mut cluster) = Cluster::with(2, "received", &[]).await else { return };
    let pool = Pool::small("d1");
    let mut away = cluster.held_native_poll(1, &pool, "away").await;
    cluster.brokers[1].stop().await;
    let mut supervisor = forwarded(&cluster, &pool, "").await;
    cluster.kill(0);
    cluster.resume(1);
    assert!(supervisor.try_answer().await.is_none());
    // It is delivered, or found to be stale; either way it is counted, and the broker goes on.
    let owner = &cluster.brokers[1];
    let ended = async || owner.metric(&taken("delivered")).await + owner.metric(&taken("stale")).await;
    let ((), received) =
        tokio::join!(owner.wait_until("the forward has ended", async || ended().await == 1), away.answer());
    assert_eq!(received.body, b"a run");
    serves_its_own(owner).await;
}

/// A stopped owner costs each run that is forwarded to it one deadline, and after the second nothing.
#[tokio::test]
async fn a_silent_owner_is_passed_over_after_its_second_silence() {
    let Some(cluster) = Cluster::start(2).await else { return };
    let (origin, pool) = (&cluster.brokers[0], Pool::small("d1"));
    let mut held = Vec::new();
    for number in 0..5 {
        held.push(cluster.held_native_poll(1, &pool, &format!("c{number}")).await);
    }
    cluster.brokers[1].stop().await;
    let mut unknown = 0;
    loop {
        let begun = Instant::now();
        let answer = post(origin, &pool, "").await;
        assert_eq!(answer["delivered"], false);
        if answer["reason"] != "unknown" {
            assert!(begun.elapsed() < Duration::from_millis(80), "it does not wait: {:?}", begun.elapsed());
            break;
        }
        unknown += 1;
    }
    assert!((1..=2).contains(&unknown), "{unknown} runs were lost in the silence");
    serves_its_own(origin).await;
    cluster.resume(1);
    delivers(origin, &pool).await;
}

#[tokio::test]
async fn a_broker_that_was_paused_for_10_seconds_claims_none_of_its_waiters_for_what_it_finds_queued() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let pool = Pool::small("d1");
    let mut held = Vec::new();
    for number in 0..5 {
        held.push(cluster.held_native_poll(1, &pool, &format!("c{number}")).await);
    }
    cluster.brokers[1].stop().await;
    let paused = Instant::now();
    let mut silent = 0;
    while paused.elapsed() < Duration::from_secs(10) {
        for at in [0, 2] {
            let answer = post(&cluster.brokers[at], &pool, "").await;
            assert_eq!(answer["delivered"], false);
            silent += u64::from(answer["reason"] == "unknown");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!((1..=4).contains(&silent), "{silent}");
    for at in [0, 2] {
        assert_eq!(cluster.brokers[at].metric(SEEN).await, 1, "it is hidden");
    }
    cluster.resume(1);
    cluster.settle().await;
    let owner = &cluster.brokers[1];
    owner.wait_for_metric(&taken("stale"), silent).await;
    assert_eq!((owner.waiters("").await, owner.metric(&taken("delivered")).await), (5, 0));
    for client in &mut held {
        assert!(client.is_held().await);
    }
    for at in [0, 2] {
        delivers(&cluster.brokers[at], &pool).await;
    }
}

#[tokio::test]
async fn a_broker_whose_clock_is_an_hour_ahead_is_one_of_them() {
    let works = Command::new("unshare").args(["--time", "--monotonic", "3600", "true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: unshare --time needs root and a kernel with time namespaces");
        return;
    }
    let Some(mut cluster) = Cluster::start(2).await else { return };
    let broker = cluster.command(&cluster.nats.url(), &[]);
    let mut ahead = Command::new("unshare");
    ahead.args(["--time", "--monotonic", "3600", "--boottime", "3600", "--fork", "--kill-child", "--"]);
    ahead.arg(broker.get_program()).args(broker.get_args()).env("RUST_LOG", "error");
    cluster.brokers.push(Broker::run(&mut ahead));
    cluster.settle().await;
    for (waits_at, posted_at) in [(2, 0), (0, 2), (1, 2), (2, 1)] {
        for round in 0..3 {
            let pool = Pool::small(&format!("d{waits_at}{posted_at}{round}"));
            let mut away = cluster.held_native_poll(waits_at, &pool, "away").await;
            let answer = post(&cluster.brokers[posted_at], &pool, "").await;
            assert_eq!(outcome(&answer), (true, "written", 1), "from {posted_at} to {waits_at}");
            assert_eq!(away.answer().await.body, b"a run");
        }
    }
    for outcome in ["stale", "silent", "miss"] {
        assert_eq!(cluster.metric(&forwards(outcome)).await, 0, "{outcome}");
    }
}

/// A broker whose packets from and to NATS are lost: nothing ends, and nobody is told.
#[test]
fn a_partition_leaves_each_side_its_own_and_no_run_is_delivered_late() {
    in_a_lab(async |lab| {
        let Some(nats) = NatsServer::start("") else { return };
        let port = 4333;
        let near = SocketAddr::from(([127, 0, 0, 1], port));
        let relay = Relay::between(near, nats.address).await;
        let mut cluster = Cluster::empty(nats, "written", &[]);
        cluster.join(&[]);
        let command = &mut cluster.command(&format!("nats://{}", relay.address), &[]);
        cluster.brokers.push(Broker::run(command));
        cluster.settle().await;
        let [here, there] = [&cluster.brokers[0], &cluster.brokers[1]];
        let pool = Pool::small("d1");
        let mut away = cluster.held_native_poll(1, &pool, "away").await;
        let cut = Instant::now();
        lab.lose_port(port);
        assert_eq!(outcome(&post(here, &pool, "").await), (false, "unknown", 1));
        for broker in [here, there] {
            broker.wait_for_metric(SEEN, 0).await;
            serves_its_own(broker).await;
        }
        let answer = post(here, &pool, "").await;
        assert_eq!((&answer["delivered"], &answer["offers"]), (&false.into(), &0.into()), "{answer}");
        assert!(cut.elapsed() > BUDGET);
        lab.heal_port(port);
        cluster.settle().await;
        assert!(away.is_held().await, "what was retransmitted is too old");
        wait_until_known_at(here, &pool).await;
        reaches(here, &pool, &mut away).await;
    });
}

#[tokio::test]
async fn the_end_of_a_broker_waits_for_the_forwards_that_it_has_taken() {
    let Some(mut cluster) = Cluster::with(2, "received", &["--drain-window", "0s"]).await else { return };
    let pool = Pool::small("d1");
    let mut away = cluster.held_native_poll(1, &pool, "away").await;
    let mut supervisor = cluster.brokers[0].client().await;
    supervisor.send(native_post(&pool, "", "", b"a run")).await;
    cluster.brokers[1].wait_for_waiters(0).await;
    cluster.brokers[1].signal(Signal::TERM);
    assert_eq!(away.answer().await.body, b"a run");
    assert_eq!(outcome(&supervisor.answer().await.json()), (true, "received", 1));
    assert!(cluster.brokers[1].ended().await.success());
    cluster.brokers[0].wait_for_metric(SEEN, 0).await;
}

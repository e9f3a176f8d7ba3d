//! Owns the tests of the topics of `/events`: each reader receives what it asked for, and misses nothing of it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Instant;

use support::client::Client;
use support::events::{Event, Events};
use support::{Broker, PATIENCE, Pool, post};
use tokio::io::AsyncReadExt;

/// The events that the log keeps.
const CAPACITY: usize = 10_000;

fn pool(deployment: &str, version: &str) -> Pool {
    Pool::new(deployment, version, "0.5", "0.5")
}

/// An event in short: its kind, what it is about, and how it ended.
fn short(event: &Event) -> String {
    let word = |name: &str| event.data[name].as_str().unwrap_or("-").to_owned();
    let pool = || format!("{}/{}", word("deployment"), word("version"));
    match &*event.kind {
        "poll" => format!("poll {} {}", pool(), word("end")),
        "dispatch" => format!("dispatch {} {} {}", pool(), word("run"), word("outcome")),
        "verdict" => format!("verdict {} {}", word("run"), word("verdict")),
        "retire" => format!("retire {}", pool()),
        kind => kind.to_owned(),
    }
}

fn all_short(events: &[Event]) -> Vec<String> {
    events.iter().map(short).collect()
}

/// Posts runs that nobody waits for: one event each.
async fn miss(broker: &Broker, pool: &Pool, count: usize) {
    const AT_ONCE: usize = 100;
    let mut supervisor = broker.client().await;
    let request = post("/warm-start", &pool.body("run_busy"));
    for _ in 0..count.div_ceil(AT_ONCE) {
        supervisor.send(request.repeat(AT_ONCE)).await;
        for _ in 0..AT_ONCE {
            assert_eq!(supervisor.answer().await.status, 200);
        }
    }
}

/// A reader of polls, once the journal has noticed it: polls are recorded from then on.
async fn noticed(broker: &Broker, target: &str) -> Events {
    let events = Events::follow(broker, target, None).await;
    let mut dispatches = Events::follow(broker, "/events?kind=dispatch", None).await;
    broker.post(&pool("first", "1").body("run_first")).await;
    dispatches.next("dispatch").await;
    events
}

/// One run each in four pools, and three retirements. The last event is the drain.
async fn act(broker: &Broker) {
    for (deployment, version) in [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")] {
        let pool = pool(deployment, version);
        let mut one = broker.held_poll(&pool, "one").await;
        let run = format!("run_{deployment}{version}");
        assert_eq!(broker.post(&pool.body(&run)).await.1["didWarmStart"], true);
        assert_eq!(one.answer().await.status, 200);
    }
    for filter in ["deployment=a&version=2", "cpu=0.5", "deployment=b"] {
        assert_eq!(broker.operate("POST", &format!("/retire?{filter}")).await.0, 200);
    }
    assert_eq!(broker.operate("POST", "/drain").await.0, 200);
}

/// The events of one pool's run.
fn of_run(pool: &str, run: &str) -> [String; 4] {
    [
        format!("poll {pool} -"),
        format!("poll {pool} matched"),
        format!("verdict {run} written"),
        format!("dispatch {pool} {run} hit"),
    ]
}

#[tokio::test]
async fn each_reader_receives_what_it_asked_for() {
    let broker = Broker::start(&[]);
    let all = noticed(&broker, "/events").await;
    let runs = [("a/1", "run_a1"), ("a/2", "run_a2"), ("b/1", "run_b1"), ("b/2", "run_b2")];
    let events: Vec<String> = runs.iter().flat_map(|(pool, run)| of_run(pool, run)).collect();
    let retired = ["retire a/2", "retire -/-", "retire b/-"].map(str::to_owned);
    let only = |words: &[&str]| -> Vec<String> {
        let is_in = |event: &&String| words.iter().any(|word| event.contains(word));
        events.iter().chain(&retired).filter(is_in).cloned().chain(["drain".to_owned()]).collect()
    };
    let cases = [
        ("/events?deployment=a", only(&["a/", "run_a", "-/-"])),
        ("/events?version=2", only(&["/2", "run_a2", "run_b2", "-/-", "b/-"])),
        ("/events?deployment=b&version=1", only(&["b/1", "run_b1", "-/-", "b/-"])),
        ("/events?run=run_b2", only(&["run_b2"])),
        ("/events?run=run_b2&deployment=b&version=2&kind=dispatch,drain", only(&["b/2 run_b2"])),
        ("/events?run=run_b2&deployment=a", only(&[])),
        ("/events?deployment=nobody&kind=poll,verdict,dispatch,drain", only(&[])),
        ("/events?deployment=%61&kind=poll%2Cdrain", only(&["poll a/"])),
        ("/events?kind=verdict,drain", only(&["verdict"])),
        ("/events?kinds=verdict,drain", only(&["verdict"])),
        ("/events?version=1&kinds=retire,drain", only(&["retire -/-", "retire b/-"])),
    ];
    let mut readers = Vec::new();
    for (target, expected) in cases {
        readers.push((target, Events::follow(&broker, target, None).await, expected));
    }
    act(&broker).await;
    let mut all = all;
    let seen = all.all_to("drain").await;
    let seen: Vec<_> = all_short(&seen).into_iter().filter(|event| !event.contains("first")).collect();
    assert_eq!(seen, only(&[""]));
    for (target, mut reader, expected) in readers {
        let read = reader.all_to("drain").await;
        let ids: Vec<u64> =
            read.iter().map(|event| event.id.rsplit('-').next().unwrap().parse().unwrap()).collect();
        assert!(ids.is_sorted(), "{target}: {ids:?}");
        assert_eq!(all_short(&read), expected, "{target}");
    }
}

#[tokio::test]
async fn polls_of_a_deployment_come_and_go_however_they_end() {
    let broker = Broker::start(&[]);
    let mut events = noticed(&broker, "/events?deployment=a&kind=poll").await;
    let (ours, other) = (pool("a", "1"), pool("b", "1"));
    let _other = broker.held_poll(&other, "one").await;
    let mut ended = async |how: &str| {
        for end in ["-", how] {
            let event = events.next_of_any_kind().await;
            assert_eq!(short(&event), format!("poll a/1 {end}"));
            assert_eq!((&event.data["cpu"], &event.data["memory"]), (&0.5.into(), &0.5.into()));
        }
    };
    drop(broker.held_poll(&ours, "leaves").await);
    ended("client_gone").await;
    let mut short_poll = broker.client().await;
    short_poll.send(format!("GET {}?timeout=1s HTTP/1.1\r\nhost: broker\r\n\r\n", ours.path())).await;
    ended("expired").await;
    let mut retired = broker.held_poll(&ours, "two").await;
    assert_eq!(broker.operate("POST", "/retire?deployment=a").await.0, 200);
    ended("retired").await;
    assert_eq!(retired.answer().await.status, 410);
    let _older = broker.held_poll(&ours, "three").await;
    let mut newer = broker.client().await;
    newer.send(&ours.poll("three")).await;
    let phases = [events.next("poll").await, events.next("poll").await, events.next("poll").await];
    assert_eq!(all_short(&phases), ["poll a/1 -", "poll a/1 -", "poll a/1 replaced"]);
    assert_eq!(broker.operate("POST", "/drain").await.0, 200);
    assert_eq!(short(&events.next("poll").await), "poll a/1 drained");
}

#[tokio::test]
async fn a_reader_that_is_idle_in_its_topic_misses_nothing_while_the_log_moves_on() {
    let broker = Broker::start(&[]);
    let (quiet, busy) = (pool("quiet", "1"), pool("busy", "1"));
    let mut stays = Events::follow(&broker, "/events?deployment=quiet", None).await;
    let mut leaves = Events::follow(&broker, "/events?deployment=quiet", None).await;
    broker.post(&quiet.body("run_1")).await;
    let first = leaves.next_of_any_kind().await;
    broker.post(&quiet.body("run_2")).await;
    let second = leaves.next_of_any_kind().await;
    drop(leaves);
    miss(&broker, &busy, CAPACITY + 1_000).await;

    let mut again = Events::follow(&broker, "/events?deployment=quiet", Some(&second.id)).await;
    let mut earlier = Events::follow(&broker, "/events?deployment=quiet", Some(&first.id)).await;
    broker.post(&quiet.body("run_3")).await;
    let third = "dispatch quiet/1 run_3 miss";
    assert_eq!(short(&again.next_of_any_kind().await), third);
    let missed = earlier.next_of_any_kind().await;
    assert_eq!((&*missed.kind, missed.data["missed"].as_u64()), ("missed", Some(2)), "at most so many");
    assert_eq!(short(&earlier.next_of_any_kind().await), third);
    for run in ["run_1", "run_2", "run_3"] {
        assert_eq!(stays.next_of_any_kind().await.data["run"], run);
    }
    assert_eq!(broker.metric("pilotlight_events_cut_off_total").await, 0);
}

#[tokio::test]
async fn a_reader_that_lags_in_its_topic_is_cut_off_and_another_is_not() {
    let broker = Broker::start(&[]);
    let mut lags = Events::follow(&broker, "/events?deployment=busy", None).await;
    let _idle = Events::follow(&broker, "/events?deployment=busy&kind=poll", None).await;
    let mut other = Events::follow(&broker, "/events?deployment=other", None).await;
    let until = Instant::now() + PATIENCE * 3;
    while broker.metric("pilotlight_events_cut_off_total").await == 0 {
        assert!(Instant::now() < until, "never disconnected");
        miss(&broker, &pool("busy", "1"), 1_000).await;
    }
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, lags.stream.read_to_end(&mut rest)).await.unwrap();
    broker.post(&pool("other", "1").body("run_1")).await;
    assert_eq!(other.next_of_any_kind().await.data["run"], "run_1");
    assert_eq!(broker.metric("pilotlight_events_cut_off_total").await, 1);
}

#[tokio::test]
async fn a_wrong_parameter_is_refused_by_name() {
    let broker = Broker::start(&[]);
    let long = "x".repeat(257);
    for (query, what) in [
        ("deployment=", "deployment is empty"),
        (&format!("deployment={long}"), "deployment is longer than 256 bytes"),
        ("version=%0A", "version has a byte outside printable ASCII"),
        ("run=%C3%A9", "run has a byte outside printable ASCII"),
        (&format!("run={long}"), "run is longer than 256 bytes"),
        ("kind=gossip", "kind has something other than poll, dispatch, verdict, drain, retire, reply"),
        ("kind=", "kind has something other"),
        ("kinds=poll,,drain", "kinds has something other"),
        ("run=run_1&kind=poll", "kind has only poll and retire, which have no run"),
        ("run=run_1&kind=poll,retire", "kind has only poll and retire"),
        ("color=red", "known: deployment, version, run, kind"),
    ] {
        let answer = Client::connect(broker.ops)
            .await
            .ask(format!("GET /events?{query} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
            .await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-parameter"), "{query}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(what), "{query}: {detail}");
    }
    let longest = "x".repeat(256);
    drop(
        Events::follow(
            &broker,
            &format!("/events?deployment={longest}&version={longest}&run={longest}"),
            None,
        )
        .await,
    );
}

//! Owns the end-to-end tests of the ops listener: health, pools, waiters, retire, drain and the end of the process.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Broker, Pool};
use tokio::task::JoinSet;

#[tokio::test]
async fn a_broker_is_alive_and_ready() {
    let broker = Broker::start(&[]);
    assert_eq!(broker.operate("GET", "/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(broker.operate("GET", "/readyz").await, (200, "ready\n".to_owned()));
    assert_eq!(broker.operate("GET", "/nothing").await.0, 404);
    assert_eq!(broker.operate("POST", "/metrics").await.0, 405);
    assert_eq!(broker.operate("GET", "/drain").await.0, 405);
}

#[tokio::test]
async fn any_subset_of_the_key_selects_pools_and_waiters() {
    let broker = Broker::start(&[]);
    let mut held = Vec::new();
    for (number, pool) in
        [("d1", "1", "0.5"), ("d1", "2", "0.5"), ("d1", "2", "1"), ("d2", "1", "1")].iter().enumerate()
    {
        let pool = Pool::new(pool.0, pool.1, pool.2, "0.5");
        held.push(broker.held_poll(&pool, &format!("c{number}")).await);
    }
    held.push(broker.held_poll(&Pool::new("d1", "1", "0.50", "0.5"), "c4").await);
    for (filter, pools, waiters) in [
        ("", 4, 5),
        ("deployment=d1", 3, 4),
        ("version=1", 2, 3),
        ("cpu=1", 2, 2),
        ("cpu=0.50&memory=5e-1", 2, 3),
        ("deployment=d1&version=1&cpu=0.5&memory=0.5", 1, 2),
        ("deployment=d1&version=&cpu=", 3, 4),
        ("deployment=d3", 0, 0),
    ] {
        let listed = broker.pools(filter).await;
        assert_eq!(listed["pools"].as_array().unwrap().len(), pools, "{filter}: {listed}");
        assert_eq!(listed["waiters"], waiters, "{filter}: {listed}");
        let (_, body) = broker.operate("GET", &format!("/waiters?{filter}")).await;
        let listed: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(listed["waiters"].as_array().unwrap().len(), waiters, "{filter}: {listed}");
    }
    let pools = broker.pools("deployment=d2").await;
    let pool = &pools["pools"][0];
    assert_eq!((&pool["version"], &pool["cpu"], &pool["waiters"]), (&"1".into(), &1.0.into(), &1.into()));
    assert!(pool["oldest_seconds"].as_f64().unwrap() >= pool["newest_seconds"].as_f64().unwrap());
    for wrong in ["/pools?deploymnet=d1", "/pools?cpu=x", "/waiters?from=x"] {
        assert_eq!(broker.operate("GET", wrong).await.0, 400, "{wrong}");
    }
}

#[tokio::test]
async fn waiters_come_in_pages_and_name_their_controllers() {
    let broker = Broker::start(&[]);
    let mut held = Vec::new();
    for number in 0..25 {
        held.push(broker.held_poll(&Pool::small("d1"), &format!("controller_{number}")).await);
    }
    let mut names = Vec::new();
    let mut from = Some(0);
    while let Some(at) = from {
        let (_, body) = broker.operate("GET", &format!("/waiters?from={at}&limit=10")).await;
        let page: serde_json::Value = serde_json::from_str(&body).unwrap();
        let rows = page["waiters"].as_array().unwrap();
        assert!(rows.len() <= 10);
        names.extend(rows.iter().map(|row| row["controller"].as_str().unwrap().to_owned()));
        assert!(rows.iter().all(|row| row["origin"] == "127.0.0.1" && row["late"] == false));
        from = page["next"].as_u64();
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 25);
}

#[tokio::test]
async fn retire_ends_the_selected_polls_with_410() {
    let broker = Broker::start(&[]);
    let mut old = broker.held_poll(&Pool::new("d1", "1", "1", "1"), "old").await;
    let mut new = broker.held_poll(&Pool::new("d1", "2", "1", "1"), "new").await;
    assert_eq!(broker.operate("POST", "/retire").await.0, 400, "a filter is required");
    let retired = broker.operate("POST", "/retire?deployment=d1&version=1").await;
    assert_eq!(retired, (200, "{\"retired\":1}".to_owned()));
    assert_eq!(old.answer().await.status, 410);
    assert!(old.is_closed_silently().await);
    assert!(new.is_held().await);
    assert_eq!(broker.metric("pilotlight_polls_total{end=\"retired\"}").await, 1);
}

#[tokio::test]
async fn drain_redirects_all_waiters_and_later_polls() {
    let broker = Broker::start(&["--drain-window", "500ms"]);
    let pool = Pool::small("d1");
    let mut controllers = Vec::new();
    for number in 0..10 {
        controllers.push(broker.held_poll(&pool, &format!("c{number}")).await);
    }
    let mut native = broker.client().await;
    native.send(format!("GET {} HTTP/1.1\r\nhost: b\r\n\r\n", pool.path())).await;
    broker.wait_for_waiters(11).await;
    assert_eq!(broker.operate("POST", "/drain").await.0, 200);
    assert_eq!(broker.operate("GET", "/readyz").await, (503, "draining\n".to_owned()));
    assert_eq!(broker.operate("GET", "/livez").await.0, 200);
    assert_eq!(broker.post(&pool.body("r")).await.1["reason"], "draining");
    for controller in &mut controllers {
        let answer = controller.answer().await;
        assert_eq!((answer.status, answer.header("location")), (307, Some("/warm-start")));
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(controller.is_closed_silently().await);
    }
    assert_eq!(native.answer().await.status, 204, "no run came");
    let mut late = broker.client().await;
    assert_eq!(late.ask(pool.poll("late")).await.status, 307, "later polls are redirected as well");
    assert_eq!(broker.metric("pilotlight_draining").await, 1);
}

#[tokio::test]
async fn a_drain_sends_controllers_to_the_origin_that_is_set_last() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pilotlight.toml");
    std::fs::write(&file, "redirect-to = \"http://first:7070\"\n").unwrap();
    let broker = Broker::start(&["--drain-window", "0s", "--config", file.to_str().unwrap()]);
    let pool = Pool::small("d1");
    let mut controller = broker.held_poll(&pool, "c1").await;
    let mut native = broker.client().await;
    native.send(format!("GET {} HTTP/1.1\r\nhost: b\r\n\r\n", pool.path())).await;
    broker.wait_for_waiters(2).await;
    std::fs::write(&file, "redirect-to = \"https://Second.example.org/\"\n").unwrap();
    broker.signal(Signal::HUP);
    broker.wait_for_metric("pilotlight_config_reloads_total{result=\"done\"}", 1).await;
    assert_eq!(broker.operate("POST", "/drain").await.0, 200);
    let answer = controller.answer().await;
    let location = "https://second.example.org/warm-start";
    assert_eq!((answer.status, answer.header("location")), (307, Some(location)));
    assert!(controller.is_closed_silently().await);
    let answer = native.answer().await;
    assert_eq!((answer.status, answer.header("location")), (204, None), "its client polls its own URL again");
}

#[tokio::test]
async fn a_late_poll_at_a_drained_broker_is_held_for_seconds_before_its_redirect() {
    let broker = Broker::start(&["--drain-window", "0s"]);
    let pool = Pool::small("d1");
    assert_eq!(broker.operate("POST", "/drain").await.0, 200);
    let mut late = JoinSet::new();
    for number in 0..20 {
        let (public, poll) = (broker.public, pool.poll(&format!("c{number}")));
        late.spawn(async move {
            let begun = Instant::now();
            let answer = support::client::Client::connect(public).await.ask(poll).await;
            (answer.status, begun.elapsed())
        });
    }
    broker.wait_for_waiters(20).await;
    let (statuses, mut times): (Vec<_>, Vec<_>) = late.join_all().await.into_iter().unzip();
    assert_eq!(statuses, [307; 20]);
    times.sort();
    assert!(times[0] >= Duration::from_secs(5), "20 redirects are not used up: {times:?}");
    assert!(times[19] > times[0] + Duration::from_secs(2), "they do not all come back at once: {times:?}");
    assert_eq!(broker.metric("pilotlight_polls_total{end=\"drained\"}").await, 20);
    assert_eq!(broker.metric("pilotlight_polls_total{end=\"expired\"}").await, 0);
}

#[tokio::test]
async fn late_polls_do_not_delay_the_shutdown() {
    let mut broker = Broker::start(&["--drain-window", "2s"]);
    let pool = Pool::small("d1");
    let mut standing = Vec::new();
    for number in 0..20 {
        standing.push(broker.held_poll(&pool, &format!("c{number}")).await);
    }
    let begun = Instant::now();
    broker.signal(Signal::TERM);
    broker.wait_until("it drains", async || broker.operate("GET", "/readyz").await.0 == 503).await;
    let mut late = broker.client().await;
    late.send(pool.poll("late")).await;
    assert_eq!(late.answer().await.status, 307, "it is redirected at the end of the window");
    assert!(broker.ended().await.success());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn sigterm_drains_over_its_window_and_ends() {
    let mut broker = Broker::start(&["--drain-window", "1s"]);
    let pool = Pool::small("d1");
    let mut controllers = Vec::new();
    for number in 0..20 {
        controllers.push(broker.held_poll(&pool, &format!("c{number}")).await);
    }
    let begun = Instant::now();
    broker.signal(Signal::TERM);
    let mut answers = JoinSet::new();
    for mut controller in controllers {
        answers.spawn(async move { (controller.answer().await.status, begun.elapsed()) });
    }
    let mut early = 0;
    for (status, when) in answers.join_all().await {
        assert_eq!(status, 307);
        early += usize::from(when < Duration::from_millis(500));
    }
    assert!((4..=16).contains(&early), "{early} of 20 answers in the first half of the window");
    assert!(broker.ended().await.success());
}

#[tokio::test]
async fn a_second_sigterm_ends_at_once() {
    let mut broker = Broker::start(&["--drain-window", "1h"]);
    let _controller = broker.held_poll(&Pool::small("d1"), "one").await;
    broker.signal(Signal::TERM);
    let until = Instant::now() + support::PATIENCE;
    while broker.operate("GET", "/readyz").await.0 == 200 {
        assert!(Instant::now() < until, "the signal has no effect");
    }
    broker.signal(Signal::TERM);
    let begun = Instant::now();
    assert!(broker.ended().await.success());
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn counters_conserve() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut controller = broker.held_poll(&pool, "one").await;
    broker.post(&pool.body("r1")).await;
    controller.answer().await;
    broker.post(&pool.body("r2")).await;
    broker.post("{}").await;
    drop(broker.held_poll(&pool, "two").await);
    broker.wait_for_waiters(0).await;
    let value = async |name: &str| broker.metric(&format!("pilotlight_{name}")).await;
    assert_eq!(value("dispatches_total{outcome=\"hit\",reason=\"none\"}").await, 1);
    assert_eq!(value("dispatches_total{outcome=\"miss\",reason=\"all_taken\"}").await, 1);
    assert_eq!(value("dispatches_total{outcome=\"refused\",reason=\"none\"}").await, 1);
    assert_eq!(value("dispatch_seconds_count{outcome=\"hit\"}").await, 1);
    assert_eq!(value("offers_total{verdict=\"written\"}").await, 1);
    assert_eq!(value("polls_total{end=\"matched\"}").await, 1);
    assert_eq!(value("polls_total{end=\"client_gone\"}").await, 1);
    assert_eq!(value("hold_seconds_count{end=\"matched\"}").await, 1);
    assert_eq!(value("payload_bytes_count").await, 2);
    assert_eq!(value("waiters{transport=\"poll\"}").await, 0);
    assert!(broker.metric("process_resident_memory_bytes").await > 1_000_000);
}

#[tokio::test]
async fn a_drain_redirects_each_controller_once_although_it_reconnects_at_once() {
    let broker = Broker::start(&["--drain-window", "2s"]);
    let pool = Pool::small("d1");
    let answers = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut controllers = JoinSet::new();
    for number in 0..50 {
        let mut client = broker.held_poll(&pool, &format!("c{number}")).await;
        let (public, pool, answers) = (broker.public, pool.clone(), answers.clone());
        controllers.spawn(async move {
            // As a real client does, it follows the redirect, here to the same broker.
            while client.answer().await.status == 307 {
                answers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                client = support::client::Client::connect(public).await;
                client.send(pool.poll(&format!("c{number}"))).await;
            }
        });
    }
    broker.operate("POST", "/drain").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let count = answers.load(std::sync::atomic::Ordering::Relaxed);
    assert!((20..=50).contains(&count), "{count} redirects of 50 controllers within the window");
}

#[tokio::test]
async fn retire_does_not_repeat_for_controllers_that_reconnect() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut controllers = JoinSet::new();
    for number in 0..20 {
        let mut client = broker.held_poll(&pool, &format!("c{number}")).await;
        let (public, pool) = (broker.public, pool.clone());
        controllers.spawn(async move {
            loop {
                client.answer().await;
                client = support::client::Client::connect(public).await;
                client.send(pool.poll(&format!("c{number}"))).await;
            }
        });
    }
    assert_eq!(broker.operate("POST", "/retire?deployment=d1").await.1, "{\"retired\":20}");
    broker.wait_for_waiters(20).await;
    assert_eq!(
        broker.operate("POST", "/retire?deployment=d1&version=").await.0,
        400,
        "an empty value selects all"
    );
}

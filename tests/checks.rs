//! Owns the tests with other clients than controllers and supervisors: health checks, real load balancers, browsers.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use rustix::process::Signal;
use support::client::{Answer, Client};
use support::proxy::{HAPROXY, start};
use support::{Broker, Pool};

async fn ask(client: &mut Client, line: &str) -> Answer {
    client.send(format!("{line} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
    if line.starts_with("HEAD ") { client.bare_answer().await } else { client.answer().await }
}

/// The status line and all fields but `date`, which must be the same for GET and HEAD.
fn head_without_date(answer: &Answer) -> Vec<String> {
    let lines = answer.head.lines().filter(|line| !line.starts_with("date: "));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn head_is_answered_like_get_and_the_connection_stays_open() {
    let broker = Broker::start(&["--public-livez"]);
    let mut client = broker.client().await;
    for path in ["/connect", "/livez", "/nothing", "/v1/pools/a/b/c/d", "/v1/pools/a", "/connect?x=y"] {
        let get = ask(&mut client, &format!("GET {path}")).await;
        let head = ask(&mut client, &format!("HEAD {path}")).await;
        assert_eq!(head_without_date(&get), head_without_date(&head), "{path}");
        assert!(!get.body.is_empty(), "{path}");
        assert_eq!(head.header("content-length"), Some(&*get.body.len().to_string()), "{path}");
    }
    let mut ops = Client::connect(broker.ops).await;
    for path in
        ["/", "/livez", "/readyz", "/pools", "/waiters", "/runs", "/runs/none", "/console.json", "/drain"]
    {
        let get = ask(&mut ops, &format!("GET {path}")).await;
        let head = ask(&mut ops, &format!("HEAD {path}")).await;
        assert_eq!(head_without_date(&get), head_without_date(&head), "{path}");
    }
    assert_eq!(ask(&mut ops, "HEAD /metrics").await.status, 200);
    let events = ask(&mut ops, "HEAD /events").await;
    assert_eq!((events.status, events.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(events.header("content-length"), None, "a stream has no length");
    assert_eq!(ask(&mut ops, "GET /livez").await.body, b"ok\n", "the connection stays open");
}

#[tokio::test]
async fn head_is_never_held_as_a_poll() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut client = broker.client().await;
    for target in ["/warm-start", &pool.path(), &format!("{}?timeout=1s", pool.path())] {
        let answer = ask(&mut client, &format!("HEAD {target}")).await;
        assert_eq!(answer.status, 200, "{target}");
        assert_eq!(
            answer.header("content-length"),
            None,
            "the length of a run that has not arrived is unknown"
        );
    }
    client.send(pool.poll("one").replacen("GET", "HEAD", 1)).await;
    assert_eq!(client.bare_answer().await.status, 200);
    assert_eq!(broker.waiters("").await, 0);
    for end in ["refused", "client_gone", "matched"] {
        assert_eq!(broker.metric(&format!("pilotlight_polls_total{{end=\"{end}\"}}")).await, 0, "{end}");
    }
    client.send(pool.poll("one")).await;
    broker.wait_for_waiters(1).await;
    assert_eq!(broker.post(&pool.body("r")).await.1["didWarmStart"], true);
    assert_eq!(client.answer().await.status, 200, "the same connection waits like any other");
}

#[tokio::test]
async fn a_health_check_needs_the_right_to_connect_but_not_to_poll() {
    let broker =
        Broker::start(&["--allow-poll", "10.0.0.0/8", "--allow-dispatch", "127.0.0.1", "--public-livez"]);
    for line in ["HEAD /warm-start", "HEAD /connect", "OPTIONS /", "GET /livez"] {
        assert_eq!(ask(&mut broker.client().await, line).await.status, 200, "{line}");
    }
    let mut poll = broker.client().await;
    poll.send("GET /connect HTTP/1.1\r\nhost: b\r\n\r\n").await;
    assert!(poll.is_closed_silently().await, "it may not poll");
    let strange =
        Broker::start(&["--allow-poll", "10.0.0.0/8", "--allow-dispatch", "10.0.0.0/8", "--public-livez"]);
    let mut stranger = strange.client().await;
    assert!(stranger.is_closed_silently().await, "a client without any right gets no response");
}

#[tokio::test]
async fn options_of_the_root_lists_the_methods_of_the_listener() {
    let listen = ["--listen", "127.0.0.1:0", "--dispatch-listen", "127.0.0.1:0"];
    let broker = Broker::listening(&listen, "written", &[]);
    let polls = ask(&mut broker.client().await, "OPTIONS /").await;
    assert_eq!((polls.status, polls.header("allow"), polls.body.len()), (200, Some("GET, HEAD"), 0));
    let dispatch = ask(&mut Client::connect(broker.dispatch).await, "OPTIONS /").await;
    assert_eq!((dispatch.status, dispatch.header("allow")), (200, Some("POST")));
    let both = ask(&mut Broker::start(&[]).client().await, "OPTIONS /").await;
    assert_eq!(both.header("allow"), Some("GET, HEAD, POST"));
    let mut old = broker.client().await;
    let answer = old.ask("OPTIONS / HTTP/1.0\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "as haproxy asks");
}

#[tokio::test]
async fn livez_is_public_only_if_a_setting_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pilotlight.toml");
    std::fs::write(&file, "").unwrap();
    let listen = ["--listen", "127.0.0.1:0", "--dispatch-listen", "127.0.0.1:0"];
    let broker = Broker::listening(&listen, "written", &["--config", file.to_str().unwrap()]);
    let [mut public, mut dispatch] = [broker.client().await, Client::connect(broker.dispatch).await];
    assert_eq!(ask(&mut public, "GET /livez").await.status, 404);
    std::fs::write(&file, "public-livez = true\n").unwrap();
    broker.signal(Signal::HUP);
    broker.wait_for_metric("pilotlight_config_reloads_total{result=\"done\"}", 1).await;
    for client in [&mut public, &mut dispatch] {
        assert_eq!(ask(client, "GET /livez").await.body, b"ok\n");
        assert_eq!(ask(client, "HEAD /livez").await.status, 200);
        let wrong = ask(client, "DELETE /livez").await;
        assert_eq!((wrong.status, wrong.header("allow")), (405, Some("GET, HEAD")));
    }
    assert_eq!(broker.operate("POST", "/drain").await.0, 200);
    assert_eq!(ask(&mut public, "GET /livez").await.status, 200, "a draining broker is alive");
}

#[tokio::test]
async fn haproxys_health_checks_succeed() {
    for check in [
        "option httpchk",
        "option httpchk HEAD /warm-start",
        "option httpchk HEAD /connect\n  http-check send ver HTTP/1.1 hdr Host broker",
        "option httpchk HEAD /v1/pools/a/b/1/1",
        "option httpchk GET /livez",
    ] {
        let broker = Broker::start(&["--public-livez"]);
        let configuration = HAPROXY
            .replace("\nbackend out", &format!("\nbackend out\n  timeout check 5s\n  {check}"))
            .replace("{broker}\n", "{broker} check inter 100ms fall 1 rise 1000\n");
        let Some(proxy) = start(&broker, &configuration, "haproxy -db -f {folder}/configuration") else {
            return;
        };
        // After one failed check, haproxy would send nothing more (`rise 1000`).
        let checks = async || {
            let routes = ["other", "connect"].map(|route| format!("code_class=\"2xx\",route=\"{route}\""));
            let [other, connect] = routes.map(|labels| format!("pilotlight_http_requests_total{{{labels}}}"));
            broker.metric(&other).await + broker.metric(&connect).await
        };
        broker.wait_until(&format!("checks by {check}"), async || checks().await >= 5).await;
        let pool = Pool::small("d1");
        let mut controller = Client::connect(proxy.address).await;
        controller.send(pool.poll("behind")).await;
        broker.wait_for_waiters(1).await;
        let body = pool.body("r");
        let (posted, answer) = tokio::join!(broker.post(&body), controller.answer());
        assert_eq!((posted.1["didWarmStart"].as_bool(), answer.status), (Some(true), 200), "{check}");
    }
}

#[tokio::test]
async fn a_browser_on_the_public_port_gets_a_page_that_says_where_the_console_is() {
    let broker = Broker::start(&[]);
    let accept = "accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8";
    for (target, fields, status) in [
        ("/", accept.to_owned(), 404),
        ("/favicon.ico/else", accept.to_owned(), 404),
        ("/", format!("{accept}\r\nsec-fetch-site: none\r\nsec-fetch-mode: navigate"), 403),
        ("/warm-start", format!("{accept}\r\nsec-fetch-site: cross-site\r\nsec-fetch-mode: navigate"), 403),
    ] {
        let mut client = broker.client().await;
        let answer = client.ask(format!("GET {target} HTTP/1.1\r\nhost: b\r\n{fields}\r\n\r\n")).await;
        let page = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (status, Some("text/html; charset=utf-8"))
        );
        assert!(page.contains("--ops-listen") && page.contains("http://127.0.0.1:7071/"), "{page}");
        assert!(
            !page.contains(&broker.ops.port().to_string()),
            "the page reveals no address of the broker: {page}"
        );
    }
    for fields in ["accept: */*", "sec-fetch-site: cross-site\r\nsec-fetch-mode: cors\r\naccept: text/html"] {
        let mut client = broker.client().await;
        let answer = client.ask(format!("GET / HTTP/1.1\r\nhost: b\r\n{fields}\r\n\r\n")).await;
        assert!(["no-such-route", "foreign-page"].contains(&&*answer.problem()));
        assert!(answer.json()["detail"].as_str().unwrap().contains("console"), "{answer:?}");
    }
}

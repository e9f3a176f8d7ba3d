//! Owns the tests of access: tokens of controllers, bearer tokens, addresses, the ops listener, and reloaded settings.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::process::Signal;
use serde_json::{Value, json};
use support::client::{Answer, Client};
use support::{Broker, Pool, post};
use tempfile::TempDir;

const SECRET: &str = "a secret of the platform";

fn token(deployment: &str, version: &str, secret: &str) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "ver": 1, "deployment": deployment, "deployment_version": version, "exp": 4_000_000_000_u64,
        "iss": "https://id.trigger.dev", "aud": "https://api.trigger.dev",
    });
    let text = format!("{}.{}", part(json!({"alg": "HS256", "typ": "JWT"})), part(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, text.as_bytes())))
}

/// Files that a broker reads.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn ask(broker: &Broker, request: &str) -> Answer {
    Client::connect(broker.public).await.ask(request).await
}

/// A run posted with this field in its head.
async fn post_with(broker: &Broker, pool: &Pool, field: &str) -> Answer {
    let request =
        post("/warm-start", &pool.body("r")).replace("host: broker", &format!("host: broker{field}"));
    Client::connect(broker.dispatch).await.ask(request).await
}

#[tokio::test]
async fn polls_need_a_valid_token_where_tokens_are_required() {
    let files = Files::new();
    let secret = files.write("secret", &format!("{SECRET}\n"));
    let broker = Broker::start(&["--token-secret-file", shown(&secret), "--require-token"]);
    let good = token("d1", "20260821.3", SECRET);
    let _standing = broker.held_poll(&Pool { deployment: good.clone(), ..Pool::small("") }, "one").await;
    assert_eq!(broker.pools("deployment=d1").await["waiters"], 1);
    for (deployment, reason) in [
        ("d1".to_owned(), "no_token"),
        (token("d1", "20260821.3", "a secret of somebody else"), "bad_token"),
        (token("d1", "20260821.4", SECRET), "other_deployment"),
    ] {
        let answer = ask(&broker, &Pool { deployment, ..Pool::small("") }.poll("two")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (401, reason), "{answer:?}");
        assert!(answer.header("www-authenticate").is_some_and(|asked| asked.starts_with("Bearer")));
        broker.wait_for_metric(&format!("pilotlight_auth_failures_total{{reason=\"{reason}\"}}"), 1).await;
    }
    let native = |path: &str, field: &str| format!("GET {path} HTTP/1.1\r\nhost: b\r\n{field}\r\n");
    let path = Pool::small("d1").path();
    assert_eq!(ask(&broker, &native(&path, "")).await.status, 401);
    let bearer = format!("authorization: Bearer {good}\r\n");
    assert_eq!(ask(&broker, &native(&Pool::small("d2").path(), &bearer)).await.problem(), "other_deployment");
    let mut waiting = broker.client().await;
    waiting.send(native(&path, &bearer)).await;
    broker.wait_for_waiters(2).await;
    assert_eq!(broker.metric("pilotlight_polls_total{end=\"refused\"}").await, 5);
}

#[tokio::test]
async fn a_bearer_token_may_dispatch_and_a_controllers_token_may_not() {
    let files = Files::new();
    let bearers = files.write("bearers", "an older bearer of ours\na newer bearer of ours\n");
    let broker = Broker::start(&["--dispatch-token-file", shown(&bearers)]);
    let pool = Pool::small("d1");
    let _standing = broker.held_poll(&pool, "one").await;
    for (field, status, kind) in [
        (String::new(), 401, "no_bearer"),
        ("\r\nauthorization: Bearer a bearer of nobody".to_owned(), 401, "bad_bearer"),
        (format!("\r\nauthorization: Bearer {}", token("d1", "20260821.3", SECRET)), 403, "wrong_role"),
    ] {
        let answer = post_with(&broker, &pool, &field).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, kind), "{field}");
    }
    assert_eq!(broker.waiters("").await, 1, "a refused dispatch claims no waiter");
    // A poll with the supervisor's bearer token is refused, too.
    let poll = pool
        .poll("two")
        .replace("\r\naccept:", "\r\nauthorization: Bearer a newer bearer of ours\r\naccept:");
    assert_eq!(ask(&broker, &poll).await.status, 403);
    for bearer in ["an older bearer of ours", "a newer bearer of ours"] {
        let answer = post_with(&broker, &pool, &format!("\r\nauthorization: Bearer {bearer}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let refused = broker.metric("pilotlight_dispatches_total{outcome=\"refused\",reason=\"none\"}").await;
    assert_eq!(refused, 3);
}

#[tokio::test]
async fn a_large_post_without_a_bearer_is_refused_before_its_body() {
    let files = Files::new();
    let bearers = files.write("bearers", "an only bearer of ours\n");
    let broker = Broker::start(&["--dispatch-token-file", shown(&bearers)]);
    let mut client = broker.client().await;
    let head =
        "POST /warm-start HTTP/1.1\r\nhost: b\r\nexpect: 100-continue\r\ncontent-length: 3000000\r\n\r\n";
    let answer = client.ask(head).await;
    assert_eq!((answer.status, answer.problem().as_str()), (401, "no_bearer"));
}

#[tokio::test]
async fn an_unlisted_address_is_refused() {
    let polls = Broker::start(&["--allow-poll", "127.0.0.1", "--allow-dispatch", "10.0.0.0/8,192.0.2.7"]);
    let pool = Pool::small("d1");
    let _standing = polls.held_poll(&pool, "one").await;
    let answer = post_with(&polls, &pool, "").await;
    assert_eq!((answer.status, answer.problem().as_str()), (403, "address"));
    assert_eq!(polls.waiters("").await, 1);

    // A status would end all controllers because of a wrong setting; after a closed connection they reconnect.
    let dispatches = Broker::start(&["--allow-poll", "10.0.0.0/8", "--allow-dispatch", "127.0.0.0/8"]);
    let mut controller = dispatches.client().await;
    controller.send(pool.poll("one")).await;
    assert!(controller.is_closed_silently().await);
    assert_eq!(dispatches.post(&pool.body("r")).await.0, 200);
    assert_eq!(dispatches.metric("pilotlight_auth_failures_total{reason=\"address\"}").await, 1);

    let nobody = Broker::start(&["--allow-poll", "10.0.0.0/8", "--allow-dispatch", "10.0.0.0/8"]);
    let mut stranger = nobody.client().await;
    assert!(stranger.is_closed_silently().await);
    assert_eq!(nobody.metric("pilotlight_connections_rejected_total{reason=\"address\"}").await, 1);

    // Behind a known proxy, the client's own address counts.
    let behind = Broker::start(&[
        "--allow-poll",
        "192.0.2.0/24",
        "--allow-dispatch",
        "::1",
        "--behind-proxy",
        "127.0.0.1",
    ]);
    let from = |address: &str| {
        pool.poll("one").replace("\r\naccept:", &format!("\r\nx-forwarded-for: {address}\r\naccept:"))
    };
    let mut controller = behind.client().await;
    controller.send(from("192.0.2.9")).await;
    behind.wait_for_waiters(1).await;
    let mut stranger = behind.client().await;
    stranger.send(from("198.51.100.9")).await;
    assert!(stranger.is_closed_silently().await);
}

/// An unreadable address never counts as the proxy's own, which may be listed.
#[tokio::test]
async fn a_client_whose_forwarded_address_is_unreadable_is_refused() {
    let listed = "192.0.2.0/24,127.0.0.1,2001:db8::/32";
    let arguments =
        ["--allow-poll", listed, "--allow-dispatch", listed, "--behind-proxy", "::ffff:127.0.0.0/104"];
    let broker = Broker::start(&arguments);
    let pool = Pool::small("d1");
    let refused = async |reason: &str| {
        broker.metric(&format!("pilotlight_auth_failures_total{{reason=\"{reason}\"}}")).await
    };
    for (fields, reason) in [
        ("x-forwarded-for: 203.0.113.9:51008", "address"),
        ("x-forwarded-for: 192.0.2.9, [2001:db9::1]:443", "address"),
        ("forwarded: for=192.0.2.9, for=\"203.0.113.9:80\"", "address"),
        ("x-forwarded-for: unknown", "no_address"),
        ("x-forwarded-for: ", "no_address"),
        ("x-forwarded-for: 192.0.2.9,", "no_address"),
        ("x-forwarded-for: 192.0.2.9\r\nx-forwarded-for: -", "no_address"),
        ("x-forwarded-for: 192.0.2.9:443:443", "no_address"),
        ("forwarded: for=_hidden", "no_address"),
        ("forwarded: proto=https", "no_address"),
        ("forwarded: for=\"192.0.2.9", "no_address"),
        ("forwarded: for=192.0.2.9\r\nx-forwarded-for: 203.0.113.9", "no_address"),
        ("x-real-ip: 192.0.2.9", "no_address"),
        ("x-forwarded-proto: https", "no_address"),
    ] {
        let before = refused(reason).await;
        let mut stranger = broker.client().await;
        stranger.send(pool.poll("one").replace("accept:", &format!("{fields}\r\naccept:"))).await;
        assert!(stranger.is_closed_silently().await, "{fields}");
        let answer = post_with(&broker, &pool, &format!("\r\n{fields}")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (403, reason), "{fields}");
        assert_eq!(refused(reason).await, before + 2, "{fields}");
    }
    for (fields, origin) in [
        ("x-forwarded-for: 203.0.113.9, 192.0.2.9:51008", "192.0.2.9"),
        ("x-forwarded-for: \"[::ffff:c000:209]:443\"", "192.0.2.9"),
        ("forwarded: for=203.0.113.9, for=\"[2001:db8::1%eth0]:443\";proto=https", "2001:db8::1"),
        ("forwarded: for=192.0.2.9\r\nx-forwarded-for: 192.0.2.9:80", "192.0.2.9"),
        // A health check of the proxy itself.
        ("x-amzn-trace-id: Root=1-67891233-abc", "127.0.0.1"),
    ] {
        let mut client = broker.client().await;
        client.send(pool.poll("one").replace("accept:", &format!("{fields}\r\naccept:"))).await;
        broker.wait_for_waiters(1).await;
        let (_, body) = broker.operate("GET", "/waiters").await;
        let waiters: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(waiters["waiters"][0]["origin"], origin, "{fields}");
        assert_eq!(post_with(&broker, &pool, &format!("\r\n{fields}")).await.json()["didWarmStart"], true);
    }
    // Without lists, no request is refused for its address.
    let open = Broker::start(&["--behind-proxy", "127.0.0.1"]);
    let mut client = open.client().await;
    client.send(pool.poll("one").replace("accept:", "x-forwarded-for: unknown\r\naccept:")).await;
    open.wait_for_waiters(1).await;
    assert_eq!(post_with(&open, &pool, "\r\nforwarded: for=_hidden").await.json()["didWarmStart"], true);
}

#[tokio::test]
async fn ops_routes_except_health_need_a_bearer_token() {
    let files = Files::new();
    let bearers = files.write("ops", "the bearer of operators\n");
    let broker = Broker::start(&["--ops-token-file", shown(&bearers)]);
    let operate = async |method: &str, target: &str, field: &str| {
        let request =
            format!("{method} {target} HTTP/1.1\r\nhost: any.example\r\n{field}content-length: 0\r\n\r\n");
        Client::connect(broker.ops).await.ask(request).await
    };
    for target in ["/livez", "/readyz"] {
        assert_eq!(operate("GET", target, "").await.status, 200);
    }
    for (method, target) in
        [("GET", "/"), ("GET", "/metrics"), ("GET", "/pools"), ("GET", "/events"), ("POST", "/drain")]
    {
        let refused = operate(method, target, "").await;
        assert_eq!(refused.status, 401, "{target}");
        assert!(refused.header("www-authenticate").unwrap().contains("Basic"), "a browser asks for it");
        assert_eq!(
            operate(method, target, "authorization: Bearer another one\r\n").await.status,
            401,
            "{target}"
        );
    }
    let bearer = "authorization: Bearer the bearer of operators\r\n";
    let password = base64::engine::general_purpose::STANDARD.encode("me:the bearer of operators");
    for field in [bearer.to_owned(), format!("authorization: Basic {password}\r\n")] {
        assert_eq!(operate("GET", "/pools", &field).await.status, 200);
    }
}

#[tokio::test]
async fn ops_requests_for_a_foreign_host_name_are_refused() {
    let broker = Broker::start(&[]);
    for (host, status) in [
        ("localhost", 200),
        ("LOCALHOST:7071", 200),
        ("127.0.0.1:7071", 200),
        ("[::1]:7071", 200),
        ("rebound.example:7071", 403),
        ("localhost.example", 403),
        ("127.0.0.1.example", 403),
        ("", 403),
    ] {
        let request = format!("GET /pools HTTP/1.1\r\nhost: {host}\r\n\r\n");
        assert_eq!(Client::connect(broker.ops).await.ask(request).await.status, status, "{host}");
    }
}

#[tokio::test]
async fn a_reload_changes_settings_without_ending_held_polls() {
    let files = Files::new();
    let bearers = files.write("bearers", "the first bearer of ours\n");
    let config = files.write("pilotlight.toml", "keepalive = \"300s\"\nmax-pools = 100\n");
    let broker = Broker::start(&["--config", shown(&config), "--dispatch-token-file", shown(&bearers)]);
    let pool = Pool::small("d1");
    let mut standing = broker.held_poll(&pool, "one").await;
    let reload = async |result: &str, count: u64| {
        broker.signal(Signal::HUP);
        broker
            .wait_for_metric(&format!("pilotlight_config_reloads_total{{result=\"{result}\"}}"), count)
            .await;
    };

    files.write("bearers", "the second bearer of ours\n");
    files.write("pilotlight.toml", "keepalive = \"0s\"\nmax-pools = 7\n");
    reload("done", 1).await;
    let connect = "GET /connect HTTP/1.1\r\nhost: b\r\n\r\n";
    assert_eq!(ask(&broker, connect).await.json()["keepaliveMs"], 0);
    assert_eq!(
        post_with(&broker, &pool, "\r\nauthorization: Bearer the first bearer of ours").await.status,
        401
    );

    let wrong =
        ["keepalive = \"forever\"\n", "keep-alive = \"1s\"\n", "connection-timeout = \"1h\"\n", "no TOML"];
    for (number, wrong) in (1..).zip(wrong) {
        files.write("pilotlight.toml", wrong);
        reload("failed", number).await;
    }
    files.write("pilotlight.toml", "keepalive = \"0s\"\n");
    files.write("bearers", "short\n");
    reload("failed", 5).await;

    assert_eq!(ask(&broker, connect).await.json()["keepaliveMs"], 0);
    assert!(standing.is_held().await, "held polls stay held");
    let answer = post_with(&broker, &pool, "\r\nauthorization: Bearer the second bearer of ours").await;
    assert_eq!(answer.json()["didWarmStart"], true);
    assert_eq!(standing.answer().await.status, 200);
}

#[test]
fn listeners_that_strangers_reach_need_access_rules() {
    let files = Files::new();
    let bearers = files.write("bearers", "an only bearer of ours\n");
    let bearers = shown(&bearers);
    let ops = ["--ops-listen", "127.0.0.1:0"];
    let open = ["--listen", "0.0.0.0:0"];
    let check = |arguments: &[&[&str]], refused_for: Option<&str>| {
        let arguments = arguments.concat();
        let checked = Command::new(env!("CARGO_BIN_EXE_pilotlight"))
            .arg("check")
            .args(&arguments)
            .stdout(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(checked.stderr).unwrap();
        match refused_for {
            Some(reason) => {
                assert_eq!(checked.status.code(), Some(2), "{arguments:?}");
                assert!(said.contains(reason), "{arguments:?}: {said}");
            }
            None => assert!(checked.status.success(), "{arguments:?}: {said}"),
        }
    };
    check(&[&ops, &open], Some("could take runs"));
    check(&[&ops, &open, &["--allow-poll", "10.0.0.0/8"]], Some("could run code in warm controllers"));
    check(&[&ops, &open, &["--dispatch-token-file", bearers]], Some("could take runs"));
    check(&[&ops, &open, &["--allow-poll", "10.0.0.0/8", "--dispatch-token-file", bearers]], None);
    check(&[&ops, &open, &["--allow-poll", "10.0.0.0/8", "--dispatch-listen", "127.0.0.1:0"]], None);
    check(&[&ops, &["--listen", "127.0.0.1:0", "--dispatch-listen", "0.0.0.0:0"]], Some("--dispatch-listen"));
    check(&[&["--listen", "127.0.0.1:0", "--ops-listen", "0.0.0.0:0"]], Some("--ops-token-file"));
    check(&[&["--listen", "127.0.0.1:0", "--ops-listen", "0.0.0.0:0", "--ops-token-file", bearers]], None);
    check(&[&ops, &open, &["--insecure-no-auth"]], None);
    check(&[&ops, &["--listen", "127.0.0.1:0", "--require-token"]], Some("--token-secret-file"));
    check(&[&ops, &["--listen", "127.0.0.1:0", "--allow-poll", "10.0.0.0/33"]], Some("must be a network"));
}

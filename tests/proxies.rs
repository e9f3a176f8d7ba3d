//! Owns the tests of the proof behind proxies: real nginx, haproxy and socat between the controller and the broker.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use support::client::Client;
use support::proxy::{HAPROXY, NGINX, Proxy, start};
use support::{Broker, Pool, post};

async fn poll_through(proxy: &Proxy, broker: &Broker, pool: &Pool) -> Client {
    poll_through_as(proxy, broker, pool, "behind").await
}

async fn poll_through_as(proxy: &Proxy, broker: &Broker, pool: &Pool, controller: &str) -> Client {
    let before = broker.waiters("").await;
    let mut client = Client::connect(proxy.address).await;
    client.send(pool.poll(controller)).await;
    broker.wait_for_waiters(before + 1).await;
    client
}

/// The proof, or the reason of the miss, of two runs through the proxy: to a controller that reads, and to one that does not.
async fn proofs(broker: &Broker, proxy: &Proxy) -> [String; 2] {
    let pool = Pool::small("d1");
    let word = |answer: &serde_json::Value| {
        answer["proof"].as_str().or(answer["reason"].as_str()).unwrap().to_owned()
    };
    let mut alive = poll_through(proxy, broker, &pool).await;
    let body = pool.body("run_1");
    let (answer, receipt) = tokio::join!(broker.post(&body), alive.answer());
    assert_eq!(receipt.json()["run"]["friendlyId"], "run_1");
    let _stalled = poll_through(proxy, broker, &pool).await;
    let stalled = broker.post(&pool.body("run_2")).await.1;
    [word(&answer.1), word(&stalled)]
}

#[tokio::test]
async fn behind_nginx_that_announces_itself_a_receipt_is_the_proxys() {
    let broker = Broker::proving("received", &[]);
    let configuration = NGINX.replace("{headers}", "proxy_set_header X-Forwarded-For $remote_addr;");
    let Some(proxy) = start(&broker, &configuration, "nginx -c {folder}/configuration -p {folder}") else {
        return;
    };
    assert_eq!(
        proofs(&broker, &proxy).await,
        ["hop", "hop"],
        "nginx reads the run even if the controller does not"
    );
}

#[tokio::test]
async fn behind_nginx_without_headers_the_broker_must_be_configured() {
    let configuration = NGINX.replace("{headers}", "");
    let broker = Broker::proving("received", &["--behind-proxy", "127.0.0.0/8"]);
    let Some(proxy) = start(&broker, &configuration, "nginx -c {folder}/configuration -p {folder}") else {
        return;
    };
    assert_eq!(proofs(&broker, &proxy).await, ["hop", "hop"]);
}

/// Some proxies add the port to the client's address by default, in either header.
#[tokio::test]
async fn a_clients_address_is_read_with_the_port_that_a_proxy_adds() {
    for header in [
        "proxy_set_header X-Forwarded-For $remote_addr:$remote_port;",
        "proxy_set_header X-Forwarded-For '10.0.0.9, [::ffff:$remote_addr]:$remote_port';",
        "proxy_set_header Forwarded 'for=10.0.0.9, for=\"$remote_addr:$remote_port\";proto=http';",
    ] {
        let listed = "127.0.0.77,10.0.0.0/8";
        let broker = Broker::proving("received", &["--behind-proxy", "127.0.0.1", "--allow-poll", listed]);
        let configuration = NGINX.replace("{headers}", header);
        let Some(proxy) = start(&broker, &configuration, "nginx -c {folder}/configuration -p {folder}")
        else {
            return;
        };
        let poll_from = async |last: u8| {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 0, last], 0).into()).unwrap();
            let mut client = Client::over(socket.connect(proxy.address).await.unwrap());
            client.send(Pool::small("d1").poll("behind")).await;
            client
        };
        let _known = poll_from(77).await;
        broker.wait_for_waiters(1).await;
        let (_, waiters) = broker.operate("GET", "/waiters").await;
        assert!(waiters.contains("\"origin\":\"127.0.0.77\""), "{header}: {waiters}");
        let _stranger = poll_from(78).await;
        broker.wait_for_metric("pilotlight_auth_failures_total{reason=\"address\"}", 1).await;
        assert_eq!(broker.waiters("").await, 1, "{header}");
    }
}

#[tokio::test]
async fn behind_haproxy_a_receipt_is_the_proxys() {
    let broker = Broker::proving("received", &[]);
    let Some(proxy) = start(&broker, HAPROXY, "haproxy -db -f {folder}/configuration") else { return };
    assert_eq!(proofs(&broker, &proxy).await, ["hop", "hop"]);
}

/// haproxy without headers closes with a reset, like a controller that is killed with the run unread.
#[tokio::test]
async fn behind_haproxy_without_headers_a_run_goes_to_one_controller_and_is_unknown() {
    let broker = Broker::proving("received", &[]);
    let silent = HAPROXY.replace("  option forwardfor\n", "");
    let Some(proxy) = start(&broker, &silent, "haproxy -db -f {folder}/configuration") else { return };
    let pool = Pool::small("d1");
    let mut waiting = Vec::new();
    for name in ["one", "two", "three", "four", "five"] {
        waiting.push(poll_through_as(&proxy, &broker, &pool, name).await);
    }
    for round in 1..=3_usize {
        let answer = broker.post(&pool.body(&format!("run_{round}"))).await.1;
        assert_eq!((&answer["reason"], &answer["offers"]), (&"unknown".into(), &1.into()), "{answer}");
        let receipt = waiting.pop().unwrap().answer().await.json();
        assert_eq!(receipt["run"]["friendlyId"], format!("run_{round}"));
        for client in &mut waiting {
            assert!(client.is_held().await, "no other controller gets a byte");
        }
        assert_eq!(broker.metric("pilotlight_redeliveries_total").await, 0);
    }
    // The native dialect allows a second offer with `redeliver=true`, but not after this outcome.
    let run = post(&format!("{}?redeliver=true", pool.path()), &pool.message("run_4").to_string());
    let answer = broker.client().await.ask(run).await.json();
    assert_eq!((&answer["reason"], &answer["offers"]), (&"unknown".into(), &1.into()), "{answer}");
    assert!(waiting[0].is_held().await);
    drop(waiting);
    // With --behind-proxy the proof is `hop` again.
    let configured = Broker::proving("received", &["--behind-proxy", "127.0.0.1"]);
    let Some(proxy) = start(&configured, &silent, "haproxy -db -f {folder}/configuration") else { return };
    assert_eq!(proofs(&configured, &proxy).await, ["hop", "hop"]);
}

/// With `option abortonclose`, haproxy closes its connection to the broker when the controller dies.
#[tokio::test]
async fn a_controller_that_dies_behind_haproxy_with_abortonclose_leaves_its_pool() {
    let broker = Broker::proving("received", &[]);
    let passing = HAPROXY.replace("  option forwardfor\n", "  option forwardfor\n  option abortonclose\n");
    let Some(proxy) = start(&broker, &passing, "haproxy -db -f {folder}/configuration") else { return };
    let pool = Pool::small("d1");
    for _ in 0..3 {
        drop(poll_through(&proxy, &broker, &pool).await);
        broker.wait_for_waiters(0).await;
    }
    assert_eq!(broker.post(&pool.body("run_1")).await.1["offers"], 0, "the pool is empty");
}

#[tokio::test]
async fn a_layer_4_relay_passes_the_fin_on() {
    let broker = Broker::proving("received", &[]);
    let relay = "socat TCP-LISTEN:{port},bind={ip},reuseaddr,fork TCP:{broker}";
    let Some(proxy) = start(&broker, "", relay) else { return };
    assert_eq!(
        proofs(&broker, &proxy).await,
        ["received", "undelivered"],
        "without a header; only the acknowledgement is the relay's"
    );
}

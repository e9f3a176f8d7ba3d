//! Owns the tests of a controller name shared by several workers: it is reported; a controller that polls again is not.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::process::Command;

use serde_json::Value;
use support::client::Client;
use support::{Broker, Pool};
use tempfile::NamedTempFile;

const SHARED: &str = "pilotlight_connections_rejected_total{reason=\"shared_name\"}";
const REPLACED: &str = "pilotlight_polls_total{end=\"replaced\"}";

/// A broker that logs to a file.
fn logging() -> (Broker, NamedTempFile) {
    Broker::logging(Command::new(env!("CARGO_BIN_EXE_pilotlight")).env("RUST_LOG", "warn"))
}

fn lines(log: &NamedTempFile) -> Vec<Value> {
    let text = fs::read_to_string(log.path()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("forged: {line:?}")))
        .collect()
}

/// Workers with the same name, each of which polls as soon as the poll before has been replaced.
async fn poll_with_one_name(broker: &Broker, request: &str, polls: u64) -> Vec<Client> {
    let before = broker.metric(REPLACED).await;
    let mut clients = Vec::new();
    for number in 0..polls {
        let mut client = broker.client().await;
        client.send(request).await;
        clients.push(client);
        broker.wait_for_metric(REPLACED, before + number).await;
        broker.wait_for_waiters(1).await;
    }
    clients
}

#[tokio::test]
async fn workers_that_share_a_name_are_logged_once_and_counted() {
    let name = format!("\"}}{}", "w".repeat(250));
    let pool = Pool::small("d1");
    let native = format!("GET {} HTTP/1.1\r\nhost: b\r\npilotlight-controller: {name}\r\n\r\n", pool.path());
    for request in [pool.poll(&name), native] {
        let (broker, log) = logging();
        let mut clients = poll_with_one_name(&broker, &request, 31).await;
        // The first four may come from one controller that polls again before its connection's end is seen.
        assert_eq!(broker.metric(SHARED).await, 26);
        broker.wait_until("a line", async || !lines(&log).is_empty()).await;
        let logged = lines(&log);
        assert_eq!(logged.len(), 1, "{logged:?}");
        let shown = logged[0]["fields"]["controller"].as_str().unwrap();
        assert!(shown.starts_with("\\\"}www") && shown.len() <= 256, "{shown}");
        assert!(logged[0]["fields"]["message"].as_str().unwrap().contains("a name of its own"), "{logged:?}");
        assert!(clients.last_mut().unwrap().is_held().await, "the newest poll waits");
    }
}

#[tokio::test]
async fn a_controller_that_polls_again_a_few_times_is_not_logged() {
    let (broker, log) = logging();
    let _clients = poll_with_one_name(&broker, &Pool::small("d1").poll("one"), 5).await;
    assert_eq!(broker.metric(REPLACED).await, 4);
    assert_eq!(broker.metric(SHARED).await, 0);
    // Polls without a name replace no other poll.
    let mut nameless = Vec::new();
    for count in 1..=20 {
        let request = format!("GET {} HTTP/1.1\r\nhost: b\r\n\r\n", Pool::small("d2").path());
        let mut client = broker.client().await;
        client.send(request).await;
        broker.wait_for_waiters(1 + count).await;
        nameless.push(client);
    }
    assert_eq!(broker.metric(SHARED).await, 0);
    assert_eq!(lines(&log), Vec::<Value>::new());
}

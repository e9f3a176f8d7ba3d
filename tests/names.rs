//! Owns the promises about workers that share one controller's name: they are told of, and a controller that comes back is not.

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

/// A broker whose log is a file.
fn logging() -> (Broker, NamedTempFile) {
    Broker::logging(Command::new(env!("CARGO_BIN_EXE_pilotlight")).env("RUST_LOG", "warn"))
}

fn lines(log: &NamedTempFile) -> Vec<Value> {
    let text = fs::read_to_string(log.path()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("forged: {line:?}")))
        .collect()
}

/// So many workers of this name, each of which polls as soon as its poll was ended.
async fn share(broker: &Broker, request: &str, polls: u64) -> Vec<Client> {
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
async fn workers_that_share_a_name_are_told_of_once_and_counted() {
    let name = format!("\"}}{}", "w".repeat(250));
    let pool = Pool::small("d1");
    let native = format!("GET {} HTTP/1.1\r\nhost: b\r\npilotlight-controller: {name}\r\n\r\n", pool.path());
    for request in [pool.poll(&name), native] {
        let (broker, log) = logging();
        let mut clients = share(&broker, &request, 31).await;
        // The first four may be of one controller that polls again before its end is seen.
        assert_eq!(broker.metric(SHARED).await, 26);
        broker.wait_until("a line", async || !lines(&log).is_empty()).await;
        let told = lines(&log);
        assert_eq!(told.len(), 1, "{told:?}");
        let shown = told[0]["fields"]["controller"].as_str().unwrap();
        assert!(shown.starts_with("\\\"}www") && shown.len() <= 256, "{shown}");
        assert!(told[0]["fields"]["message"].as_str().unwrap().contains("a name of its own"), "{told:?}");
        assert!(clients.last_mut().unwrap().is_held().await, "the newest poll waits");
    }
}

#[tokio::test]
async fn a_controller_that_polls_again_a_few_times_is_not_told_of() {
    let (broker, log) = logging();
    let _clients = share(&broker, &Pool::small("d1").poll("one"), 5).await;
    assert_eq!(broker.metric(REPLACED).await, 4);
    assert_eq!(broker.metric(SHARED).await, 0);
    // Those without a name are no one's.
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

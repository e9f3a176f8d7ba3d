//! Owns the demo's controllers: each polls, receives a run, pauses in place of work, and polls again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};

use super::client::Client;
use super::ledger::Ledger;

/// The version, cpu and memory of the pools, as they are written in headers.
pub(super) const POOLS: [(&str, &str, &str); 4] = [
    ("20260821.3", "0.5", "0.5"),
    ("20260821.3", "1", "2"),
    ("20260821.4", "0.50", "0.50"),
    ("20260821.4", "1", "2.0"),
];
pub(super) const DEPLOYMENT: &str = "deployment_demo";

/// How long a run takes, and how long a controller waits after a failed poll.
const PAUSE: Duration = Duration::from_millis(50);

/// One controller, which polls until it is cancelled.
pub(super) async fn controller(broker: SocketAddr, number: usize, timeout: Duration, ledger: Arc<Ledger>) {
    let mut client = Client::new(broker);
    loop {
        // As in the stock client, a timer of the client's own ends an idle poll: it drops the connection and polls on a new one.
        match tokio::time::timeout(timeout, client.send(poll(broker, number))).await {
            Ok(Ok((StatusCode::OK, message))) => {
                if let Some(run) = run_of(&message) {
                    ledger.received(&run);
                }
                tokio::time::sleep(PAUSE).await;
            }
            Ok(_) => tokio::time::sleep(PAUSE).await,
            Err(_) => {}
        }
    }
}

fn poll(broker: SocketAddr, number: usize) -> Request<Full<Bytes>> {
    let (version, cpu, memory) = POOLS[number % POOLS.len()];
    let mut request = Request::new(Full::default());
    *request.uri_mut() = hyper::Uri::from_static("/warm-start");
    for (name, value) in [
        ("host", broker.to_string()),
        ("x-trigger-workload-controller-id", format!("controller_demo_{number}")),
        ("x-trigger-deployment-id", DEPLOYMENT.to_owned()),
        ("x-trigger-deployment-version", version.to_owned()),
        ("x-trigger-machine-cpu", cpu.to_owned()),
        ("x-trigger-machine-memory", memory.to_owned()),
        ("x-trigger-worker-instance-name", "demo".to_owned()),
    ] {
        if let Ok(value) = value.parse() {
            request.headers_mut().insert(name, value);
        }
    }
    request
}

fn run_of(message: &Bytes) -> Option<String> {
    let message: serde_json::Value = serde_json::from_slice(message).ok()?;
    message["run"]["friendlyId"].as_str().map(str::to_owned)
}

//! Owns the demo's supervisor: it posts runs at a steady rate and records the answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use hyper::header::CONTENT_TYPE;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::client;
use super::fleet::POOLS;
use super::ledger::Ledger;
use crate::commands::client::KeptConnection;

/// Posts to all brokers in turn.
pub(super) struct Supervisor {
    brokers: Arc<[SocketAddr]>,
    deployment: Arc<str>,
    ledger: Arc<Ledger>,
    /// For each broker the connections that no post uses.
    idle: Box<[Mutex<Vec<KeptConnection>>]>,
}

impl Supervisor {
    pub(super) fn new(brokers: Arc<[SocketAddr]>, deployment: Arc<str>, ledger: Arc<Ledger>) -> Arc<Self> {
        let idle = brokers.iter().map(|_| Mutex::default()).collect();
        Arc::new(Self { brokers, deployment, ledger, idle })
    }

    /// Posts at a fixed rate, even while earlier posts are unanswered; returns when all are answered.
    pub(super) async fn post_at_rate(self: Arc<Self>, rate: u32, duration: Duration) {
        let mut posts = JoinSet::new();
        let mut interval = tokio::time::interval(Duration::from_secs(1) / rate);
        interval.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let begun = Instant::now();
        for number in 0_usize.. {
            interval.tick().await;
            if begun.elapsed() >= duration {
                break;
            }
            while posts.try_join_next().is_some() {}
            posts.spawn(self.clone().post(number));
        }
        posts.join_all().await;
    }

    async fn post(self: Arc<Self>, number: usize) {
        // Each broker gets one run of each pool, and then it is the next one's turn.
        let place = number / POOLS.len() % self.brokers.len();
        let (broker, idle) = (self.brokers[place], &self.idle[place]);
        let run = format!("run_demo_{number}");
        let mut connection = idle.lock().pop().unwrap_or_else(|| client::connection(broker));
        let request = connection.client().request(Method::POST, "/warm-start");
        let message = message(&run, number, &self.deployment);
        let Ok(request) = request.header(CONTENT_TYPE, "application/json").body(message.into()) else {
            return;
        };
        let begun = Instant::now();
        let answer = connection.send(request).await;
        let hit = answer.as_ref().is_ok_and(|answer| did_warm_start(answer.body()));
        self.ledger.answered(&run, place, hit, begun.elapsed());
        if answer.is_ok() {
            idle.lock().push(connection);
        }
    }
}

fn did_warm_start(body: &Bytes) -> bool {
    serde_json::from_slice::<Value>(body).is_ok_and(|answer| answer["didWarmStart"] == true)
}

fn message(run: &str, number: usize, deployment: &str) -> Bytes {
    let mut message: Value = serde_json::from_str(include_str!("message.json")).unwrap_or_default();
    let (version, cpu, memory) = POOLS[number % POOLS.len()];
    let number_of = |text: &str| text.parse::<f64>().unwrap_or_default();
    message["deployment"]["friendlyId"] = deployment.into();
    message["backgroundWorker"]["version"] = version.into();
    message["run"]["friendlyId"] = run.into();
    message["run"]["machine"]["cpu"] = number_of(cpu).into();
    message["run"]["machine"]["memory"] = number_of(memory).into();
    json!({ "dequeuedMessage": message }).to_string().into()
}

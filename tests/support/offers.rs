//! Owns an offer to a controller that waits with an event stream, and the receipts for it.

use super::Broker;
use super::client::Answer;

/// A run whose name is not the same when it is percent-encoded, and its path.
pub const RUN: &str = "run 1/2";
pub const PATH: &str = "/v1/runs/run%201%2F2";

/// A run that a controller got as an event. Its stream is open until this is dropped.
pub struct Offered {
    pub ack: String,
    pub ready: String,
    pub token: String,
}

/// Lets a controller wait at this broker, and posts a run there.
pub async fn offered_at(broker: &Broker) -> Offered {
    let token = format!("{}{:016x}{:08x}{}", "aa".repeat(16), 1, 7, id_of(broker).await);
    Offered { ack: format!("{PATH}/ack?token={token}"), ready: format!("{PATH}/ready?token={token}"), token }
}

/// The broker's id in its cluster; empty if it is in none.
pub async fn id_of(broker: &Broker) -> String {
    let brokers: serde_json::Value =
        serde_json::from_str(&broker.operate("GET", "/brokers").await.1).unwrap();
    brokers["broker"]["id"].as_str().unwrap_or_default().to_owned()
}

/// A token that no broker has made.
pub fn forged() -> String {
    "0".repeat(56)
}

/// A POST without a body.
pub fn post(target: &str) -> String {
    post_with(target, "content-length: 0\r\n")
}

/// A POST with these fields, without what follows its head.
pub fn post_with(target: &str, fields: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nhost: b\r\n{fields}\r\n")
}

pub async fn ask(broker: &Broker, target: &str) -> Answer {
    broker.client().await.ask(post(target)).await
}

/// The status, and the problem if there is one.
pub fn outcome(answer: &Answer) -> (u16, String) {
    let problem = if answer.status == 204 { String::new() } else { answer.problem() };
    (answer.status, problem)
}

pub async fn outcome_at(broker: &Broker, target: &str) -> (u16, String) {
    outcome(&ask(broker, target).await)
}

/// An outcome as it is expected.
pub fn is(status: u16, problem: &str) -> (u16, String) {
    (status, problem.to_owned())
}

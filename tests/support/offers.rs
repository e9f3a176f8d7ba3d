//! Owns an offer to a controller that waits with an event stream, and what is answered to the receipts for it.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::client::{Answer, Client};
use super::event_stream::{EventStream, subscription};
use super::{Broker, Pool};

/// Time enough for all steps of a test before its run is acknowledged.
pub const PATIENT: [&str; 4] = ["--proof-timeout", "50s", "--dispatch-budget", "55s"];
/// A path of a run that nobody has.
pub const PATH: &str = "/v1/runs/another";

/// A run that a controller got as an event, and has not acknowledged.
pub struct Offered<S = TcpStream> {
    /// What the other two paths begin with. The run's name is not the same when it is percent-encoded.
    pub path: String,
    pub ack: String,
    pub ready: String,
    pub token: String,
    pub stream: EventStream<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Offered<S> {
    /// The next run of a stream.
    pub async fn next(mut stream: EventStream<S>) -> Self {
        let run = stream.run().await;
        let (path, token) = run.ack.split_once("/ack?token=").unwrap();
        let number = run.run.strip_prefix("run/").unwrap();
        assert_eq!(path, format!("/v1/runs/run%2F{number}"));
        assert_eq!(run.ready, format!("{path}/ready?token={token}"));
        Self { path: path.to_owned(), token: token.to_owned(), ack: run.ack, ready: run.ready, stream }
    }
}

/// Lets a controller wait at this broker, and posts a run there. Also returns the supervisor, who waits for the answer.
pub async fn offered_at(broker: &Broker) -> (Offered, Client) {
    offered_with(broker, "").await
}

/// The same with a controller whose request has these fields.
pub async fn offered_with(broker: &Broker, fields: &str) -> (Offered, Client) {
    let pool = Pool::small("d1");
    let before = broker.waiters("").await;
    let stream = EventStream::open(broker.client().await, &subscription(&pool, "", fields)).await.unwrap();
    broker.wait_for_waiters(before + 1).await;
    let mut supervisor = Client::connect(broker.dispatch).await;
    supervisor.send(run(&pool)).await;
    (Offered::next(stream).await, supervisor)
}

/// The POST of another run.
pub fn run(pool: &Pool) -> String {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let number = RUNS.fetch_add(1, Ordering::Relaxed);
    post_with(&pool.path(), &format!("pilotlight-run: run/{number}\r\ncontent-length: 0\r\n"))
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

//! Owns a run whose reply its caller awaits, and the worker that has it.

use std::net::SocketAddr;
use std::time::Duration;

use super::client::{Answer, Client};
use super::session_bytes::take_chunks;
use super::{Broker, PATIENCE, Pool};

/// A caller, and where the worker of its run replies.
pub struct HandedOver {
    pub caller: Caller,
    pub target: String,
}

/// A POST with `?reply=`.
pub struct Caller {
    pub client: Client,
}

/// How a caller's response has ended.
#[derive(Debug)]
pub struct Reply {
    pub head: Answer,
    pub body: Vec<u8>,
    /// Whether the body ended as it was framed.
    pub is_whole: bool,
}

impl Caller {
    /// Posts a run with this query and these fields.
    pub async fn post(address: SocketAddr, pool: &Pool, query: &str, fields: &str) -> Self {
        let mut client = Client::connect(address).await;
        client.send(dispatch(pool, query, fields)).await;
        Self { client }
    }

    /// The head of the response.
    pub async fn head(&mut self) -> Answer {
        tokio::time::timeout(PATIENCE, self.client.head()).await.expect("a head in time").expect("a head")
    }

    /// The response, until its body or the connection ends.
    pub async fn reply(&mut self) -> Reply {
        let head = self.head().await;
        self.rest_after(head).await
    }

    /// What follows a head, until the body or the connection ends.
    pub async fn rest_after(&mut self, head: Answer) -> Reply {
        tokio::time::timeout(PATIENCE, self.rest(head)).await.expect("a reply in time")
    }

    async fn rest(&mut self, head: Answer) -> Reply {
        let length = head.header("content-length").map(|length| length.parse::<usize>().unwrap());
        let is_chunked = head.header("transfer-encoding") == Some("chunked");
        let mut body = Vec::new();
        loop {
            let is_whole = match length {
                _ if is_chunked => take_chunks(&mut self.client.read, &mut body),
                Some(length) => {
                    let taken = self.client.read.len().min(length - body.len());
                    body.extend(self.client.read.drain(..taken));
                    body.len() == length
                }
                None => {
                    body.append(&mut self.client.read);
                    false
                }
            };
            if is_whole || !self.client.more().await {
                return Reply { head, body, is_whole };
            }
        }
    }
}

impl Reply {
    pub fn outcome(&self) -> (u16, &str, &str) {
        let outcome = self.head.header("pilotlight-outcome").unwrap_or_default();
        (self.head.status, outcome, std::str::from_utf8(&self.body).unwrap())
    }

    /// The problem document, and the outcome.
    pub fn problem(&self) -> (u16, String, String) {
        assert!(self.is_whole, "{self:?}");
        let answer = Answer { body: self.body.clone(), head: self.head.head.clone(), ..self.head };
        let outcome = self.head.header("pilotlight-outcome").unwrap_or_default().to_owned();
        (self.head.status, outcome, answer.problem())
    }
}

/// The request of a caller.
pub fn dispatch(pool: &Pool, query: &str, fields: &str) -> String {
    format!("POST {}{query} HTTP/1.1\r\nhost: b\r\n{fields}content-length: 3\r\n\r\nrun", pool.path())
}

/// Lets a worker wait, posts a run there, and lets the worker read it.
pub async fn handed_over(broker: &Broker) -> HandedOver {
    handed_over_with(broker, "?reply=30s", "").await
}

/// The same with a query and fields of the caller.
pub async fn handed_over_with(broker: &Broker, query: &str, fields: &str) -> HandedOver {
    let pool = Pool::small("d1");
    let mut worker = waiting(broker, &pool).await;
    let caller = Caller::post(broker.dispatch, &pool, query, fields).await;
    let target = target(&worker.answer().await);
    HandedOver { caller, target }
}

/// A worker that waits.
pub async fn waiting(broker: &Broker, pool: &Pool) -> Client {
    let before = broker.waiters("").await;
    let mut worker = broker.client().await;
    let path = pool.path();
    worker.send(format!("GET {path} HTTP/1.1\r\nhost: b\r\npilotlight-controller: w1\r\n\r\n")).await;
    broker.wait_for_waiters(before + 1).await;
    worker
}

/// Where the worker of this run replies.
pub fn target(run: &Answer) -> String {
    run.header("pilotlight-reply").unwrap_or_else(|| panic!("no reply is wanted: {run:?}")).to_owned()
}

/// The target for an error instead.
pub fn error_target(target: &str) -> String {
    target.replacen("/reply?", "/error?", 1)
}

/// Opens a chunked reply, of which no chunk is sent yet.
pub async fn open(address: SocketAddr, target: &str, fields: &str) -> Client {
    let mut worker = Client::connect(address).await;
    worker.send(opening(target, fields)).await;
    worker
}

/// The head of a chunked reply.
pub fn opening(target: &str, fields: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nhost: b\r\n{fields}transfer-encoding: chunked\r\n\r\n")
}

/// A chunk of a body.
pub fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

/// The end of a chunked body.
pub const END: &str = "0\r\n\r\n";

/// A reply with its whole body.
pub fn whole(target: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {target} HTTP/1.1\r\nhost: b\r\n{fields}content-length: {length}\r\n\r\n{body}")
}

/// Whether nothing is received for a while.
pub async fn is_silent(caller: &mut Caller) -> bool {
    tokio::time::timeout(Duration::from_millis(100), caller.client.more()).await.is_err()
}

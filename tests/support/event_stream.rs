//! Owns a controller that waits over an event stream, and acknowledges by POSTs of its own.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::client::{Answer, Client};
use super::session_bytes::{Event, take_chunks, take_event};
use super::websocket::named;
use super::{Broker, PATIENCE, Pool};

/// An event stream over a plain socket, or over any other byte stream.
pub struct EventStream<S = TcpStream> {
    pub client: Client<S>,
    contents: Vec<u8>,
    is_over: bool,
}

/// A run as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamedRun {
    pub run: String,
    pub offer: u64,
    pub content_type: String,
    pub payload: Vec<u8>,
    /// The targets of the POSTs that acknowledge it and that free its slot.
    pub ack: String,
    pub ready: String,
    pub is_base64: bool,
    /// The target of its reply, if one is awaited.
    pub reply: Option<String>,
}

/// The request for a stream, with this query and these fields besides the necessary one.
pub fn subscription(pool: &Pool, query: &str, fields: &str) -> String {
    let path = pool.path();
    format!("GET {path}{query} HTTP/1.1\r\nhost: broker\r\naccept: text/event-stream\r\n{fields}\r\n")
}

impl EventStream {
    pub async fn connect(address: SocketAddr, pool: &Pool, controller: &str, slots: u64) -> Self {
        let request = subscription(pool, &format!("?slots={slots}"), &named(controller));
        let opened = Self::open(Client::connect(address).await, &request).await;
        opened.unwrap_or_else(|refusal| panic!("refused: {refusal:?}"))
    }

    /// A controller with this many slots in their pool.
    pub async fn held(broker: &Broker, pool: &Pool, controller: &str, slots: u64) -> Self {
        let before = broker.waiters("").await;
        let stream = Self::connect(broker.public, pool, controller, slots).await;
        broker.wait_for_waiters(before + slots).await;
        stream
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> EventStream<S> {
    /// Asks for a stream; the error is the refusal, or none if the connection ended without an answer.
    pub async fn open(mut client: Client<S>, request: &str) -> Result<Self, Option<Answer>> {
        client.send(request).await;
        match client.opening().await {
            Some(answer) if answer.header("content-type") == Some("text/event-stream") => {
                assert_eq!(answer.status, 200, "{answer:?}");
                assert_eq!(answer.header("transfer-encoding"), Some("chunked"), "{answer:?}");
                Ok(Self { client, contents: Vec::new(), is_over: false })
            }
            refusal => Err(refusal),
        }
    }

    /// The next event, or none if the stream ends, properly or not. It can be given up without a loss.
    pub async fn event(&mut self) -> Option<Event> {
        loop {
            self.is_over |= take_chunks(&mut self.client.read, &mut self.contents);
            if let Some(event) = take_event(&mut self.contents) {
                return Some(event);
            }
            if self.is_over || !self.client.more().await {
                return None;
            }
        }
    }

    /// The next event of a kind; comments and advice about reconnecting are passed over.
    async fn event_of(&mut self, kind: &str) -> Event {
        let next = async {
            loop {
                let event = self.event().await.expect("an event");
                if !event.kind.is_empty() {
                    assert_eq!(event.kind, kind, "{event:?}");
                    return event;
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("an event in time")
    }

    pub async fn run(&mut self) -> StreamedRun {
        let event = self.event_of("run").await;
        let said: Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!(said["run"], event.id.as_str(), "{said}");
        let text = |name: &str| said[name].as_str().unwrap_or_else(|| panic!("no {name}: {said}")).to_owned();
        let is_base64 = said.get("encoding").is_some_and(|encoding| encoding == "base64");
        let payload = text("payload");
        StreamedRun {
            run: text("run"),
            offer: said["offer"].as_u64().unwrap(),
            content_type: text("contentType"),
            payload: if is_base64 { STANDARD.decode(payload).unwrap() } else { payload.into() },
            ack: text("ack"),
            ready: text("ready"),
            is_base64,
            reply: said["reply"].as_str().map(str::to_owned),
        }
    }

    /// Everything until the stream ends; the flag says whether it ended with its last chunk.
    pub async fn rest(&mut self) -> (Vec<Event>, bool) {
        let reading = async {
            let mut events = Vec::new();
            while let Some(event) = self.event().await {
                events.push(event);
            }
            events
        };
        let events = tokio::time::timeout(PATIENCE, reading).await.expect("an end in time");
        (events, self.is_over)
    }

    /// Whether no run and no end is received for a while.
    pub async fn is_quiet(&mut self) -> bool {
        let speaking = async { while self.event().await.is_some_and(|event| event.kind.is_empty()) {} };
        tokio::time::timeout(Duration::from_millis(100), speaking).await.is_err()
    }
}

/// POSTs an acknowledgement or a readiness, and returns the status.
pub async fn confirm(address: SocketAddr, target: &str) -> u16 {
    let request = format!("POST {target} HTTP/1.1\r\nhost: broker\r\ncontent-length: 0\r\n\r\n");
    Client::connect(address).await.ask(request).await.status
}

//! Owns a controller that waits over a WebSocket, and writes its own bytes.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::client::{Answer, Client};
use super::session_bytes::{BINARY, CLOSE, PING, PONG, TEXT, masked_frame, take_frame};
use super::{Broker, PATIENCE, Pool};

/// A WebSocket over a plain socket, or over any other byte stream.
pub struct WebSocket<S = TcpStream> {
    pub client: Client<S>,
    /// The message about a run whose payload has not come yet.
    announced: Option<Value>,
}

/// A run as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedRun {
    pub run: String,
    pub offer: u64,
    pub content_type: String,
    pub payload: Vec<u8>,
    /// The target of its reply, if one is awaited.
    pub reply: Option<String>,
}

/// What the broker has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Run(PushedRun),
    Drain {
        retry_in_ms: u64,
    },
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
    /// The connection has ended without a close frame.
    End,
}

/// The example of RFC 6455, section 1.3, and the answer to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The request of a handshake, with these fields besides the necessary ones.
pub fn handshake(target: &str, fields: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nhost: broker\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-protocol: pilotlight.v1\r\nsec-websocket-key: {KEY}\r\n{fields}\r\n"
    )
}

/// The field that names a controller.
pub fn named(controller: &str) -> String {
    format!("pilotlight-controller: {controller}\r\n")
}

impl WebSocket {
    pub async fn connect(address: SocketAddr, pool: &Pool, controller: &str) -> Self {
        let client = Client::connect(address).await;
        let opened = Self::open(client, &handshake(&pool.path(), &named(controller))).await;
        opened.unwrap_or_else(|refusal| panic!("refused: {refusal:?}"))
    }

    /// A controller with this many slots in their pool.
    pub async fn held(broker: &Broker, pool: &Pool, controller: &str, slots: u64) -> Self {
        let before = broker.waiters("").await;
        let mut socket = Self::connect(broker.public, pool, controller).await;
        socket.ready(slots).await;
        broker.wait_for_waiters(before + slots).await;
        socket
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Sends a handshake; the error is its refusal, or none if the connection ended without an answer.
    pub async fn open(mut client: Client<S>, handshake: &str) -> Result<Self, Option<Answer>> {
        client.send(handshake).await;
        let answer = client.opening().await;
        match answer {
            Some(answer) if answer.status == 101 => {
                assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT), "{answer:?}");
                assert_eq!(answer.header("sec-websocket-protocol"), Some("pilotlight.v1"), "{answer:?}");
                Ok(Self { client, announced: None })
            }
            refusal => Err(refusal),
        }
    }

    pub async fn ready(&mut self, slots: u64) {
        self.say(&json!({"type": "ready", "slots": slots})).await;
    }

    pub async fn ack(&mut self, run: &PushedRun) {
        self.say(&json!({"type": "ack", "run": run.run, "offer": run.offer})).await;
    }

    pub async fn say(&mut self, message: &Value) {
        self.send_frame(TEXT, message.to_string().as_bytes()).await;
    }

    pub async fn send_frame(&mut self, first: u8, payload: &[u8]) {
        self.client.send(masked_frame(first, payload)).await;
    }

    /// The next message. It can be given up without a loss.
    pub async fn message(&mut self) -> Message {
        loop {
            let Some((first, payload)) = take_frame(&mut self.client.read) else {
                if !self.client.more().await {
                    return Message::End;
                }
                continue;
            };
            match (first, self.announced.take()) {
                (BINARY, Some(run)) => return Message::Run(run_of(&run, payload)),
                (TEXT, None) => {
                    let said: Value = serde_json::from_slice(&payload).unwrap();
                    match said["type"].as_str() {
                        Some("run") => self.announced = Some(said),
                        Some("drain") => {
                            return Message::Drain { retry_in_ms: said["retryInMs"].as_u64().unwrap() };
                        }
                        _ => panic!("an unknown message: {said}"),
                    }
                }
                (CLOSE, None) => {
                    let (code, reason) = payload.split_first_chunk().expect("a close frame with a code");
                    let reason = String::from_utf8(reason.to_vec()).unwrap();
                    return Message::Close(u16::from_be_bytes(*code), reason);
                }
                (PING, None) => return Message::Ping(payload),
                (PONG, None) => return Message::Pong(payload),
                (first, announced) => panic!("a frame {first:#x} after {announced:?}"),
            }
        }
    }

    /// The next run; pings before it are answered.
    pub async fn run(&mut self) -> PushedRun {
        let next = async {
            loop {
                match self.message().await {
                    Message::Run(run) => return run,
                    Message::Ping(payload) => self.send_frame(PONG, &payload).await,
                    other
                    @ (Message::Drain { .. } | Message::Pong(_) | Message::Close(..) | Message::End) => {
                        panic!("no run: {other:?}")
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("a run in time")
    }

    /// Receives the next run, and acknowledges it.
    pub async fn take(&mut self) -> PushedRun {
        let run = self.run().await;
        self.ack(&run).await;
        run
    }

    /// How the connection ends: the code and the reason of the close frame, which is answered; none if it is just cut.
    pub async fn close(&mut self) -> Option<(u16, String)> {
        let closing = async {
            match self.message().await {
                Message::Close(code, reason) => {
                    // The broker may have ended the connection already.
                    let answer = masked_frame(CLOSE, &code.to_be_bytes());
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut self.client.stream, &answer).await;
                    Some((code, reason))
                }
                Message::End => None,
                other @ (Message::Run(_) | Message::Drain { .. } | Message::Ping(_) | Message::Pong(_)) => {
                    panic!("no end: {other:?}")
                }
            }
        };
        tokio::time::timeout(PATIENCE, closing).await.expect("an end in time")
    }

    /// The code of the close frame; zero if the connection is just cut.
    pub async fn close_code(&mut self) -> u16 {
        self.close().await.map_or(0, |(code, _)| code)
    }

    /// Whether nothing is received for a while.
    pub async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(100), self.message()).await.is_err()
    }
}

fn run_of(said: &Value, payload: Vec<u8>) -> PushedRun {
    assert_eq!(said["size"], payload.len(), "{said}");
    let text = |name: &str| said[name].as_str().unwrap_or_else(|| panic!("no {name}: {said}")).to_owned();
    let offer = said["offer"].as_u64().unwrap();
    let reply = said["reply"].as_str().map(str::to_owned);
    PushedRun { run: text("run"), offer, content_type: text("contentType"), payload, reply }
}

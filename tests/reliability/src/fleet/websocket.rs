//! Owns a controller's WebSocket, as its messages are documented.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::session_bytes::{BINARY, PING, PONG, TEXT, masked_frame, take_frame};
use super::transport::{Acknowledgement, Delivery};
use pilotlight_bench::requests::native_poll_request;

/// An open WebSocket.
pub(super) struct WebSocket {
    stream: TcpStream,
    read: Vec<u8>,
    /// The message about a run whose payload has not come yet.
    announced: Option<Value>,
}

const UPGRADE: &str = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-protocol: pilotlight.v1\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

impl WebSocket {
    /// Connects, and waits with this many slots.
    pub(super) async fn open(
        source: Ipv4Addr,
        broker: SocketAddr,
        (pool, controller): (usize, u64),
        slots: usize,
    ) -> anyhow::Result<Self> {
        let (stream, read) = request(source, broker, (pool, controller), ("", UPGRADE), 101).await?;
        let mut socket = Self { stream, read, announced: None };
        socket.send(&message(&json!({"type": "ready", "slots": slots}))).await?;
        Ok(socket)
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    pub(super) async fn delivery(&mut self) -> anyhow::Result<Delivery> {
        loop {
            match take_frame(&mut self.read) {
                None => ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the connection has ended"),
                Some((TEXT, text)) => self.announced = Some(serde_json::from_slice(&text)?),
                Some((BINARY, payload)) => {
                    let run = self.announced.take().context("a payload of no run")?;
                    let ack = json!({"type": "ack", "run": run["run"], "offer": run["offer"]});
                    let messages = [message(&ack), message(&json!({"type": "ready", "slots": 1}))].concat();
                    return Ok(Delivery { payload, acknowledgement: Acknowledgement::Messages(messages) });
                }
                // A pong is shorter than any buffer, so this does not wait.
                Some((PING, payload)) => self.send(&masked_frame(PONG, &payload)).await?,
                Some(_) => bail!("the broker closes the connection"),
            }
        }
    }
}

fn message(message: &Value) -> Vec<u8> {
    masked_frame(TEXT, message.to_string().as_bytes())
}

/// Sends a poll with this query and these fields besides its own, to which the response must have this status. Returns what was read
/// behind the response's head.
pub(super) async fn request(
    source: Ipv4Addr,
    broker: SocketAddr,
    (pool, controller): (usize, u64),
    (query, fields): (&str, &str),
    status: u16,
) -> anyhow::Result<(TcpStream, Vec<u8>)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    let mut stream = socket.connect(broker).await?;
    stream.set_nodelay(true)?;
    let poll = String::from_utf8(native_poll_request(pool, usize::try_from(controller)?))?;
    let poll = poll.replacen(" HTTP/1.1\r\n", &format!("{query} HTTP/1.1\r\n{fields}"), 1);
    stream.write_all(poll.as_bytes()).await?;
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = memchr::memmem::find(&read, b"\r\n\r\n") {
            break end + 4;
        }
        ensure!(stream.read_buf(&mut read).await? > 0, "the connection has ended");
    };
    ensure!(read.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "refused");
    Ok((stream, read.split_off(end)))
}

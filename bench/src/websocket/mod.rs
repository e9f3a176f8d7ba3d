//! Owns a controller's end of a WebSocket: it waits with some slots, reads runs and acknowledges them.

mod frame;

use std::net::SocketAddr;
use std::ops::Range;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::open_with;
use crate::requests::{WEBSOCKET_ACCEPT, run_number, websocket_request};

/// One connection of one controller.
pub struct WebSocket {
    stream: TcpStream,
    /// What was read; before `start` it has been handled.
    read: Vec<u8>,
    start: usize,
    /// What is written before the next read.
    unwritten: Vec<u8>,
    /// A run whose payload has not come yet.
    announced: Option<Announced>,
}

struct Announced {
    run: String,
    offer: u64,
    size: u64,
    reply: Option<String>,
}

/// A run that has been read wholly.
#[derive(Debug, PartialEq, Eq)]
pub struct Run<'a> {
    /// Its name.
    pub name: String,
    /// The offer's number.
    pub offer: u64,
    /// Where its reply is awaited, if it is.
    pub reply: Option<String>,
    /// Its bytes.
    pub payload: &'a [u8],
}

impl Run<'_> {
    /// The number from which the load has made its name.
    pub fn number(&self) -> anyhow::Result<u64> {
        run_number(&self.name).with_context(|| format!("not a run of the load: {}", self.name))
    }
}

impl WebSocket {
    /// Connects, and waits with so many slots in one of the load's pools.
    pub async fn connect(
        address: SocketAddr,
        pool: usize,
        controller: usize,
        slots: usize,
    ) -> anyhow::Result<Self> {
        Self::open(address, &websocket_request(pool, controller), slots).await
    }

    /// Connects with this request, and waits with so many slots.
    pub async fn open(address: SocketAddr, request: &[u8], slots: usize) -> anyhow::Result<Self> {
        let (stream, head, read) = open_with(address, request).await?;
        let head = String::from_utf8_lossy(&head);
        ensure!(head.starts_with("HTTP/1.1 101") && head.contains(WEBSOCKET_ACCEPT), "no WebSocket: {head}");
        // A socket that only waits needs no buffer; a server sends nothing before the first slot.
        ensure!(read.is_empty(), "bytes before the first slot");
        let mut socket = Self { stream, read: Vec::new(), start: 0, unwritten: Vec::new(), announced: None };
        socket.queue(&format!("{{\"type\":\"ready\",\"slots\":{slots}}}"))?;
        socket.flush().await?;
        socket.unwritten = Vec::new();
        Ok(socket)
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The next run. What is queued is written before more is read.
    pub async fn run(&mut self) -> anyhow::Result<Run<'_>> {
        let (Announced { run: name, offer, reply, .. }, payload) = loop {
            let Some(frame) = frame::parse(&self.read[self.start..])? else {
                self.read_more().await?;
                continue;
            };
            let payload = self.start + frame.payload.start..self.start + frame.payload.end;
            self.start = payload.end;
            if let Some(run) = self.handle(frame.opcode, payload)? {
                break run;
            }
        };
        Ok(Run { name, offer, reply, payload: &self.read[payload] })
    }

    fn handle(
        &mut self,
        opcode: u8,
        payload: Range<usize>,
    ) -> anyhow::Result<Option<(Announced, Range<usize>)>> {
        let bytes = &self.read[payload.clone()];
        match opcode {
            frame::TEXT => {
                ensure!(self.announced.is_none(), "a run instead of a payload");
                self.announced = Some(announced(bytes)?);
            }
            frame::BINARY => {
                let run = self.announced.take().context("a payload without its run")?;
                ensure!(run.size == bytes.len() as u64, "{} bytes instead of {}", bytes.len(), run.size);
                return Ok(Some((run, payload)));
            }
            frame::PING => frame::write(frame::PONG, bytes, &mut self.unwritten)?,
            frame::PONG => {}
            frame::CLOSE => bail!("the server closed the WebSocket: {}", String::from_utf8_lossy(bytes)),
            _ => bail!("a frame with opcode {opcode}"),
        }
        Ok(None)
    }

    async fn read_more(&mut self) -> anyhow::Result<()> {
        self.flush().await?;
        self.read.drain(..self.start);
        self.start = 0;
        ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the server closed the connection");
        Ok(())
    }

    /// Queues the acknowledgement of an offer, and makes its slot ready again.
    pub fn acknowledge(&mut self, run: &str, offer: u64) -> anyhow::Result<()> {
        self.queue(&format!("{{\"type\":\"ack\",\"run\":\"{run}\",\"offer\":{offer}}}"))?;
        self.ready()
    }

    /// Queues that one more run can come.
    pub fn ready(&mut self) -> anyhow::Result<()> {
        self.queue("{\"type\":\"ready\",\"slots\":1}")
    }

    fn queue(&mut self, message: &str) -> anyhow::Result<()> {
        frame::write(frame::TEXT, message.as_bytes(), &mut self.unwritten)
    }

    /// Writes what is queued.
    pub async fn flush(&mut self) -> anyhow::Result<()> {
        if !self.unwritten.is_empty() {
            self.stream.write_all(&self.unwritten).await?;
            self.unwritten.clear();
        }
        Ok(())
    }
}

fn announced(message: &[u8]) -> anyhow::Result<Announced> {
    let message: Value = serde_json::from_slice(message)?;
    let fields = (message["run"].as_str(), message["offer"].as_u64(), message["size"].as_u64());
    match fields {
        (Some(run), Some(offer), Some(size)) if message["type"] == "run" => {
            let reply = message["reply"].as_str().map(str::to_owned);
            Ok(Announced { run: run.to_owned(), offer, size, reply })
        }
        _ => bail!("not a run: {message}"),
    }
}

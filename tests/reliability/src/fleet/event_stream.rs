//! Owns a controller's event stream, and the connection on which it acknowledges.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::context::FleetContext;
use super::protocol::Event;
use super::session_bytes::{take_chunks, take_event};
use super::transport::{Acknowledgement, Delivery};
use super::websocket::request;
use pilotlight_bench::client::Client;

/// An open stream.
pub(super) struct EventStream {
    stream: TcpStream,
    read: Vec<u8>,
    contents: Vec<u8>,
    source: Ipv4Addr,
    broker: SocketAddr,
    controller: u64,
    /// The connection on which it acknowledges.
    confirmations: Option<Client>,
    confirmed: u64,
}

impl EventStream {
    /// Connects, and waits with this many slots.
    pub(super) async fn open(
        source: Ipv4Addr,
        broker: SocketAddr,
        (pool, controller): (usize, u64),
        slots: usize,
    ) -> anyhow::Result<Self> {
        let query = format!("?slots={slots}");
        let asked = (&*query, "accept: text/event-stream\r\n");
        let (stream, read) = request(source, broker, (pool, controller), asked, 200).await?;
        let contents = Vec::new();
        Ok(Self { stream, read, contents, source, broker, controller, confirmations: None, confirmed: 0 })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) async fn delivery(&mut self) -> anyhow::Result<Delivery> {
        loop {
            let is_over = take_chunks(&mut self.read, &mut self.contents);
            while let Some(event) = take_event(&mut self.contents) {
                if event.kind == "run" {
                    return delivery(&event.data);
                }
            }
            ensure!(!is_over, "the stream is over");
            ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the connection has ended");
        }
    }

    /// Acknowledges a run and frees its slot: in two requests, in one to either of the targets, in turn.
    pub(super) async fn confirm(&mut self, ack: &str, ready: &str) -> anyhow::Result<()> {
        self.confirmed += 1;
        match self.confirmed % 3 {
            0 => {
                self.post(ack).await?;
                self.post(ready).await
            }
            1 => self.post(&format!("{ack}&ready=true")).await,
            _ => self.post(ready).await,
        }
    }

    async fn post(&mut self, target: &str) -> anyhow::Result<()> {
        let kept = self.confirmations.take().filter(|client| !client.is_closed());
        let mut client = match kept {
            Some(client) => client,
            None => Client::connect_from(self.source, self.broker).await?,
        };
        let request = format!("POST {target} HTTP/1.1\r\nhost: b\r\ncontent-length: 0\r\n\r\n");
        client.send(request.as_bytes()).await?;
        match client.response().await?.status {
            204 => self.confirmations = Some(client),
            // The offer has ended, and so does the stream.
            410 => bail!("too late"),
            status => {
                FleetContext::report(self.controller, Event::Status(status));
                bail!("a receipt was answered {status}");
            }
        }
        Ok(())
    }
}

fn delivery(data: &str) -> anyhow::Result<Delivery> {
    let said: Value = serde_json::from_str(data)?;
    let text =
        |name: &str| Ok::<_, anyhow::Error>(said[name].as_str().context("a field is missing")?.to_owned());
    ensure!(said.get("encoding").is_none(), "a message of JSON is not worth base64");
    let acknowledgement = Acknowledgement::Targets { ack: text("ack")?, ready: text("ready")? };
    Ok(Delivery { payload: text("payload")?.into(), acknowledgement })
}

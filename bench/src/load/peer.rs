//! Owns one client connection and the bytes that it sends: prepared once, parsed as little as is still correct.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// 127.0.1.0, and how many addresses are used from there on.
const FIRST_SOURCE: u32 = 0x7f00_0100;
const SOURCES: u32 = 5000;

pub(super) struct Peer {
    stream: TcpStream,
    read: Vec<u8>,
}

/// An answer that has been read whole.
pub(super) struct Answer<'a> {
    pub(super) body: &'a [u8],
    /// The server wants the connection to end with it.
    pub(super) closes: bool,
}

impl Peer {
    /// Connects from one loopback address after the other: a single one runs out of ports when every run takes a
    /// new connection, and then the search for a free one is what would be measured.
    pub(super) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let source = Ipv4Addr::from(FIRST_SOURCE + NEXT.fetch_add(1, Ordering::Relaxed) % SOURCES);
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::with_capacity(4096) })
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// The next answer. A server answers one request at a time, so nothing is left over behind it.
    pub(super) async fn answer(&mut self) -> anyhow::Result<Answer<'_>> {
        self.read.clear();
        loop {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                bail!("the server closed the connection");
            }
            let Some(end) = memchr::memmem::find(&self.read, b"\r\n\r\n") else { continue };
            let length = content_length(&self.read[..end]).context("no content-length")?;
            if self.read.len() == end + 4 + length {
                let closes =
                    value(&self.read[..end], b"onnection: ").is_some_and(|v| v.starts_with(b"close"));
                return Ok(Answer { body: &self.read[end + 4..], closes });
            }
        }
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    let digits = value(head, b"ontent-length: ").or_else(|| value(head, b"ontent-Length: "))?;
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0')))
}

/// What follows a field's name. Its first letter is left out of it: some servers write it large.
fn value<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    Some(&head[memchr::memmem::find(head, name)? + name.len()..])
}

pub(super) fn health_request() -> Vec<u8> {
    b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".to_vec()
}

/// A stock controller's poll.
pub(crate) fn poll(pool: usize, controller: usize) -> Vec<u8> {
    format!(
        "GET /warm-start HTTP/1.1\r\nhost: 127.0.0.1:7070\r\nconnection: keep-alive\r\n\
         x-trigger-workload-controller-id: controller_{controller:08}-0000-4000-8000-000000000000\r\n\
         x-trigger-deployment-id: deployment_{pool:04}\r\nx-trigger-deployment-version: 20260821.3\r\n\
         x-trigger-machine-cpu: 0.5\r\nx-trigger-machine-memory: 0.5\r\nx-trigger-worker-instance-name: worker\r\n\
         accept: */*\r\naccept-language: *\r\nsec-fetch-mode: cors\r\nuser-agent: node\r\n\
         accept-encoding: gzip, deflate\r\n\r\n"
    )
    .into_bytes()
}

/// A stock supervisor's POST.
pub(crate) fn message(pool: usize) -> Vec<u8> {
    let example = include_str!("../../../tests/data/dequeued-message.json");
    let mut message: serde_json::Value = serde_json::from_str(example).unwrap_or_default();
    message["deployment"]["friendlyId"] = format!("deployment_{pool:04}").into();
    let body = format!("{{\"dequeuedMessage\":{message}}}");
    let length = body.len();
    format!(
        "POST /warm-start HTTP/1.1\r\nhost: 127.0.0.1:7070\r\nconnection: keep-alive\r\n\
         content-type: application/json\r\naccept: */*\r\nuser-agent: node\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

//! Owns one client connection and the bytes that it sends: prepared once, parsed as little as is still correct.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail, ensure};
use rustix::net::RecvFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// 127.0.1.0, and how many addresses are used from there on.
const FIRST_SOURCE: u32 = 0x7f00_0100;
const SOURCES: u32 = 5000;

pub(crate) struct Peer {
    stream: TcpStream,
    read: Vec<u8>,
    /// The last answer said that the connection ends.
    is_ending: bool,
}

/// An answer that has been read whole.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
    /// The server wants the connection to end with it.
    pub(crate) closes: bool,
}

impl Peer {
    /// Connects from one loopback address after the other: a single one runs out of ports when every run takes a
    /// new connection, and then the search for a free one is what would be measured.
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let source = Ipv4Addr::from(FIRST_SOURCE + NEXT.fetch_add(1, Ordering::Relaxed) % SOURCES);
        Self::connect_from(source, address).await
    }

    /// Connects from this address.
    pub(crate) async fn connect_from(source: Ipv4Addr, address: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::with_capacity(4096), is_ending: false })
    }

    /// The socket, for those who do not go by the rules.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether the server has ended the connection since its last answer: real clients notice that.
    pub(crate) fn is_over(&self) -> bool {
        let look = rustix::net::recv(&self.stream, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        self.is_ending || !matches!(look, Err(rustix::io::Errno::AGAIN))
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// The next answer. A server answers one request at a time, so nothing is left over behind it.
    pub(crate) async fn answer(&mut self) -> anyhow::Result<Answer<'_>> {
        self.read.clear();
        loop {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                bail!("the server closed the connection");
            }
            let Some(end) = memchr::memmem::find(&self.read, b"\r\n\r\n") else { continue };
            let length = content_length(&self.read[..end]).context("no content-length")?;
            ensure!(self.read.len() <= end + 4 + length, "more than one answer");
            if self.read.len() == end + 4 + length {
                let status =
                    self.read.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
                let closes =
                    value(&self.read[..end], b"onnection: ").is_some_and(|v| v.starts_with(b"close"));
                self.is_ending = closes;
                return Ok(Answer { status: status.unwrap_or(0), body: &self.read[end + 4..], closes });
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
    poll_of("worker", pool, controller)
}

/// The same, of a controller on a machine with this name.
pub(crate) fn poll_of(worker: &str, pool: usize, controller: usize) -> Vec<u8> {
    format!(
        "GET /warm-start HTTP/1.1\r\nhost: 127.0.0.1:7070\r\nconnection: keep-alive\r\n\
         x-trigger-workload-controller-id: controller_{controller:08}-0000-4000-8000-000000000000\r\n\
         x-trigger-deployment-id: deployment_{pool:04}\r\nx-trigger-deployment-version: 20260821.3\r\n\
         x-trigger-machine-cpu: 0.5\r\nx-trigger-machine-memory: 0.5\r\nx-trigger-worker-instance-name: {worker}\r\n\
         accept: */*\r\naccept-language: *\r\nsec-fetch-mode: cors\r\nuser-agent: node\r\n\
         accept-encoding: gzip, deflate\r\n\r\n"
    )
    .into_bytes()
}

/// A stock supervisor's POST.
pub(crate) fn message(pool: usize) -> Vec<u8> {
    post("/warm-start", "", &format!("{{\"dequeuedMessage\":{}}}", run_of(pool, None)))
}

const SNAPSHOT: &str = "snapshot_";
const SNAPSHOT_DIGITS: usize = 12;

/// Makes a message another one: a server that remembers runs would not deliver it twice. Other requests stay as they are.
pub(super) fn renew(request: &mut [u8], number: u64) {
    let Some(at) = memchr::memmem::find(request, SNAPSHOT.as_bytes()) else { return };
    let digits = &mut request[at + SNAPSHOT.len()..][..SNAPSHOT_DIGITS];
    digits.iter_mut().rev().fold(number, |rest, digit| {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest / 10
    });
}

/// The number of a supervisor's request, which no other has.
pub(super) fn number_of(supervisor: usize, round: usize) -> u64 {
    supervisor as u64 * 1_000_000_000 + round as u64
}

/// The same with a run of its own.
pub(crate) fn message_of(pool: usize, run: u64) -> Vec<u8> {
    post("/warm-start", "", &format!("{{\"dequeuedMessage\":{}}}", run_of(pool, Some(run))))
}

/// The same run in the broker's own dialect.
pub(crate) fn native_message_of(pool: usize, run: u64) -> Vec<u8> {
    let target = format!("/v1/pools/deployment_{pool:04}/20260821.3/0.5/0.5");
    post(&target, &format!("pilotlight-run: {}\r\n", run_name(run)), &run_of(pool, Some(run)))
}

fn run_name(run: u64) -> String {
    format!("run_{run:021}")
}

/// The number of a run that was named by [`message_of`], and the pool that it was meant for.
pub(crate) fn run_in(message: &[u8]) -> Option<(u64, usize)> {
    let number = |mark: &str| {
        let at = memchr::memmem::find(message, mark.as_bytes())? + mark.len();
        let digits = message[at..].iter().take_while(|byte| byte.is_ascii_digit());
        Some(digits.fold(0, |number: u64, digit| number * 10 + u64::from(digit - b'0')))
    };
    let pool = number("\"friendlyId\":\"deployment_")?;
    Some((number("\"friendlyId\":\"run_")?, usize::try_from(pool).ok()?))
}

fn run_of(pool: usize, run: Option<u64>) -> String {
    let example = include_str!("../../../tests/data/dequeued-message.json");
    let mut message: serde_json::Value = serde_json::from_str(example).unwrap_or_default();
    message["deployment"]["friendlyId"] = format!("deployment_{pool:04}").into();
    message["snapshot"]["friendlyId"] = format!("{SNAPSHOT}{:0SNAPSHOT_DIGITS$}", run.unwrap_or(0)).into();
    if let Some(run) = run {
        message["run"]["friendlyId"] = run_name(run).into();
    }
    message.to_string()
}

fn post(target: &str, field: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nhost: 127.0.0.1:7070\r\nconnection: keep-alive\r\n{field}\
         content-type: application/json\r\naccept: */*\r\nuser-agent: node\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

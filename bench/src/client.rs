//! Owns one client connection: it sends prepared bytes and parses as little of a response as is still correct.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail, ensure};
use rustix::net::RecvFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// 127.0.1.0, the first source address, and how many follow it.
const FIRST_SOURCE: u32 = 0x7f00_0100;
const SOURCES: u32 = 5000;

/// One HTTP/1.1 connection to a server.
pub struct Client {
    stream: TcpStream,
    read: Vec<u8>,
    /// The last response said `connection: close`.
    is_ending: bool,
}

/// A response that has been read completely.
pub struct Response<'a> {
    /// Its status code.
    pub status: u16,
    /// Its body.
    pub body: &'a [u8],
    /// It says `connection: close`.
    pub closes: bool,
}

impl Client {
    /// Connects, from the next of several loopback addresses: if every run takes a new connection, a single address runs
    /// out of ports, and the search for a free port would be measured.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self::new(open_stream(address).await?))
    }

    /// Connects from the given source address.
    pub async fn connect_from(source: Ipv4Addr, address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self::new(open_stream_from(source, address).await?))
    }

    fn new(stream: TcpStream) -> Self {
        Self { stream, read: Vec::with_capacity(4096), is_ending: false }
    }

    /// The socket, for tests that reset it or leave it unread.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether the server has closed the connection since its last response, which a real client notices, too.
    pub fn is_closed(&self) -> bool {
        let peeked = rustix::net::recv(&self.stream, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        self.is_ending || !matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }

    /// Writes a whole request, or a part of one.
    pub async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Reads the next response. Requests are not pipelined, so more bytes after it are an error.
    pub async fn response(&mut self) -> anyhow::Result<Response<'_>> {
        self.read.clear();
        loop {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                bail!("the server closed the connection");
            }
            let Some(end) = memchr::memmem::find(&self.read, b"\r\n\r\n") else { continue };
            let status =
                self.read.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
            let length = match status {
                Some(NO_CONTENT) => 0,
                _ => content_length(&self.read[..end]).context("no content-length")?,
            };
            ensure!(self.read.len() <= end + 4 + length, "more than one response");
            if self.read.len() == end + 4 + length {
                let closes =
                    value(&self.read[..end], b"onnection: ").is_some_and(|v| v.starts_with(b"close"));
                self.is_ending = closes;
                return Ok(Response { status: status.unwrap_or(0), body: &self.read[end + 4..], closes });
            }
        }
    }
}

/// Opens a connection from the next source address.
pub async fn open_stream(address: SocketAddr) -> anyhow::Result<TcpStream> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let source = Ipv4Addr::from(FIRST_SOURCE + NEXT.fetch_add(1, Ordering::Relaxed) % SOURCES);
    open_stream_from(source, address).await
}

/// Opens a connection, sends a request, and reads the head of its response: with that, and what came behind it.
pub(crate) async fn open_with(
    address: SocketAddr,
    request: &[u8],
) -> anyhow::Result<(TcpStream, Vec<u8>, Vec<u8>)> {
    let mut stream = open_stream(address).await?;
    stream.write_all(request).await?;
    let mut read = Vec::new();
    loop {
        ensure!(stream.read_buf(&mut read).await? > 0, "the server closed the connection");
        if let Some(end) = memchr::memmem::find(&read, b"\r\n\r\n") {
            let behind = read.split_off(end + 4);
            return Ok((stream, read, behind));
        }
    }
}

async fn open_stream_from(source: Ipv4Addr, address: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The status of a response that has no body, and no length either.
const NO_CONTENT: u16 = 204;

fn content_length(head: &[u8]) -> Option<usize> {
    let digits = value(head, b"ontent-length: ").or_else(|| value(head, b"ontent-Length: "))?;
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0')))
}

/// What follows a field's name. `name` lacks its first letter, because some servers write it in upper case.
fn value<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    Some(&head[memchr::memmem::find(head, name)? + name.len()..])
}

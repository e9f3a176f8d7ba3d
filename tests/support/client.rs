//! Owns a raw HTTP client: it sends exactly the given bytes, and reads responses strictly.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::PATIENCE;

/// A client over a plain socket, or over any other byte stream.
pub struct Client<S = TcpStream> {
    pub stream: S,
    /// The received bytes that were not parsed yet.
    pub(super) read: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The last part of a problem document's type.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let document = self.json();
        assert_eq!(document["status"], self.status);
        assert!(
            document["title"].is_string() && !document["detail"].as_str().unwrap().is_empty(),
            "{document}"
        );
        document["type"].as_str().unwrap().rsplit(':').next().unwrap().to_owned()
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self::over(stream)
    }

    /// The same with a receive buffer of this size, so that a large run does not fit into it.
    pub async fn connect_narrow(address: SocketAddr, receive_buffer: u32) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(receive_buffer).unwrap();
        Self::over(socket.connect(address).await.unwrap())
    }

    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self::through(stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn through(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The same; false if the connection is over.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Sends a request and reads its response.
    pub async fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Answer {
        self.send(bytes).await;
        self.answer().await
    }

    /// The next response; panics if the connection ends before it is complete.
    pub async fn answer(&mut self) -> Answer {
        tokio::time::timeout(PATIENCE, self.try_answer())
            .await
            .expect("an answer in time")
            .expect("an answer")
    }

    /// The next response to a HEAD, which has no body although it announces a length.
    pub async fn bare_answer(&mut self) -> Answer {
        let answer = tokio::time::timeout(PATIENCE, self.try_head()).await.expect("an answer in time");
        answer.expect("an answer")
    }

    /// The next response, or none if the connection ended without one.
    pub async fn try_answer(&mut self) -> Option<Answer> {
        let answer = self.try_head().await?;
        Some(self.with_body(answer).await)
    }

    /// The next response, or none if the connection ended without one. What follows the head of one that opens a
    /// WebSocket or an event stream is not read.
    pub(super) async fn opening(&mut self) -> Option<Answer> {
        let answer = self.try_head().await?;
        let is_open = answer.status == 101 || answer.header("content-type") == Some("text/event-stream");
        if is_open {
            return Some(answer);
        }
        Some(self.with_body(answer).await)
    }

    /// The head of the next response; none if the connection ended without one.
    pub(super) async fn head(&mut self) -> Option<Answer> {
        self.try_head().await
    }

    async fn with_body(&mut self, mut answer: Answer) -> Answer {
        let length = match answer.header("content-length") {
            Some(length) => length.parse().unwrap(),
            None if answer.status == 204 => 0,
            None => panic!("no length: {answer:?}"),
        };
        while self.read.len() < length {
            assert!(self.more().await, "cut off after {} of {length} bytes", self.read.len());
        }
        answer.body = self.read.drain(..length).collect();
        if answer.header("connection") == Some("close") {
            // Every client does this after it has read a whole response; the broker takes the close as the receipt.
            let _ = self.stream.shutdown().await;
        }
        answer
    }

    /// The next response, or none if the connection ends before it is complete, as that of a process that is killed.
    pub async fn whole_answer(&mut self) -> Option<Answer> {
        while !self.has_whole_answer() {
            if !self.more().await {
                return None;
            }
        }
        self.try_answer().await
    }

    fn has_whole_answer(&self) -> bool {
        let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
        let head = String::from_utf8_lossy(&self.read[..end]);
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        self.read.len() >= end + 4 + length.map_or(0, |length| length.parse().unwrap())
    }

    async fn try_head(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await {
                assert!(self.read.is_empty(), "cut off: {:?}", String::from_utf8_lossy(&self.read));
                return None;
            }
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        Some(Answer { status: head[9..12].parse().unwrap(), head, body: Vec::new() })
    }

    /// Whether the broker closes the connection without sending anything.
    pub async fn is_closed_silently(&mut self) -> bool {
        tokio::time::timeout(PATIENCE, self.try_answer()).await.expect("an end in time").is_none()
    }

    /// Whether nothing is received for a while.
    pub async fn is_held(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(100), self.more()).await.is_err()
    }

    /// Whether nothing was received: the connection is held, or has ended without a response.
    pub async fn is_held_or_over(&mut self) -> bool {
        self.is_held().await || self.read.is_empty()
    }

    /// The received bytes that were not parsed yet.
    pub fn answered_so_far(&self) -> &[u8] {
        &self.read
    }

    /// Everything that is received until the connection ends.
    pub async fn rest(&mut self) -> &[u8] {
        while self.more().await {}
        &self.read
    }

    /// Receives more bytes within a test's patience; false at the end of the connection.
    pub async fn next_bytes(&mut self) -> bool {
        tokio::time::timeout(PATIENCE, self.more()).await.expect("more in time")
    }

    /// Reads whatever comes until nothing has come for this long, or the connection ends.
    pub async fn rest_within(&mut self, silence: Duration) {
        while let Ok(true) = tokio::time::timeout(silence, self.more()).await {}
    }

    /// The received bytes that were not parsed yet, which are forgotten.
    pub fn take_bytes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.read)
    }

    /// Reads until the connection ends, and returns whether a reset ended it.
    pub async fn ends_with_a_reset(&mut self) -> bool {
        let ending = async {
            loop {
                match self.stream.read_buf(&mut self.read).await {
                    Ok(0) => return false,
                    Ok(_) => {}
                    Err(_) => return true,
                }
            }
        };
        tokio::time::timeout(PATIENCE, ending).await.expect("an end in time")
    }

    /// Whether the connection is found to be over within a few writes.
    pub async fn fails_to_write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        for _ in 0..3 {
            if self.stream.write_all(bytes.as_ref()).await.is_err() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// Receives more bytes; whether there were any before the end of the connection.
    pub(super) async fn more(&mut self) -> bool {
        // A reset ends the connection, too.
        self.stream.read_buf(&mut self.read).await.unwrap_or(0) > 0
    }
}

//! Owns a raw client of NATS: it publishes any bytes on any subject, and sees what the brokers publish.

use std::collections::VecDeque;
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::PATIENCE;

/// A client that knows nothing of the messages' meaning.
pub struct NatsClient {
    stream: BufReader<TcpStream>,
    messages: VecDeque<NatsMessage>,
}

/// A message without its headers.
#[derive(Debug, Clone)]
pub struct NatsMessage {
    pub subject: String,
    pub reply: Option<String>,
    pub payload: Vec<u8>,
}

enum Frame {
    Message(NatsMessage),
    Pong,
    Other,
}

impl NatsClient {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = BufReader::new(TcpStream::connect(address).await.unwrap());
        let mut client = Self { stream, messages: VecDeque::new() };
        client.send(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true}\r\n").await;
        client.flush().await;
        client
    }

    /// Publishes a message, with a subject for replies if that is not empty.
    pub async fn publish(&mut self, subject: &str, reply: &str, payload: &[u8]) {
        let head = format!("PUB {subject} {reply} {}\r\n", payload.len());
        self.send(&[head.as_bytes(), payload, b"\r\n"].concat()).await;
    }

    /// Subscribes, and returns once the server knows.
    pub async fn subscribe(&mut self, subject: &str) {
        self.send(format!("SUB {subject} 1\r\n").as_bytes()).await;
        self.flush().await;
    }

    /// Waits until the server has handled all that was sent.
    pub async fn flush(&mut self) {
        self.send(b"PING\r\n").await;
        loop {
            match self.frame().await {
                Frame::Pong => return,
                Frame::Message(message) => self.messages.push_back(message),
                Frame::Other => {}
            }
        }
    }

    /// The next message.
    pub async fn next(&mut self) -> NatsMessage {
        if let Some(message) = self.messages.pop_front() {
            return message;
        }
        let message = async {
            loop {
                if let Frame::Message(message) = self.frame().await {
                    return message;
                }
            }
        };
        tokio::time::timeout(PATIENCE, message).await.expect("a message in time")
    }

    async fn frame(&mut self) -> Frame {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        assert!(!line.is_empty() && !line.starts_with("-ERR"), "NATS says {line:?}");
        let words: Vec<&str> = line.trim_end().split(' ').collect();
        let (subject, reply, head, whole) = match words.as_slice() {
            ["PONG"] => return Frame::Pong,
            ["PING"] => {
                self.send(b"PONG\r\n").await;
                return Frame::Other;
            }
            ["MSG", subject, _, whole] => (*subject, None, "0", whole),
            ["MSG", subject, _, reply, whole] => (*subject, Some(*reply), "0", whole),
            ["HMSG", subject, _, head, whole] => (*subject, None, *head, whole),
            ["HMSG", subject, _, reply, head, whole] => (*subject, Some(*reply), *head, whole),
            _ => return Frame::Other,
        };
        let [head, whole] = [head, whole].map(|length| length.parse::<usize>().unwrap());
        let mut bytes = vec![0; whole + 2];
        self.stream.read_exact(&mut bytes).await.unwrap();
        let payload = bytes[head..whole].to_vec();
        Frame::Message(NatsMessage { subject: subject.to_owned(), reply: reply.map(str::to_owned), payload })
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.unwrap();
    }
}

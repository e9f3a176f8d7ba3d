//! Owns a reader of `/events` that parses the stream itself.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Broker, PATIENCE};

/// A subscriber to server-sent events.
pub struct Events {
    pub stream: TcpStream,
    read: String,
}

/// One event.
#[derive(Debug)]
pub struct Event {
    pub id: String,
    pub kind: String,
    pub data: Value,
}

impl Events {
    pub async fn follow(broker: &Broker, target: &str, last: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(broker.ops).await.unwrap();
        let last = last.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        stream
            .write_all(format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n{last}\r\n").as_bytes())
            .await
            .unwrap();
        let mut events = Self { stream, read: String::new() };
        events.until("retry: 1000\n\n").await;
        assert!(events.read.contains("content-type: text/event-stream"), "{}", events.read);
        // The events that a resumed stream begins with may follow in the same read.
        events.read = events.read.split_once("retry: 1000\n\n").unwrap().1.to_owned();
        events
    }

    async fn until(&mut self, mark: &str) {
        let mut buffer = vec![0; 16 * 1024];
        while !self.read.contains(mark) {
            let read =
                tokio::time::timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect(mark).unwrap();
            assert!(read > 0, "the stream ended before {mark:?}: {}", self.read);
            self.read.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
    }

    /// The next event of a kind; other events are skipped.
    pub async fn next(&mut self, kind: &str) -> Event {
        loop {
            let event = self.next_of_any_kind().await;
            if event.kind == kind {
                return event;
            }
        }
    }

    /// The events up to the first of this kind.
    pub async fn all_to(&mut self, kind: &str) -> Vec<Event> {
        let mut events = vec![self.next_of_any_kind().await];
        while events.last().is_some_and(|event| event.kind != kind) {
            events.push(self.next_of_any_kind().await);
        }
        events
    }

    /// The next event, or heartbeat.
    pub async fn next_of_any_kind(&mut self) -> Event {
        self.until("\n\n").await;
        let (frame, rest) = self.read.split_once("\n\n").unwrap();
        let field = |name: &str| {
            let lines = frame.lines().map(|line| line.rsplit_once("\r\n").map_or(line, |(_, line)| line));
            lines.rev().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
        };
        let event = Event {
            id: field("id: "),
            kind: field("event: "),
            data: serde_json::from_str(&field("data: ")).unwrap_or_default(),
        };
        self.read = rest.into();
        event
    }
}

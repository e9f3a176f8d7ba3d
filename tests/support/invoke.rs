//! Owns a call of a function, as AWS's SDKs send it, and the events of a stream, as they read them.

use std::net::SocketAddr;

use super::Pool;
use super::client::{Answer, Client};
use super::replies::{Caller, Reply};

/// A call that is not sent yet.
#[derive(Clone)]
pub struct Call {
    target: String,
    fields: String,
    event: String,
}

impl Call {
    /// A call of this function, which is percent-encoded and may have a query.
    pub fn of(function: &str) -> Self {
        Self::new("2015-03-31", function, "invocations")
    }

    /// The same with a response stream.
    pub fn streaming(function: &str) -> Self {
        Self::new("2021-11-15", function, "response-streaming-invocations")
    }

    fn new(date: &str, function: &str, call: &str) -> Self {
        let (name, query) = function.split_once('?').unwrap_or((function, ""));
        let target = format!("/{date}/functions/{name}/{call}?{query}");
        Self { target, fields: String::new(), event: "{}".to_owned() }
    }

    /// The same with this field.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.extend([name, ": ", value, "\r\n"]);
        self
    }

    /// The same as a try of the call with this id.
    #[must_use]
    pub fn with_id(self, id: &str) -> Self {
        self.with("amz-sdk-invocation-id", id)
    }

    /// The same with this event.
    #[must_use]
    pub fn event(mut self, event: &str) -> Self {
        event.clone_into(&mut self.event);
        self
    }

    pub fn request(&self) -> String {
        let Self { target, fields, event } = self;
        let length = event.len();
        format!("POST {target} HTTP/1.1\r\nhost: b\r\n{fields}content-length: {length}\r\n\r\n{event}")
    }

    pub async fn send(&self, address: SocketAddr) -> Caller {
        let mut client = Client::connect(address).await;
        client.send(self.request()).await;
        Caller { client }
    }

    /// The response to a call that no worker has.
    pub async fn answer(&self, address: SocketAddr) -> Answer {
        self.send(address).await.client.answer().await
    }
}

/// The pool of a function that is called without a qualifier.
pub fn pool_of(function: &str) -> Pool {
    Pool::new(function, "$LATEST", "0", "0")
}

/// The status, the type of the error, and the error's text.
pub fn error(answer: &Answer) -> (u16, String, String) {
    let kind = answer.header("x-amzn-errortype").unwrap_or_default().to_owned();
    assert!(!answer.header("x-amzn-requestid").unwrap_or_default().is_empty(), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    let document = answer.json();
    let text = document["message"].as_str().or(document["Message"].as_str()).unwrap_or_default().to_owned();
    (answer.status, kind, text)
}

impl Reply {
    /// How the function has ended, and what it has returned.
    pub fn result(&self) -> (u16, Option<&str>, &str) {
        assert!(self.is_whole, "{self:?}");
        let error = self.head.header("x-amz-function-error");
        (self.head.status, error, std::str::from_utf8(&self.body).unwrap())
    }

    /// The events of a stream: their types and payloads.
    pub fn events(&self) -> Vec<(String, String)> {
        assert_eq!(self.head.header("content-type"), Some("application/vnd.amazon.eventstream"), "{self:?}");
        events(&self.body)
    }
}

/// The events in these bytes, whose lengths and checksums are right.
pub fn events(mut bytes: &[u8]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let (total, headers) = (number(0) as usize, number(4) as usize);
        assert_eq!(number(8), crc32fast::hash(&bytes[..8]), "the checksum of the prelude");
        assert_eq!(number(total - 4), crc32fast::hash(&bytes[..total - 4]), "the checksum of the message");
        let (mut kind, mut rest) = (None, &bytes[12..12 + headers]);
        while !rest.is_empty() {
            let (name, after) = rest[1..].split_at(rest[0].into());
            assert_eq!(after[0], 7, "a text");
            let length = usize::from(u16::from_be_bytes([after[1], after[2]]));
            let (value, after) = after[3..].split_at(length);
            let value = String::from_utf8(value.to_vec()).unwrap();
            match name {
                b":event-type" => kind = Some(value),
                b":message-type" => assert_eq!(value, "event"),
                _ => assert_eq!(name, b":content-type"),
            }
            rest = after;
        }
        let payload = String::from_utf8(bytes[12 + headers..total - 4].to_vec()).unwrap();
        found.push((kind.expect("a type"), payload));
        bytes = &bytes[total..];
    }
    found
}

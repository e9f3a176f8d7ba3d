//! Owns a controller's end of a stream of events: it waits with some slots, reads runs, and acknowledges them by POSTs.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::client::{Client, open_with};
use crate::requests::{event_stream_request, run_number};

/// One stream of one controller, and a connection for its receipts.
pub struct EventStream {
    stream: TcpStream,
    /// Chunks that have not been decoded.
    read: Vec<u8>,
    /// Decoded bytes; before `start` they have been handled.
    text: Vec<u8>,
    start: usize,
    /// Opened with the first receipt.
    receipts: Option<Client>,
    address: SocketAddr,
}

/// A run that has been read wholly.
#[derive(Debug, PartialEq, Eq)]
pub struct RunEvent<'a> {
    /// The number from which its name was made.
    pub number: u64,
    /// Where its receipt is posted to.
    pub ack: &'a str,
    /// The whole event, in which the payload is a string of JSON.
    pub data: &'a str,
}

impl EventStream {
    /// Opens the stream, with so many slots, and waits for its first bytes.
    pub async fn connect(
        address: SocketAddr,
        pool: usize,
        controller: usize,
        slots: usize,
    ) -> anyhow::Result<Self> {
        let (stream, head, read) = open_with(address, &event_stream_request(pool, controller, slots)).await?;
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let is_right = head.starts_with("http/1.1 200")
            && head.contains("content-type: text/event-stream")
            && head.contains("transfer-encoding: chunked");
        ensure!(is_right, "no stream of events: {head}");
        Ok(Self { stream, read, text: Vec::new(), start: 0, receipts: None, address })
    }

    /// The socket of the stream.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The next run. Everything else on the stream is skipped.
    pub async fn run(&mut self) -> anyhow::Result<RunEvent<'_>> {
        let event = loop {
            let text = &self.text[self.start..];
            if let Some(length) = memchr::memmem::find(text, b"\n\n") {
                let event = self.start..self.start + length;
                self.start = event.end + 2;
                if is_run(&self.text[event.clone()]) {
                    break event;
                }
            } else {
                self.read_more().await?;
            }
        };
        run_event(std::str::from_utf8(&self.text[event])?)
    }

    async fn read_more(&mut self) -> anyhow::Result<()> {
        self.text.drain(..self.start);
        self.start = 0;
        let before = self.text.len();
        loop {
            while let Some(rest) = decode_chunk(&self.read, &mut self.text)? {
                let decoded = self.read.len() - rest;
                self.read.drain(..decoded);
            }
            if self.text.len() > before {
                return Ok(());
            }
            ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the server closed the connection");
        }
    }

    /// Opens the connection for receipts, unless it is open.
    pub async fn open_receipts(&mut self) -> anyhow::Result<&mut Client> {
        match &mut self.receipts {
            Some(receipts) => Ok(receipts),
            none => Ok(none.insert(Client::connect(self.address).await?)),
        }
    }

    /// Posts the receipt of a run, and makes its slot ready again.
    pub async fn acknowledge(&mut self, ack: &str) -> anyhow::Result<()> {
        let request =
            format!("POST {ack}&ready=true HTTP/1.1\r\nhost: 127.0.0.1:7070\r\ncontent-length: 0\r\n\r\n");
        let receipts = self.open_receipts().await?;
        receipts.send(request.as_bytes()).await?;
        let status = receipts.response().await?.status;
        ensure!(status == 204, "a receipt was answered {status}");
        Ok(())
    }
}

/// Decodes the first chunk if it is complete, and returns how many bytes follow it.
fn decode_chunk(bytes: &[u8], to: &mut Vec<u8>) -> anyhow::Result<Option<usize>> {
    let Some(line) = memchr::memmem::find(bytes, b"\r\n") else { return Ok(None) };
    let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line])?.trim(), 16)?;
    ensure!(size > 0, "the stream has ended");
    let chunk = line + 2..line + 2 + size;
    if bytes.len() < chunk.end + 2 {
        return Ok(None);
    }
    to.extend_from_slice(&bytes[chunk.clone()]);
    Ok(Some(bytes.len() - chunk.end - 2))
}

fn is_run(event: &[u8]) -> bool {
    event.split(|&byte| byte == b'\n').any(|line| line == b"event: run")
}

fn run_event(event: &str) -> anyhow::Result<RunEvent<'_>> {
    let data = event.lines().find_map(|line| line.strip_prefix("data: ")).context("a run without data")?;
    // The first one is the event's own: the payload is the last member.
    let text = |name: &str| data.split_once(name)?.1.split('"').next();
    let number = text("\"run\":\"").and_then(run_number);
    Ok(RunEvent {
        number: number.with_context(|| format!("not a run of the load: {data}"))?,
        ack: text("\"ack\":\"").context("a run without an address for its receipt")?,
        data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_decoded_when_they_are_complete() {
        let bytes = b"5\r\nhello\r\n1A\r\nabcdefghijklmnopqrstuvwxyz\r\n";
        let mut text = Vec::new();
        assert_eq!(decode_chunk(&bytes[..9], &mut text).unwrap(), None);
        assert_eq!(decode_chunk(bytes, &mut text).unwrap(), Some(bytes.len() - 10));
        assert_eq!(decode_chunk(&bytes[10..], &mut text).unwrap(), Some(0));
        assert_eq!(text, b"helloabcdefghijklmnopqrstuvwxyz");
        assert!(decode_chunk(b"0\r\n\r\n", &mut text).is_err());
    }

    #[test]
    fn an_event_names_its_run_and_its_receipt() {
        let event = "event: run\nid: run_7\ndata: {\"run\":\"run_000000000000000000007\",\"offer\":3,\
             \"ack\":\"/v1/runs/r/ack?token=t\",\"payload\":\"{\\\"run\\\":\\\"run_1\\\"}\"}";
        assert!(is_run(event.as_bytes()));
        let run = run_event(event).unwrap();
        assert_eq!((run.number, run.ack), (7, "/v1/runs/r/ack?token=t"));
        assert!(!is_run(b"event: retired\ndata: {}"));
    }
}

//! Owns a caller: it posts Invokes as an AWS SDK does, and checks that each answer is that of its own event.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use pilotlight_bench::client::open_stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http1::body::BodyDecoder;
use crate::http1::head::Head;

/// Where callers post.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// The function's name.
    pub(super) function: &'static str,
}

/// A caller and its connection.
pub(super) struct Caller {
    target: Target,
    number: u8,
    invocations: usize,
    stream: TcpStream,
    read: Vec<u8>,
}

/// How an invocation has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered,
    /// Nobody waited for it.
    Throttled,
}

const OK: u16 = 200;
const TOO_MANY_REQUESTS: u16 = 429;

impl Caller {
    pub(super) async fn connect(target: Target, number: u8) -> anyhow::Result<Self> {
        let stream = open_stream(target.address).await?;
        Ok(Self { target, number, invocations: 0, stream, read: Vec::new() })
    }

    /// Invokes the function once. `milliseconds`: how long it sleeps before it answers.
    pub(super) async fn invoke(&mut self, milliseconds: Option<u32>) -> anyhow::Result<Outcome> {
        self.invocations += 1;
        let name = format!("caller {}, invocation {}", self.number, self.invocations);
        let request = self.target.request(&event(&name, milliseconds));
        self.stream.write_all(request.as_bytes()).await?;
        let head = Head::read(&mut self.stream, &mut self.read).await?.context("no answer")?;
        let body = self.body(&head).await?;
        let status = head.status()?;
        if head.closes() {
            self.stream = open_stream(self.target.address).await?;
        }
        if status == TOO_MANY_REQUESTS {
            return Ok(Outcome::Throttled);
        }
        // With the quote, which tells it from a longer number.
        let is_right = status == OK && memchr::memmem::find(&body, format!("{name}\"").as_bytes()).is_some();
        let error = head.field("x-amz-function-error");
        ensure!(
            is_right && error.is_none(),
            "{name}: {status}, {error:?}: {}",
            String::from_utf8_lossy(&body)
        );
        Ok(Outcome::Answered)
    }

    async fn body(&mut self, head: &Head) -> anyhow::Result<Vec<u8>> {
        let (mut decoder, mut body) = (BodyDecoder::new(head.framing()?), Vec::new());
        loop {
            let taken = decoder.decode(&self.read, |bytes| body.extend_from_slice(bytes))?;
            self.read.drain(..taken);
            if decoder == BodyDecoder::Done {
                return Ok(body);
            }
            ensure!(self.stream.read_buf(&mut self.read).await? > 0, "an answer was cut off");
        }
    }
}

fn event(name: &str, milliseconds: Option<u32>) -> String {
    match milliseconds {
        Some(milliseconds) => format!("{{\"name\":\"{name}\",\"milliseconds\":{milliseconds}}}"),
        None => format!("{{\"name\":\"{name}\"}}"),
    }
}

impl Target {
    /// What boto3 sends, with a signature that nobody checks.
    fn request(&self, event: &str) -> String {
        let Self { address, function } = self;
        let (id, length) = (invocation_id(), event.len());
        format!(
            "POST /2015-03-31/functions/{function}/invocations HTTP/1.1\r\nHost: {address}\r\nAccept-Encoding: identity\r\n\
             User-Agent: Boto3/1.44.8 md/Botocore#1.44.8 ua/2.1 os/linux md/arch#x86_64 lang/python#3.11.7 cfg/retry-mode#legacy\r\n\
             X-Amz-Date: 20261126T120000Z\r\nAuthorization: AWS4-HMAC-SHA256 Credential=example/20261126/us-east-1/lambda/aws4_request, \
             SignedHeaders=host;x-amz-date, Signature={:064x}\r\namz-sdk-invocation-id: {id}\r\namz-sdk-request: attempt=1\r\n\
             Content-Length: {length}\r\n\r\n{event}",
            0
        )
    }
}

/// A new one for each invocation: a random UUID, as SDKs make it.
fn invocation_id() -> String {
    let random = format!("{:032x}", fastrand::u128(..));
    format!("{}-{}-4{}-a{}-{}", &random[..8], &random[8..12], &random[13..16], &random[17..20], &random[20..])
}

#[cfg(test)]
mod tests {
    use pilotlight_bench::runtime::block_on_local;
    use tokio::net::TcpListener;

    use super::*;

    /// What a caller makes of this answer to its first invocation.
    fn answered(answer: &str) -> anyhow::Result<Outcome> {
        block_on_local(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let target = Target { address: listener.local_addr()?, function: "hello" };
            let answer = answer.to_owned();
            tokio::task::spawn_local(async move {
                let (mut stream, _) = listener.accept().await?;
                let head = Head::read(&mut stream, &mut Vec::new()).await;
                stream.write_all(answer.as_bytes()).await?;
                anyhow::Ok(head?.is_some())
            });
            Caller::connect(target, 7).await?.invoke(None).await
        })
    }

    #[test]
    fn only_the_answer_to_its_own_event_is_right() {
        let sized = |status: &str, fields: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n{body}", body.len())
        };
        let right = "{\"hello\":\"caller 7, invocation 1\"}";
        assert_eq!(answered(&sized("200 OK", "", right)).unwrap(), Outcome::Answered);
        let chunked = format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{right}\r\n0\r\n\r\n",
            right.len()
        );
        assert_eq!(answered(&chunked).unwrap(), Outcome::Answered);
        assert_eq!(answered(&sized("429 Too Many Requests", "", "{}")).unwrap(), Outcome::Throttled);
        for wrong in [
            sized("200 OK", "", "{\"hello\":\"caller 7, invocation 12\"}"),
            sized("200 OK", "X-Amz-Function-Error: Unhandled\r\n", right),
            sized("502 Bad Gateway", "", right),
            chunked[..chunked.len() - 5].to_owned(),
        ] {
            assert!(answered(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn invocation_ids_are_new_uuids() {
        let (one, other) = (invocation_id(), invocation_id());
        assert!(one != other && one.len() == 36 && one.as_bytes()[14] == b'4', "{one}");
    }
}

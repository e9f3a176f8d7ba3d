//! Owns a caller: it posts what it asks for, and checks that every token of the answer comes, whole and in order.

use anyhow::{Context, bail, ensure};
use pilotlight_bench::client::open_stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ask::{Answer, Ask, DONE, age_of};
use super::subject::Target;
use crate::http1::body::BodyDecoder;
use crate::http1::head::Head;

const OK: u16 = 200;

/// Bytes that are read at once: little for tokens, much for an answer of very many bytes.
const READ_TOKENS: usize = 4096;
const READ_BYTES: usize = 256 * 1024;

/// A caller and its connection.
pub(super) struct Caller {
    target: Target,
    stream: TcpStream,
    read: Vec<u8>,
    body: BodyDecoder,
    received: Received,
}

/// What a caller has of an answer.
enum Received {
    /// So many tokens, the bytes behind them, and whether the last event was `[DONE]`.
    Tokens {
        count: u32,
        behind: Vec<u8>,
        is_done: bool,
    },
    Bytes(u64),
}

impl Caller {
    pub(super) async fn connect(target: Target) -> anyhow::Result<Self> {
        let stream = open_stream(target.address).await?;
        let received = Received::Bytes(0);
        Ok(Self { target, stream, read: Vec::new(), body: BodyDecoder::Done, received })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Posts what is asked for, and reads the whole answer. `arrived` learns each token's age in nanoseconds.
    pub(super) async fn call(&mut self, ask: &Ask, mut arrived: impl FnMut(u64)) -> anyhow::Result<()> {
        self.post(ask).await?;
        let closes = self.begin(ask).await?;
        // Part of the body may have come with the head.
        self.take(ask, &mut arrived)?;
        while self.body != BodyDecoder::Done {
            self.read_more(ask).await?;
            self.take(ask, &mut arrived)?;
        }
        self.check_end(ask)?;
        if closes {
            self.stream = open_stream(self.target.address).await?;
        }
        Ok(())
    }

    /// Posts what is asked for, and reads the answer until its first token.
    pub(super) async fn call_until_first_token(&mut self, ask: &Ask) -> anyhow::Result<()> {
        self.post(ask).await?;
        self.begin(ask).await?;
        let mut tokens = 0;
        loop {
            self.take(ask, &mut |_| tokens += 1)?;
            if tokens > 0 {
                return Ok(());
            }
            self.read_more(ask).await?;
        }
    }

    /// Posts what is asked for, and reads nothing.
    pub(super) async fn post(&mut self, ask: &Ask) -> anyhow::Result<()> {
        Ok(self.stream.write_all(&self.target.request(&ask.message())).await?)
    }

    /// Reads the answer's head. Returns whether the connection ends after the answer.
    async fn begin(&mut self, ask: &Ask) -> anyhow::Result<bool> {
        let head = Head::read(&mut self.stream, &mut self.read).await?.context("no answer")?;
        self.body = BodyDecoder::new(head.framing()?);
        self.received = match ask.answer {
            Answer::Tokens { .. } => Received::Tokens { count: 0, behind: Vec::new(), is_done: false },
            Answer::Bytes(_) => Received::Bytes(0),
        };
        let status = head.status()?;
        if status != OK {
            let _ = self.stream.read_buf(&mut self.read).await;
            bail!("request {} is answered {status}: {}", ask.request, String::from_utf8_lossy(&self.read));
        }
        Ok(head.closes())
    }

    async fn read_more(&mut self, ask: &Ask) -> anyhow::Result<()> {
        let Self { stream, read, received, .. } = self;
        if read.is_empty() {
            read.reserve(match received {
                Received::Tokens { .. } => READ_TOKENS,
                Received::Bytes(_) => READ_BYTES,
            });
        }
        ensure!(stream.read_buf(read).await? > 0, "answer {} was cut off", ask.request);
        Ok(())
    }

    /// Takes what belongs to the body.
    fn take(&mut self, ask: &Ask, arrived: &mut impl FnMut(u64)) -> anyhow::Result<()> {
        let Self { read, body, received, .. } = self;
        let taken = body.decode(read, |bytes| received.append(bytes))?;
        read.drain(..taken);
        received.take_events(ask.request, arrived)
    }

    fn check_end(&self, ask: &Ask) -> anyhow::Result<()> {
        let is_whole = match (&ask.answer, &self.received) {
            (Answer::Tokens { count: asked, .. }, Received::Tokens { count, behind, is_done }) => {
                *is_done && asked == count && behind.is_empty()
            }
            (Answer::Bytes(asked), Received::Bytes(size)) => asked == size,
            _ => false,
        };
        ensure!(is_whole && self.read.is_empty(), "answer {} is not whole, or more than whole", ask.request);
        Ok(())
    }
}

impl Received {
    fn append(&mut self, bytes: &[u8]) {
        match self {
            Self::Tokens { behind, .. } => behind.extend_from_slice(bytes),
            Self::Bytes(size) => *size += bytes.len() as u64,
        }
    }

    fn take_events(&mut self, request: u32, arrived: &mut impl FnMut(u64)) -> anyhow::Result<()> {
        let Self::Tokens { count, behind, is_done } = self else { return Ok(()) };
        while let Some(end) = memchr::memmem::find(behind, b"\n\n") {
            let event: Vec<u8> = behind.drain(..end + 2).collect();
            let event = String::from_utf8(event)?;
            ensure!(!*is_done, "an event of answer {request} after its end: {event}");
            if event == DONE {
                *is_done = true;
                continue;
            }
            arrived(age_of(&event, request, *count).with_context(|| event.clone())?);
            *count += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pilotlight_bench::runtime::block_on_local;
    use tokio::net::TcpListener;

    use super::*;
    use crate::stream::ask::event;

    const ASK: Ask =
        Ask { request: 7, answer: Answer::Tokens { count: 2, delay: Duration::ZERO, hold: Duration::ZERO } };

    /// What a caller makes of this body, which ends with the connection's end.
    fn called(events: &[String]) -> anyhow::Result<Vec<u64>> {
        block_on_local(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let target = Target::of_stub(listener.local_addr()?);
            let body = events.concat();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            );
            tokio::task::spawn_local(async move {
                let (mut stream, _) = listener.accept().await?;
                let head = Head::read(&mut stream, &mut Vec::new()).await;
                stream.write_all(answer.as_bytes()).await?;
                anyhow::Ok(head?.is_some())
            });
            let mut ages = Vec::new();
            Caller::connect(target).await?.call(&ASK, |age| ages.push(age)).await?;
            Ok(ages)
        })
    }

    #[test]
    fn an_answer_that_is_not_whole_and_in_order_is_an_error() {
        let (first, second, done) = (event(7, 0), event(7, 1), DONE.to_owned());
        let whole = [first.clone(), second.clone(), done.clone()];
        assert_eq!(called(&whole).unwrap().len(), 2);
        for wrong in [
            vec![first.clone(), done.clone()],
            vec![first.clone(), second.clone()],
            vec![second.clone(), first.clone(), done.clone()],
            vec![first.clone(), first.clone(), second.clone(), done.clone()],
            vec![first.clone(), second.clone(), event(7, 2), done.clone()],
            vec![event(8, 0), event(8, 1), done.clone()],
            vec![first[..first.len() - 3].to_owned(), second.clone(), done.clone()],
            vec![first, second, done, "data: more".to_owned()],
        ] {
            assert!(called(&wrong).is_err(), "{wrong:?}");
        }
    }
}

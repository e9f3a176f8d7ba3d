//! Owns a warm worker: it polls, takes a run, opens its reply, writes it, and polls again, all on one connection.

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context, bail};
use pilotlight_bench::client::open_stream;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::answer::write_answer;
use super::ask::Ask;
use super::progress::Progress;
use super::subject::POOL;
use crate::http1::head::{Head, read_body};

const OK: u16 = 200;
const NO_CONTENT: u16 = 204;

/// Serves runs for ever.
pub(super) async fn work(broker: SocketAddr, number: usize, progress: Rc<Progress>) -> anyhow::Result<()> {
    let mut connection = open_stream(broker).await?;
    loop {
        let Some((target, ask)) = poll(&mut connection, number).await? else { continue };
        let is_written = write_reply(&mut connection, &target, &ask, &progress).await?;
        if !is_written || !is_taken(&mut connection).await {
            connection = open_stream(broker).await?;
        }
    }
}

/// Writes the reply. False if its caller has left, which one of this program does only where that is intended.
pub(super) async fn write_reply(
    connection: &mut TcpStream,
    target: &str,
    ask: &Ask,
    progress: &Progress,
) -> anyhow::Result<bool> {
    progress.writes_on(connection)?;
    let first_lines =
        format!("POST {target} HTTP/1.1\r\nhost: 127.0.0.1:7070\r\ncontent-type: text/event-stream\r\n");
    Ok(write_answer(connection, &first_lines, ask, &progress.written).await.is_ok())
}

/// Waits for a run: the target of its reply, and what it asks for. `None` if nobody came.
async fn poll(connection: &mut TcpStream, number: usize) -> anyhow::Result<Option<(String, Ask)>> {
    let poll = format!(
        "GET {POOL}?timeout=50s HTTP/1.1\r\nhost: 127.0.0.1:7070\r\npilotlight-controller: worker-{number}\r\n\
         pilotlight-reply: early\r\n\r\n"
    );
    connection.write_all(poll.as_bytes()).await?;
    let mut read = Vec::new();
    let head = Head::read(connection, &mut read).await?.context("the broker closed a poll")?;
    let run = read_body(&head, connection, &mut read).await?;
    match head.status()? {
        OK => {
            let target = head.field("pilotlight-reply").context("nobody waits for the reply")?;
            Ok(Some((target.to_owned(), Ask::parse(&run)?)))
        }
        NO_CONTENT => Ok(None),
        status => bail!("a poll is answered {status}: {}", String::from_utf8_lossy(&run)),
    }
}

/// Whether the reply was handed to its caller, and the connection can be polled on.
pub(super) async fn is_taken(connection: &mut TcpStream) -> bool {
    let mut read = Vec::new();
    let head = Head::read(connection, &mut read).await;
    matches!(head, Ok(Some(head)) if head.status().is_ok_and(|status| status == OK) && !head.closes())
}

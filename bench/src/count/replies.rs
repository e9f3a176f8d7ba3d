//! Owns the replies that are counted, one after the other: each is opened on a new connection, and comes token by token.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::participants::{CROWD, Operator, PAUSE, POOL, first_readable};
use crate::client::open_stream;
use crate::requests::{REPLY_RUN, native_poll_request, reply_request};

/// The tokens of a reply. Each is read by the caller before the next one is written.
const TOKENS: usize = 10;
const TOKEN: &[u8] = b"28\r\ndata: 00000001 00000 00000000000000000\n\n\r\n";
const END: &[u8] = b"0\r\n\r\n";

/// Lets so many runs be replied to.
pub(super) async fn reply(address: SocketAddr, operator: &mut Operator, requests: u32) -> anyhow::Result<()> {
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        let mut worker = open_stream(address).await?;
        worker.write_all(&native_poll_request(POOL, number)).await?;
        crowd.push((number, worker));
    }
    operator.wait_for_waiters(CROWD).await?;
    let mut caller = open_stream(address).await?;
    for _ in 0..requests {
        caller.write_all(&reply_request(POOL)).await?;
        let which = first_readable(|| crowd.iter().map(|(_, worker)| worker)).await;
        let (number, worker) = crowd.swap_remove(which);
        let mut worker = answer(address, worker, &mut caller).await?;
        worker.write_all(&native_poll_request(POOL, number)).await?;
        crowd.push((number, worker));
        operator.wait_for_waiters(CROWD).await?;
    }
    Ok(())
}

/// Takes the run that has come, replies to it, and returns the connection that did.
async fn answer(
    address: SocketAddr,
    mut poll: TcpStream,
    caller: &mut TcpStream,
) -> anyhow::Result<TcpStream> {
    let run = read_until(&mut poll, format!("\r\n\r\n{REPLY_RUN}").as_bytes()).await?;
    let run = String::from_utf8(run)?;
    let target = run.lines().find_map(|line| line.strip_prefix("pilotlight-reply: ")).context("no reply")?;
    // The end of the connection is the receipt, for which the broker waits already.
    sleep(PAUSE).await;
    drop(poll);
    let mut worker = open_stream(address).await?;
    sleep(PAUSE).await;
    let head = format!(
        "POST {target} HTTP/1.1\r\nhost: 127.0.0.1:7070\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    worker.write_all(head.as_bytes()).await?;
    sleep(PAUSE).await;
    for _ in 0..TOKENS {
        worker.write_all(TOKEN).await?;
        read_until(caller, TOKEN).await?;
    }
    worker.write_all(END).await?;
    read_until(caller, END).await?;
    let taken = read_until(&mut worker, b"\r\n\r\n").await?;
    ensure!(taken.starts_with(b"HTTP/1.1 200 "), "not taken: {}", taken.escape_ascii());
    Ok(worker)
}

/// Reads what comes, until it ends so.
async fn read_until(stream: &mut TcpStream, end: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut read = Vec::with_capacity(1024);
    while !read.ends_with(end) {
        ensure!(stream.read_buf(&mut read).await? > 0, "closed after {}", read.escape_ascii());
    }
    Ok(read)
}

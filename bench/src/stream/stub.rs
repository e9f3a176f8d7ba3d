//! Owns the stub behind the proxies: a server that answers each POST with what its message asks for.

use std::rc::Rc;

use anyhow::Context;
use tokio::net::{TcpListener, TcpStream};

use super::answer::write_answer;
use super::ask::Ask;
use super::progress::Progress;
use crate::http1::head::{Head, read_body};

/// Serves for ever.
pub(super) async fn serve(listener: TcpListener, progress: Rc<Progress>) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A proxy ends a connection when its caller leaves; what is missing then is missed by the caller.
        tokio::task::spawn_local(answer(stream, progress.clone()));
    }
}

async fn answer(mut stream: TcpStream, progress: Rc<Progress>) -> anyhow::Result<()> {
    let mut read = Vec::new();
    while let Some(head) = Head::read(&mut stream, &mut read).await? {
        let ask = Ask::parse(&read_body(&head, &mut stream, &mut read).await?).context("not a message")?;
        progress.writes_on(&stream)?;
        let first_lines = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
        write_answer(&mut stream, first_lines, &ask, &progress.written).await?;
    }
    Ok(())
}

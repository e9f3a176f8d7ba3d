//! Owns a warm worker that waits over a WebSocket: it takes a run, writes its reply on a connection that it keeps, and is ready again.

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Context;
use pilotlight_bench::client::open_stream;
use pilotlight_bench::requests::websocket_request_to;
use pilotlight_bench::websocket::WebSocket;

use super::ask::Ask;
use super::progress::Progress;
use super::subject::POOL;
use super::worker::{is_taken, write_reply};

/// Serves runs for ever.
pub(super) async fn work(broker: SocketAddr, number: usize, progress: Rc<Progress>) -> anyhow::Result<()> {
    let mut socket = WebSocket::open(broker, &websocket_request_to(POOL, number), 1).await?;
    // A connection on which nothing was sent is closed after a while.
    let mut kept = None;
    loop {
        let run = socket.run().await?;
        let ask = Ask::parse(run.payload)?;
        let target = run.reply.context("nobody waits for the reply")?;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => open_stream(broker).await?,
        };
        // The reply is the acknowledgement.
        let is_written = write_reply(&mut connection, &target, &ask, &progress).await?;
        if is_written && is_taken(&mut connection).await {
            kept = Some(connection);
        }
        socket.ready()?;
    }
}

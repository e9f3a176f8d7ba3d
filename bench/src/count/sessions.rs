//! Owns the runs that are pushed to sessions while they are counted, one after the other.

use std::net::SocketAddr;

use tokio::time::sleep;

use super::participants::{CROWD, Operator, PAUSE, POOL, Supervisor, first_readable};
use crate::event_stream::EventStream;
use crate::requests::{native_dispatch_request_of, set_run_number};
use crate::websocket::WebSocket;

const HIT: &[u8] = b"\"delivered\":true";

/// Pushes so many runs to WebSockets.
pub(super) async fn push_to_websockets(
    address: SocketAddr,
    operator: &mut Operator,
    requests: u32,
) -> anyhow::Result<()> {
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        crowd.push(WebSocket::connect(address, POOL, number, 1).await?);
    }
    operator.wait_for_waiters(CROWD).await?;
    let mut supervisor = supervisor(address).await?;
    for _ in 0..requests {
        supervisor.post(POOL).await?;
        let which = first_readable(|| crowd.iter().map(WebSocket::stream)).await;
        let run = crowd[which].run().await?;
        let (name, offer) = (run.name, run.offer);
        // The broker waits already when the acknowledgement comes.
        sleep(PAUSE).await;
        crowd[which].acknowledge(&name, offer)?;
        crowd[which].flush().await?;
        supervisor.expect(HIT).await?;
        operator.wait_for_waiters(CROWD).await?;
    }
    Ok(())
}

/// Pushes so many runs to streams of events.
pub(super) async fn push_to_event_streams(
    address: SocketAddr,
    operator: &mut Operator,
    requests: u32,
) -> anyhow::Result<()> {
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        let mut stream = EventStream::connect(address, POOL, number, 1).await?;
        // The connection for receipts is kept, as a client keeps it.
        stream.open_receipts().await?;
        crowd.push(stream);
    }
    operator.wait_for_waiters(CROWD).await?;
    let mut supervisor = supervisor(address).await?;
    for _ in 0..requests {
        supervisor.post(POOL).await?;
        let which = first_readable(|| crowd.iter().map(EventStream::stream)).await;
        let ack = crowd[which].run().await?.ack.to_owned();
        sleep(PAUSE).await;
        crowd[which].acknowledge(&ack).await?;
        supervisor.expect(HIT).await?;
        operator.wait_for_waiters(CROWD).await?;
    }
    Ok(())
}

async fn supervisor(address: SocketAddr) -> anyhow::Result<Supervisor<1>> {
    Supervisor::connect(address, [native_dispatch_request_of(POOL, 0)], set_run_number).await
}

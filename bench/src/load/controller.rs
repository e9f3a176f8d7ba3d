//! Owns the controllers: each waits, checks what it receives, and waits again. There is a function for each way to wait.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use pilotlight_bench::client::Client;
use pilotlight_bench::event_stream::{EventStream, RunEvent};
use pilotlight_bench::requests::{poll_request, supervisor_of};
use pilotlight_bench::websocket::WebSocket;

use super::shape::LoadShape;
use super::stats::{LoadStats, Shared};

/// Polls for ever. If a run closes its connection, the close comes before the next connection, because it is the receipt.
async fn keep_polling(server: SocketAddr, number: usize, pools: usize, tally: Shared) -> anyhow::Result<()> {
    let poll = poll_request(number % pools, number);
    let mine = format!("\"friendlyId\":\"deployment_{:04}\"", number % pools);
    let mut client = Client::connect(server).await?;
    loop {
        client.send(&poll).await?;
        let answer = client.response().await?;
        let right = memchr::memmem::find(answer.body, mine.as_bytes()).is_some();
        let closes = answer.closes;
        {
            let mut tally = tally.borrow_mut();
            tally.receipts += 1;
            tally.wrong += u64::from(!right);
        }
        if closes {
            drop(client);
            client = Client::connect(server).await?;
        }
    }
}

/// Takes runs from a WebSocket for ever. Acknowledgements of runs that came together are written together.
pub(super) async fn keep_websocket(mut socket: WebSocket, pool: usize, tally: Shared) -> anyhow::Result<()> {
    let mine = deployment(pool);
    loop {
        let run = socket.run().await?;
        let is_right = memchr::memmem::find(run.payload, mine.as_bytes()).is_some();
        tally.borrow_mut().arrived(supervisor_of(run.number()?), is_right);
        let (name, offer) = (run.name, run.offer);
        socket.acknowledge(&name, offer)?;
    }
}

/// Takes runs from a stream of events for ever.
pub(super) async fn keep_event_stream(
    mut stream: EventStream,
    pool: usize,
    tally: Shared,
) -> anyhow::Result<()> {
    let mine = deployment(pool);
    loop {
        let RunEvent { number, ack, data } = stream.run().await?;
        let is_right = memchr::memmem::find(data.as_bytes(), mine.as_bytes()).is_some();
        tally.borrow_mut().arrived(supervisor_of(number), is_right);
        let ack = ack.to_owned();
        stream.acknowledge(&ack).await?;
    }
}

fn deployment(pool: usize) -> String {
    format!("deployment_{pool:04}")
}

/// Controllers whose receipts are counted, pool by pool and broker by broker.
pub(crate) struct CountedReceipts(Shared);

/// More pools than a measurement has, so that a controller's number gives its pool.
const POOLS: usize = 1000;

impl CountedReceipts {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self(LoadStats::new()?))
    }

    /// Starts so many controllers of one pool, which poll until the runtime ends or the server does.
    pub(crate) fn start_controllers(&self, server: SocketAddr, pool: usize, count: usize) {
        for number in 0..count {
            // The port is different for each broker, and so are the controllers' numbers.
            let number = (usize::from(server.port()) * count + number) * POOLS + pool;
            tokio::task::spawn_local(keep_polling(server, number, POOLS, self.0.clone()));
        }
    }

    /// An error if a run went to the wrong pool.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let wrong = self.0.borrow().wrong;
        ensure!(wrong == 0, "{wrong} runs went to the wrong pool");
        Ok(())
    }
}

/// Starts the controllers of a load, and waits until their polls are held.
pub(super) async fn start_controllers(server: SocketAddr, shape: &LoadShape, tally: &Shared) {
    for number in 0..shape.controllers {
        tokio::task::spawn_local(keep_polling(server, number, shape.pools, tally.clone()));
    }
    tokio::time::sleep(settling_time(shape.controllers)).await;
}

/// The time until the polls of this many controllers are held.
pub(crate) fn settling_time(controllers: usize) -> Duration {
    Duration::from_millis(300) + Duration::from_micros(150) * u32::try_from(controllers).unwrap_or(u32::MAX)
}

//! Owns held waiters: connections of controllers that only wait, of each kind.

use std::net::SocketAddr;
use std::ops::Range;

use clap::ValueEnum;
use pilotlight_bench::client::Client;
use pilotlight_bench::event_stream::EventStream;
use pilotlight_bench::requests::poll_request;
use pilotlight_bench::websocket::WebSocket;

/// A way to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WaitKind {
    Poll,
    Websocket,
    EventStream,
}

impl WaitKind {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Websocket => "websocket",
            Self::EventStream => "event-stream",
        }
    }
}

/// A connection that is open for as long as this value exists.
#[expect(dead_code, reason = "only its end matters")]
pub(super) enum Held {
    Poll(Client),
    WebSocket(WebSocket),
    EventStream(EventStream),
}

/// The number of the first pool of held waiters; lower ones are those of the dispatches.
const FIRST_POOL: usize = 100;

/// Opens the waiters with these numbers, one after the other, with one slot each.
pub(super) async fn open_waiters(
    kind: WaitKind,
    server: SocketAddr,
    numbers: Range<usize>,
) -> anyhow::Result<Vec<Held>> {
    let mut crowd = Vec::with_capacity(numbers.len());
    for number in numbers {
        let (pool, controller) = (FIRST_POOL + number % 10, 1_000_000 + number);
        crowd.push(match kind {
            WaitKind::Poll => {
                let mut client = Client::connect(server).await?;
                client.send(&poll_request(pool, controller)).await?;
                Held::Poll(client)
            }
            WaitKind::Websocket => Held::WebSocket(WebSocket::connect(server, pool, controller, 1).await?),
            WaitKind::EventStream => {
                Held::EventStream(EventStream::connect(server, pool, controller, 1).await?)
            }
        });
    }
    Ok(crowd)
}

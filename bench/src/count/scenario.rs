//! Owns the requests that are counted: each is sent when the one before it has been handled wholly, so that two runs differ in
//! nothing but their number.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::time::sleep;

use super::participants::{CROWD, Operator, PAUSE, POOL, Supervisor, first_readable};
use super::replies::reply;
use super::sessions::{push_to_event_streams, push_to_websockets};
use crate::client::Client;
use crate::requests::{dispatch_request, poll_request, set_snapshot_number};
use crate::server::Server;

/// A pool in which nobody waits.
const EMPTY_POOL: usize = 1;
/// Parts of the two answers to a supervisor.
const HIT: &[u8] = b"\"didWarmStart\":true";
const MISS: &[u8] = b"\"didWarmStart\":false";

/// A kind of request.
pub struct Scenario {
    /// What is counted, as the tables name it.
    pub name: &'static str,
    /// The proof that the broker needs.
    pub proof: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    OfPolls(PollKind),
    /// A POST whose run is pushed to a WebSocket, and the acknowledgement, which makes the slot ready again.
    WebSocket,
    /// The same on a stream of events, with a POST of the receipt on another connection.
    EventStream,
    /// A POST that awaits its run's reply, the reply on a new connection, and the worker's next poll there.
    Reply,
}

#[derive(Clone, Copy)]
enum PollKind {
    /// A POST that is delivered, and the controller's next poll, on a new connection if its last one was closed.
    Dispatch,
    /// A POST for which nobody waits.
    Miss,
    /// A connection, a poll that is held, and its end by the client.
    Abort,
}

/// All that is counted.
pub static SCENARIOS: [Scenario; 7] = [
    Scenario {
        name: "dispatch, written, kept connections",
        proof: "written",
        kind: Kind::OfPolls(PollKind::Dispatch),
    },
    Scenario {
        name: "dispatch, received, a new connection each",
        proof: "received",
        kind: Kind::OfPolls(PollKind::Dispatch),
    },
    Scenario { name: "miss", proof: "written", kind: Kind::OfPolls(PollKind::Miss) },
    Scenario { name: "connect, poll, abort", proof: "written", kind: Kind::OfPolls(PollKind::Abort) },
    Scenario { name: "run pushed to a WebSocket and acknowledged", proof: "received", kind: Kind::WebSocket },
    Scenario {
        name: "run pushed to a stream of events and acknowledged",
        proof: "received",
        kind: Kind::EventStream,
    },
    Scenario { name: "reply of 10 tokens", proof: "received", kind: Kind::Reply },
];

impl Scenario {
    /// Sends so many requests, one after the other.
    pub(super) async fn send(&self, server: &Server, requests: u32) -> anyhow::Result<()> {
        let address = server.address;
        let mut operator = Operator(Client::connect(server.ops.context("no ops listener")?).await?);
        match self.kind {
            Kind::OfPolls(kind) => send_to_polls(kind, address, &mut operator, requests).await,
            Kind::WebSocket => push_to_websockets(address, &mut operator, requests).await,
            Kind::EventStream => push_to_event_streams(address, &mut operator, requests).await,
            Kind::Reply => reply(address, &mut operator, requests).await,
        }
    }
}

async fn send_to_polls(
    kind: PollKind,
    address: SocketAddr,
    operator: &mut Operator,
    requests: u32,
) -> anyhow::Result<()> {
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        crowd.push(Controller { number, client: poll(address, number).await? });
    }
    operator.wait_for_waiters(CROWD).await?;
    let mut supervisor =
        Supervisor::connect(address, [POOL, EMPTY_POOL].map(dispatch_request), set_snapshot_number).await?;
    for _ in 0..requests {
        match kind {
            PollKind::Dispatch => dispatch(address, &mut supervisor, &mut crowd).await?,
            PollKind::Miss => {
                supervisor.post(EMPTY_POOL).await?;
                supervisor.expect(MISS).await?;
            }
            PollKind::Abort => {
                let aborted = poll(address, CROWD).await?;
                operator.wait_for_waiters(CROWD + 1).await?;
                drop(aborted);
            }
        }
        operator.wait_for_waiters(CROWD).await?;
    }
    Ok(())
}

/// A new connection of a controller, whose poll is sent.
async fn poll(address: SocketAddr, number: usize) -> anyhow::Result<Client> {
    let mut client = Client::connect(address).await?;
    // The broker accepts the connection before the request comes.
    sleep(PAUSE).await;
    client.send(&poll_request(POOL, number)).await?;
    Ok(client)
}

/// Posts a run. The controller that receives it polls again when the supervisor has its answer.
async fn dispatch(
    address: SocketAddr,
    supervisor: &mut Supervisor<2>,
    crowd: &mut Vec<Controller>,
) -> anyhow::Result<()> {
    supervisor.post(POOL).await?;
    let which = first_readable(|| crowd.iter().map(|controller| controller.client.stream())).await;
    let Controller { number, mut client } = crowd.swap_remove(which);
    if client.response().await?.closes {
        // The end of the connection is the receipt, for which the broker waits already.
        sleep(PAUSE).await;
        drop(client);
        supervisor.expect(HIT).await?;
        client = poll(address, number).await?;
    } else {
        supervisor.expect(HIT).await?;
        client.send(&poll_request(POOL, number)).await?;
    }
    crowd.push(Controller { number, client });
    Ok(())
}

struct Controller {
    number: usize,
    client: Client,
}

//! Owns the requests that are counted: each is sent when the one before it has been handled wholly, so that two runs differ in
//! nothing but their number.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::time::sleep;

use crate::client::Client;
use crate::requests::{dispatch_request, poll_request, set_snapshot_number};
use crate::server::Server;

/// How many controllers wait while requests are counted, so that a pool is neither opened nor closed by each of them.
const CROWD: usize = 20;
/// The pool of the crowd, and one in which nobody waits.
const POOL: usize = 0;
const EMPTY_POOL: usize = 1;
/// Parts of the two answers to a supervisor.
const HIT: &[u8] = b"\"didWarmStart\":true";
const MISS: &[u8] = b"\"didWarmStart\":false";

/// A client pauses before what the broker might otherwise see earlier in one run and later in another. The broker needs less
/// time than this under valgrind to handle what came before.
const PAUSE: Duration = Duration::from_millis(5);

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
    /// A POST that is delivered, and the controller's next poll, on a new connection if its last one was closed.
    Dispatch,
    /// A POST for which nobody waits.
    Miss,
    /// A connection, a poll that is held, and its end by the client.
    Abort,
}

/// All that is counted.
pub const SCENARIOS: [Scenario; 4] = [
    Scenario { name: "dispatch, written, kept connections", proof: "written", kind: Kind::Dispatch },
    Scenario { name: "dispatch, received, a new connection each", proof: "received", kind: Kind::Dispatch },
    Scenario { name: "miss", proof: "written", kind: Kind::Miss },
    Scenario { name: "connect, poll, abort", proof: "written", kind: Kind::Abort },
];

impl Scenario {
    /// Sends so many requests, one after the other.
    pub(super) async fn send(&self, server: &Server, requests: u32) -> anyhow::Result<()> {
        let address = server.address;
        let mut operator = Operator(Client::connect(server.ops.context("no ops listener")?).await?);
        let mut crowd = Vec::new();
        for number in 0..CROWD {
            crowd.push(Controller { number, client: poll(address, number).await? });
        }
        operator.wait_for_waiters(CROWD).await?;
        let mut supervisor = Supervisor { client: Client::connect(address).await?, sent: 0 };
        for _ in 0..requests {
            match self.kind {
                Kind::Dispatch => dispatch(address, &mut supervisor, &mut crowd).await?,
                Kind::Miss => {
                    supervisor.post(EMPTY_POOL).await?;
                    supervisor.expect(MISS).await?;
                }
                Kind::Abort => {
                    let aborted = poll(address, CROWD).await?;
                    operator.wait_for_waiters(CROWD + 1).await?;
                    drop(aborted);
                }
            }
            operator.wait_for_waiters(CROWD).await?;
        }
        Ok(())
    }
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
    supervisor: &mut Supervisor,
    crowd: &mut Vec<Controller>,
) -> anyhow::Result<()> {
    supervisor.post(POOL).await?;
    let Controller { number, mut client } = crowd.swap_remove(first_readable(crowd).await);
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

/// Waits until one of them can be read from, and returns its index.
async fn first_readable(crowd: &[Controller]) -> usize {
    poll_fn(|context| {
        let mut streams = crowd.iter().map(|controller| controller.client.stream());
        let first = streams.position(|stream| stream.poll_read_ready(context).is_ready());
        first.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

struct Controller {
    number: usize,
    client: Client,
}

struct Supervisor {
    client: Client,
    sent: u64,
}

impl Supervisor {
    async fn post(&mut self, pool: usize) -> anyhow::Result<()> {
        let mut request = dispatch_request(pool);
        set_snapshot_number(&mut request, self.sent);
        self.sent += 1;
        self.client.send(&request).await
    }

    async fn expect(&mut self, answer: &[u8]) -> anyhow::Result<()> {
        let body = self.client.response().await?.body;
        ensure!(
            memchr::memmem::find(body, answer).is_some(),
            "not expected: {}",
            String::from_utf8_lossy(body)
        );
        Ok(())
    }
}

/// A connection to the ops listener, which another thread serves than those that are counted.
struct Operator(Client);

impl Operator {
    async fn wait_for_waiters(&mut self, expected: usize) -> anyhow::Result<()> {
        loop {
            self.0.send(b"GET /pools HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
            let pools: Value = serde_json::from_slice(self.0.response().await?.body)?;
            if pools["waiters"] == expected {
                return Ok(());
            }
        }
    }
}

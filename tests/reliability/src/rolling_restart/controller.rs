//! Owns one controller that behaves as the stock one: what keeps it, what sends it elsewhere, and what makes it exit.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::ledger::Ledger;
use crate::fleet::unix_micros;
use pilotlight_bench::client::Client;
use pilotlight_bench::requests::{poll_request_from, run_and_pool};

/// The controllers of a cluster.
pub(super) struct Controllers {
    /// Where they connect.
    pub(super) address: SocketAddr,
    /// When they end a poll, as `/connect` says.
    pub(super) poll_timeout: Duration,
    pub(super) pools: usize,
    pub(super) ledger: Rc<Ledger>,
}

/// How often `/connect` is tried, and the time between two tries.
const CONNECT_TRIES: u32 = 3;
const CONNECT_PAUSE: Duration = Duration::from_millis(200);
/// As many redirects are followed for one poll; one more is taken as an error of the network.
const MAX_REDIRECTS: u32 = 20;
/// The longest pause before another try doubles from a second up to this.
const MAX_BACKOFF: Duration = Duration::from_secs(8);
/// How long a run takes at most.
const RUN_TIME: u64 = 300;
/// Machines that the controllers are on.
const MACHINES: usize = 8;

const CONNECT: &[u8] =
    b"GET /connect HTTP/1.1\r\nhost: 127.0.0.1:7070\r\nconnection: keep-alive\r\naccept: */*\r\nuser-agent: node\r\n\r\n";

/// How a poll ended.
enum PollEnd {
    /// With a run.
    Run,
    /// With nothing, and the controller polls again at once.
    Again,
    /// The controller exits.
    Exit,
}

/// Asks how to wait, waits, runs what it gets, and so on, until a response makes it exit.
pub(super) async fn run(controllers: Rc<Controllers>, number: usize) {
    let mut kept = None;
    loop {
        if !may_wait(&controllers, &mut kept).await {
            return controllers.ledger.exited(number, "/connect failed three times");
        }
        loop {
            match poll(&controllers, number, &mut kept).await {
                PollEnd::Run => break,
                PollEnd::Again => {}
                PollEnd::Exit => return,
            }
        }
        sleep(Duration::from_millis(fastrand::u64(20..RUN_TIME))).await;
    }
}

/// Asks `/connect`. False if that fails as often as makes a stock controller exit.
async fn may_wait(controllers: &Controllers, kept: &mut Option<Client>) -> bool {
    for _ in 0..CONNECT_TRIES {
        if let Ok(client) = connection(controllers.address, kept).await
            && ask(client, CONNECT, kept).await == Some(200)
        {
            return true;
        }
        sleep(CONNECT_PAUSE).await;
    }
    false
}

/// Sends a request and returns the status. The connection is kept if it can be used again.
async fn ask(mut client: Client, request: &[u8], kept: &mut Option<Client>) -> Option<u16> {
    client.send(request).await.ok()?;
    let answer = client.response().await.ok()?;
    let (status, closes) = (answer.status, answer.closes);
    *kept = (!closes).then_some(client);
    Some(status)
}

async fn connection(address: SocketAddr, kept: &mut Option<Client>) -> anyhow::Result<Client> {
    match kept.take().filter(|client| !client.is_closed()) {
        Some(client) => Ok(client),
        None => Client::connect(address).await,
    }
}

/// One poll: redirects are followed and errors of the network repeated, until a run comes or the timeout passes.
async fn poll(controllers: &Controllers, number: usize, kept: &mut Option<Client>) -> PollEnd {
    let until = Instant::now() + controllers.poll_timeout;
    let (mut redirects, mut failures) = (0, 0_u32);
    loop {
        let attempt = attempt(controllers, number, kept);
        let Ok(status) = timeout(until.saturating_duration_since(Instant::now()), attempt).await else {
            controllers.ledger.poll_ended(number, None);
            return PollEnd::Again;
        };
        match status {
            Some(200) => return PollEnd::Run,
            Some(307) if redirects < MAX_REDIRECTS => redirects += 1,
            None | Some(307) => {
                redirects = 0;
                controllers.ledger.cut();
                let most = Duration::from_secs(1 << failures.min(3)).min(MAX_BACKOFF);
                failures += 1;
                sleep(most.mul_f64(fastrand::f64())).await;
                if Instant::now() >= until {
                    return PollEnd::Again;
                }
            }
            Some(status) => {
                controllers.ledger.exited(number, &format!("a poll was answered {status}"));
                return PollEnd::Exit;
            }
        }
    }
}

/// Sends the poll once. Returns the status of the response, `None` without one.
async fn attempt(controllers: &Controllers, number: usize, kept: &mut Option<Client>) -> Option<u16> {
    let pool = number % controllers.pools;
    let mut client = connection(controllers.address, kept).await.ok()?;
    let poll = poll_request_from(&format!("worker_{}", number % MACHINES), pool, number);
    client.send(&poll).await.ok()?;
    controllers.ledger.poll_sent(number, pool);
    let Ok(answer) = client.response().await else {
        controllers.ledger.poll_ended(number, None);
        return None;
    };
    let at = unix_micros();
    let (status, closes) = (answer.status, answer.closes);
    match (status, run_and_pool(answer.body)) {
        (200, Some((run, of))) => controllers.ledger.received(number, run, of == pool, at),
        _ => controllers.ledger.poll_ended(number, Some(status)),
    }
    // The end of the connection is the receipt.
    *kept = (!closes).then_some(client);
    Some(status)
}

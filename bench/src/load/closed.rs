//! Owns the closed loop: supervisors that post, wait for the answer, and post again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pilotlight_bench::client::Client;
use pilotlight_bench::requests::{dispatch_request, health_request, request_number, set_snapshot_number};
use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::server::Server;

use super::controller::start_controllers;
use super::measurement::Measurement;
use super::shape::LoadShape;
use super::stats::{LoadStats, Measured, Shared, check_forwarded_receipts, check_receipts, measure_for};

/// Runs dispatches in a closed loop.
pub(crate) fn dispatch(server: &Server, shape: &LoadShape) -> anyhow::Result<Measurement> {
    let tally = LoadStats::new()?;
    let measured = Measured { servers: &[server], nats: None };
    let figures = dispatch_all(&measured, server.address, server.address, shape, &tally)?;
    check_receipts(&tally)?;
    Ok(figures)
}

/// The same with controllers that wait at one address, and supervisors that post to another.
pub(crate) fn dispatch_between(
    measured: &Measured<'_>,
    waiting_at: SocketAddr,
    posted_to: SocketAddr,
    shape: &LoadShape,
) -> anyhow::Result<Measurement> {
    let tally = LoadStats::new()?;
    let figures = dispatch_all(measured, waiting_at, posted_to, shape, &tally)?;
    Ok(Measurement { surplus: check_forwarded_receipts(&tally)?, ..figures })
}

fn dispatch_all(
    measured: &Measured<'_>,
    waiting_at: SocketAddr,
    posted_to: SocketAddr,
    shape: &LoadShape,
    tally: &Shared,
) -> anyhow::Result<Measurement> {
    block_on_local(async {
        start_controllers(waiting_at, shape, tally).await;
        let posts: Vec<Vec<u8>> = (0..shape.pools).map(dispatch_request).collect();
        run_supervisors(measured, posted_to, shape, posts, "\"didWarmStart\":true", tally).await
    })
}

/// Requests the health route in a closed loop, for which gateways publish figures.
pub(crate) fn health(server: &Server, shape: &LoadShape) -> anyhow::Result<Measurement> {
    let tally = LoadStats::new()?;
    let address = server.ops.unwrap_or(server.address);
    let measured = Measured { servers: &[server], nats: None };
    block_on_local(run_supervisors(&measured, address, shape, vec![health_request()], "ok", &tally))
}

async fn run_supervisors(
    measured: &Measured<'_>,
    address: SocketAddr,
    shape: &LoadShape,
    requests: Vec<Vec<u8>>,
    success: &'static str,
    tally: &Shared,
) -> anyhow::Result<Measurement> {
    let supervisors: Vec<_> = (0..shape.supervisors)
        .map(|number| {
            let work = supervisor(address, number, requests.clone(), success, tally.clone());
            tokio::task::spawn_local(work)
        })
        .collect();
    let figures = measure_for(measured, tally, shape.seconds).await?;
    for supervisor in supervisors {
        supervisor.await??;
    }
    // The last receipts have not arrived yet.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(figures)
}

/// Sends requests until the load is over; a response that contains `success` is a hit.
async fn supervisor(
    address: SocketAddr,
    number: usize,
    mut requests: Vec<Vec<u8>>,
    success: &'static str,
    tally: Shared,
) -> anyhow::Result<()> {
    let mut client = Client::connect(address).await?;
    for round in number.. {
        let which = round % requests.len();
        set_snapshot_number(&mut requests[which], request_number(number, round));
        let begun = Instant::now();
        client.send(&requests[which]).await?;
        let answer = client.response().await?;
        let hit = memchr::memmem::find(answer.body, success.as_bytes()).is_some();
        let closes = answer.closes;
        tally.borrow_mut().answered(hit, begun);
        if tally.borrow().over {
            break;
        }
        if closes {
            client = Client::connect(address).await?;
        }
    }
    Ok(())
}

/// Puts the standard load on a server for ever, and reports the number of dispatches after every `period`.
pub(crate) fn load_forever(address: SocketAddr, period: Duration, say: impl Fn(u64)) -> anyhow::Result<()> {
    let tally = LoadStats::new()?;
    let shape = LoadShape::standard(0.0);
    block_on_local(async {
        start_controllers(address, &shape, &tally).await;
        let posts: Vec<Vec<u8>> = (0..shape.pools).map(dispatch_request).collect();
        for number in 0..shape.supervisors {
            tokio::task::spawn_local(supervisor(address, number, posts.clone(), "", tally.clone()));
        }
        loop {
            tokio::time::sleep(period).await;
            say(tally.borrow().hits);
        }
    })
}

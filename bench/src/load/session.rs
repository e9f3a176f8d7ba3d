//! Owns the load on sessions: controllers that wait on WebSockets or streams of events, acknowledge each run, and are ready again;
//! supervisors that post, wait for the answer, and post again.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::bail;
use pilotlight_bench::client::Client;
use pilotlight_bench::event_stream::EventStream;
use pilotlight_bench::requests::{native_dispatch_request_of, request_number, set_run_number};
use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::server::Server;
use pilotlight_bench::websocket::WebSocket;
use tokio::task::JoinHandle;

use super::controller::{keep_event_stream, keep_websocket, settling_time};
use super::held::WaitKind;
use super::measurement::Measurement;
use super::stats::{LoadStats, Measured, Shared, check_receipts, measure_for};

/// The shape of a load on sessions.
#[derive(Debug, Clone)]
pub(crate) struct SessionShape {
    pub(crate) sessions: usize,
    /// Slots of each session.
    pub(crate) slots: usize,
    pub(crate) supervisors: usize,
    pub(crate) pools: usize,
    /// Seconds that are measured, after a warm-up of 1.5 s.
    pub(crate) seconds: f64,
}

/// Pushes runs to sessions of a kind in a closed loop.
pub(crate) fn sessions(server: &Server, kind: WaitKind, shape: &SessionShape) -> anyhow::Result<Measurement> {
    let tally = LoadStats::new()?;
    block_on_local(async {
        let mut controllers = Vec::with_capacity(shape.sessions);
        for number in 0..shape.sessions {
            controllers.push(open_session(server.address, kind, shape, number, &tally).await?);
        }
        tokio::time::sleep(settling_time(shape.sessions)).await;
        let supervisors: Vec<_> = (0..shape.supervisors)
            .map(|number| {
                tokio::task::spawn_local(supervisor(server.address, number, shape.pools, tally.clone()))
            })
            .collect();
        let measured = Measured { servers: &[server], nats: None };
        let figures = measure_for(&measured, &tally, shape.seconds).await?;
        for supervisor in supervisors {
            supervisor.await??;
        }
        // A controller ends only with an error.
        for controller in controllers.into_iter().filter(JoinHandle::is_finished) {
            controller.await??;
        }
        check_receipts(&tally)?;
        Ok(figures)
    })
}

/// Opens a session, and starts the task that takes its runs.
async fn open_session(
    server: SocketAddr,
    kind: WaitKind,
    shape: &SessionShape,
    number: usize,
    tally: &Shared,
) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
    let (pool, tally) = (number % shape.pools, tally.clone());
    match kind {
        WaitKind::Poll => bail!("a poll is not a session"),
        WaitKind::Websocket => {
            let socket = WebSocket::connect(server, pool, number, shape.slots).await?;
            Ok(tokio::task::spawn_local(keep_websocket(socket, pool, tally)))
        }
        WaitKind::EventStream => {
            let stream = EventStream::connect(server, pool, number, shape.slots).await?;
            Ok(tokio::task::spawn_local(keep_event_stream(stream, pool, tally)))
        }
    }
}

/// Posts to the pools in turn until the load is over.
async fn supervisor(server: SocketAddr, number: usize, pools: usize, tally: Shared) -> anyhow::Result<()> {
    let mut posts: Vec<Vec<u8>> = (0..pools).map(|pool| native_dispatch_request_of(pool, 0)).collect();
    let mut client = Client::connect(server).await?;
    for round in number.. {
        let post = &mut posts[round % pools];
        set_run_number(post, request_number(number, round));
        let begun = Instant::now();
        tally.borrow_mut().posts(number);
        client.send(post).await?;
        let answer = client.response().await?;
        let is_hit = memchr::memmem::find(answer.body, b"\"delivered\":true").is_some();
        let mut tally = tally.borrow_mut();
        tally.answered(is_hit, begun);
        if tally.over {
            break;
        }
    }
    Ok(())
}

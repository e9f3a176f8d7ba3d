//! Owns the closed loop: controllers that poll, supervisors that post, every delivery checked, figures at the end.

mod peer;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use hdrhistogram::Histogram;
use tokio::task::LocalSet;

use crate::say;
use crate::server::Server;
use peer::{Peer, message, poll};

/// What the load is made of.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// What a `true` needs; with `received` every run takes a new connection
    #[arg(long, default_value = "written")]
    proof: String,
    #[arg(long, default_value_t = 500)]
    controllers: usize,
    #[arg(long, default_value_t = 50)]
    supervisors: usize,
    #[arg(long, default_value_t = 10)]
    pools: usize,
    /// Seconds that are counted, after two that are not
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Further arguments for the broker
    #[arg(last = true)]
    broker: Vec<String>,
}

const WARM_UP: Duration = Duration::from_secs(2);

/// What supervisors were told and controllers received.
struct Tally {
    took: Histogram<u64>,
    hits: u64,
    misses: u64,
    receipts: u64,
    wrong: u64,
    counting: bool,
    over: bool,
}

type Shared = Rc<RefCell<Tally>>;

/// Runs the closed loop once.
pub(crate) fn dispatch(options: &Options) -> anyhow::Result<()> {
    let mut arguments = vec!["--threads", "1", "--proof", &options.proof];
    arguments.extend(options.broker.iter().map(String::as_str));
    let server = Server::start(&arguments)?;
    let took = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    let tally = Rc::new(RefCell::new(Tally {
        took,
        hits: 0,
        misses: 0,
        receipts: 0,
        wrong: 0,
        counting: false,
        over: false,
    }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (cpu, took) = LocalSet::new().block_on(&runtime, measure(&server, options, &tally))?;
    report(&tally.borrow(), options, cpu, took)
}

async fn measure(server: &Server, options: &Options, tally: &Shared) -> anyhow::Result<(Duration, Duration)> {
    for number in 0..options.controllers {
        tokio::task::spawn_local(controller(server.address, number, options.pools, tally.clone()));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let supervisors: Vec<_> = (0..options.supervisors)
        .map(|number| {
            tokio::task::spawn_local(supervisor(server.address, number, options.pools, tally.clone()))
        })
        .collect();
    tokio::time::sleep(WARM_UP).await;
    let (cpu, begun) = (server.cpu()?, Instant::now());
    tally.borrow_mut().counting = true;
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    tally.borrow_mut().counting = false;
    let used = (server.cpu()?.saturating_sub(cpu), begun.elapsed());
    tally.borrow_mut().over = true;
    for supervisor in supervisors {
        supervisor.await??;
    }
    // The last receipts are on their way.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(used)
}

async fn controller(
    broker: std::net::SocketAddr,
    number: usize,
    pools: usize,
    tally: Shared,
) -> anyhow::Result<()> {
    let poll = poll(number % pools, number);
    let mine = format!("\"friendlyId\":\"deployment_{:04}\"", number % pools);
    let mut peer = Peer::connect(broker).await?;
    loop {
        peer.send(&poll).await?;
        let answer = peer.answer().await?;
        let right = memchr::memmem::find(answer.body, mine.as_bytes()).is_some();
        let closes = answer.closes;
        {
            let mut tally = tally.borrow_mut();
            tally.receipts += 1;
            tally.wrong += u64::from(!right);
        }
        if closes {
            // The end is the receipt: it comes before anything else.
            drop(peer);
            peer = Peer::connect(broker).await?;
        }
    }
}

async fn supervisor(
    broker: std::net::SocketAddr,
    number: usize,
    pools: usize,
    tally: Shared,
) -> anyhow::Result<()> {
    let mut peer = Peer::connect(broker).await?;
    let posts: Vec<Vec<u8>> = (0..pools).map(message).collect();
    for round in number.. {
        let begun = Instant::now();
        peer.send(&posts[round % pools]).await?;
        let hit = memchr::memmem::find(peer.answer().await?.body, b"\"didWarmStart\":true").is_some();
        let mut tally = tally.borrow_mut();
        tally.hits += u64::from(hit);
        tally.misses += u64::from(!hit);
        if tally.counting {
            tally.took.saturating_record(u64::try_from(begun.elapsed().as_micros())?);
        }
        if tally.over {
            break;
        }
    }
    Ok(())
}

fn report(tally: &Tally, options: &Options, cpu: Duration, took: Duration) -> anyhow::Result<()> {
    let Tally { took: latency, hits, misses, receipts, wrong, .. } = tally;
    let dispatches = latency.len();
    ensure!(dispatches > 0, "nothing was dispatched");
    let each = cpu / u32::try_from(dispatches)?;
    let [p50, p99, p999] = [50.0, 99.0, 99.9].map(|percent| latency.value_at_percentile(percent));
    say(&format!(
        "{:>9}  {:>7} dispatches/s  {:>5.1} µs CPU each  p50 {p50} µs  p99 {p99} µs  p99.9 {p999} µs  misses {misses}\n",
        options.proof,
        u128::from(dispatches) * 1000 / took.as_millis(),
        each.as_secs_f64() * 1e6,
    ));
    ensure!(*wrong == 0, "{wrong} runs went to the wrong pool");
    ensure!(hits == receipts, "{hits} answered true, {receipts} received");
    Ok(())
}

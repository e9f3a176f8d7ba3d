//! Owns the storm test: requests of every kind, many of them malformed, over very many connections, and the checks after it.
//!
//! Each connection's script depends on the seed and its number alone, so that any of them can be repeated.

mod canary;
mod connection;
mod grammar;

use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::stdout::print;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use tokio::task::spawn_local;

use canary::Canary;
use connection::{Transcript, run_script};
use grammar::ConnectionScript;
use pilotlight_bench::implementation::Implementation;
use pilotlight_bench::server::Server;

/// Options of the storm test.
#[derive(Debug, Clone, Args)]
pub(crate) struct StormOptions {
    #[arg(long, default_value_t = 10_000_000)]
    requests: u64,
    /// The same seed makes the same requests; without it, a random one is chosen and printed
    #[arg(long)]
    seed: Option<u64>,
    /// How many connections are open at once
    #[arg(long, default_value_t = 256)]
    at_once: usize,
    /// Repeats one connection by its number, and prints both sides of it
    #[arg(long)]
    only: Option<u64>,
    /// The broker's level of proof: written, acked or received
    #[arg(long, default_value = "written")]
    proof: String,
    /// Further arguments for the broker
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// This fraction of the requests is sent before memory is measured, to fill bounded buffers such as the history.
const WARM_UP_SHARE: u64 = 10;
const MIN_WARM_UP: u64 = 200_000;
/// How long the broker may take to return memory, and how often that is waited for.
const SETTLING: Duration = Duration::from_secs(3);
const SETTLING_ROUNDS: usize = 10;
/// What it may use afterwards, in percent of what it used before.
const MAX_GROWTH_PERCENT: u64 = 110;
/// The statuses that the broker may answer. A 500 would be a bug in it.
const STATUSES: [u16; 18] =
    [100, 200, 204, 307, 400, 401, 403, 404, 405, 408, 410, 413, 414, 415, 417, 429, 431, 501];

/// Counts of requests and responses so far.
#[derive(Debug, Default)]
struct StormStats {
    /// The number of the latest script.
    next: u64,
    requests: u64,
    conversations: u64,
    statuses: BTreeMap<u16, u64>,
    ends: BTreeMap<&'static str, u64>,
    /// Connections with a wrong status, or with too few or too many responses.
    wrong: Vec<String>,
}

type Shared = Rc<RefCell<StormStats>>;

/// Runs the test; an error if the broker misbehaved or did not release what it used.
pub(crate) fn run(shape: &StormOptions) -> anyhow::Result<()> {
    let proof = ["written", "acked", "received"].into_iter().find(|&proof| proof == shape.proof);
    let implementation = Implementation::pilotlight(proof.context("a proof is written, acked or received")?)?
        .with(&shape.arguments);
    let seed = shape.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let (server, stderr) = Server::start_with_stderr(&implementation)?;
    block_on_local(async {
        if let Some(number) = shape.only {
            return show(&server, seed, number).await;
        }
        run_storm(&server, shape, seed).await
    })?;
    let stderr = stderr.lock().map_err(|_| anyhow::anyhow!("the thread that reads stderr panicked"))?;
    let panics: Vec<_> = stderr.iter().filter(|line| line.contains("panicked")).collect();
    ensure!(panics.is_empty(), "the broker panicked: {panics:#?}");
    Ok(())
}

async fn run_storm(server: &Server, shape: &StormOptions, seed: u64) -> anyhow::Result<()> {
    let tally = Shared::default();
    let guard = Canary::start(server.address).await?;
    send_requests(server, shape, seed, (shape.requests / WARM_UP_SHARE).max(MIN_WARM_UP), &tally).await?;
    tokio::time::sleep(SETTLING).await;
    let before = ResourceUsage::read(server)?;
    let first = tally.take();
    tally.borrow_mut().next = first.next;
    let begun = Instant::now();
    send_requests(server, shape, seed, shape.requests, &tally).await?;
    let took = begun.elapsed();
    let peak = ResourceUsage::read(server)?;
    let after = wait_for_release(server, &before).await?;
    let posted = guard.post_its_run(server.address).await;
    let said = report(&tally.borrow(), seed, took);
    print(&said);
    print(&format!("memory and descriptors: {before} before, {peak} at the end, {after} after\n"));
    print(&format!("the canary {}\n", posted?));
    let wrong = &tally.borrow().wrong;
    ensure!(
        wrong.is_empty(),
        "{} wrong conversations, among them: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(20)]
    );
    ensure!(after.is_back_at(&before), "resources are not released: {before} before, {after} after");
    Ok(())
}

/// Keeps the connections busy until this many requests have been sent.
async fn send_requests(
    server: &Server,
    shape: &StormOptions,
    seed: u64,
    requests: u64,
    tally: &Shared,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let talkers: Vec<_> = (0..shape.at_once)
        .map(|_| spawn_local(run_connections(server.address, seed, requests, tally.clone())))
        .collect();
    let mut said = Instant::now();
    while tally.borrow().requests < requests {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            let (done, seconds) = (tally.borrow().requests, begun.elapsed().as_secs());
            print(&format!("  {done} requests after {seconds} s\n"));
        }
        ensure!(
            talkers.iter().any(|talker| !talker.is_finished()) || tally.borrow().requests >= requests,
            "all connections failed"
        );
    }
    for talker in talkers {
        talker.await??;
    }
    Ok(())
}

async fn run_connections(
    address: std::net::SocketAddr,
    seed: u64,
    requests: u64,
    tally: Shared,
) -> anyhow::Result<()> {
    while tally.borrow().requests < requests {
        let number = {
            let mut tally = tally.borrow_mut();
            tally.next += 1;
            tally.next
        };
        let conversation = ConnectionScript::new(seed, number);
        let heard = run_script(address, &conversation)
            .await
            .context("the broker does not accept connections any more")?;
        tally.borrow_mut().record(number, &conversation, &heard);
    }
    Ok(())
}

impl StormStats {
    fn record(&mut self, number: u64, conversation: &ConnectionScript, heard: &Transcript) {
        self.conversations += 1;
        self.requests += conversation.requests();
        *self.ends.entry(heard.end).or_default() += 1;
        for status in &heard.statuses {
            *self.statuses.entry(*status).or_default() += 1;
            if !STATUSES.contains(status) {
                self.wrong.push(format!("conversation {number}: {status}"));
            }
        }
        if let Some(expected) = conversation.expected_responses
            && heard.statuses.len() != expected
        {
            let count = heard.statuses.len();
            self.wrong.push(format!("conversation {number}: {count} answers of {expected}, {}", heard.end));
        }
    }
}

fn report(tally: &StormStats, seed: u64, took: Duration) -> String {
    let StormStats { requests, conversations, statuses, ends, .. } = tally;
    let rate = |count: u64| {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        count * 1000 / millis
    };
    let answers: u64 = statuses.values().sum();
    let listed: Vec<_> = statuses.iter().map(|(status, count)| format!("{status} × {count}")).collect();
    let ended: Vec<_> = ends.iter().map(|(end, count)| format!("{end} × {count}")).collect();
    format!(
        "seed {seed}: {requests} requests in {conversations} connections, {:.1} s: {} requests/s, {} answers/s\n\
         answers: {}\nends: {}\n",
        took.as_secs_f64(),
        rate(*requests),
        rate(answers),
        listed.join(", "),
        ended.join(", ")
    )
}

/// The memory and the descriptors that the broker uses.
struct ResourceUsage {
    resident: u64,
    descriptors: usize,
}

impl ResourceUsage {
    fn read(server: &Server) -> anyhow::Result<Self> {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", server.pid()))?.count();
        Ok(Self { resident: server.resident()?, descriptors })
    }

    fn is_back_at(&self, before: &Self) -> bool {
        let within = |now: u64, then: u64| now * 100 <= then * MAX_GROWTH_PERCENT;
        within(self.resident, before.resident) && within(self.descriptors as u64, before.descriptors as u64)
    }
}

impl std::fmt::Display for ResourceUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} KiB and {}", self.resident / 1024, self.descriptors)
    }
}

/// Waits until the usage is back at `before`, or the time for that is over.
async fn wait_for_release(server: &Server, before: &ResourceUsage) -> anyhow::Result<ResourceUsage> {
    let mut room = ResourceUsage::read(server)?;
    for _ in 0..SETTLING_ROUNDS {
        tokio::time::sleep(SETTLING).await;
        room = ResourceUsage::read(server)?;
        if room.is_back_at(before) {
            break;
        }
    }
    Ok(room)
}

async fn show(server: &Server, seed: u64, number: u64) -> anyhow::Result<()> {
    let conversation = ConnectionScript::new(seed, number);
    for part in &conversation.parts {
        print(&format!("> {}\n", part.escape_ascii()));
    }
    let heard = run_script(server.address, &conversation).await?;
    print(&format!("< {}\n{}, {:?}\n", heard.bytes.escape_ascii(), heard.end, heard.statuses));
    Ok(())
}

//! Owns the rounds: all implementations alternate, so that a noisy minute affects all of them alike.

use std::time::{Duration, Instant};

use pilotlight_bench::implementation::Implementation;
use pilotlight_bench::server::{self, Server};
use pilotlight_bench::stdout::print;

use super::alternate::alternate;
use super::counted::Counted;
use super::results::{Results, Series, median_of};
use super::scope::ReportScope;
use super::sessions;
use crate::allocations;
use crate::load::{self, ChurnResult, CrowdResult, HoldResult, LoadShape, Measurement, WaitKind};

pub(super) fn run(plan: &ReportScope, peers: &[&'static str]) -> anyhow::Result<Results> {
    let fast: Vec<&'static str> = peers.iter().copied().filter(|&name| name != "node-sqlite").collect();
    let closed = closed(plan, peers)?;
    let capacity = median_of(closed.iter().find(|series| series.name == "pilotlight"), |f| f.rate);
    let few: Vec<&'static str> =
        peers.iter().copied().filter(|name| ["floor", "bun"].contains(name)).collect();
    let pilotlight = || Implementation::pilotlight("written");
    Ok(Results {
        fresh: fresh(plan, &few)?,
        open: series(plan, "open loop", &implementations(&few, &["written"], false)?, |server| {
            load::open(server, &LoadShape::standard(plan.seconds), (capacity / 2.0).min(25_000.0))
        })?,
        health: series(plan, "health", &implementations(&few, &["written"], false)?, |server| {
            load::health(server, &LoadShape::standard(plan.seconds))
        })?,
        growth: growth(plan)?,
        threads: threads(plan)?,
        held: held(plan, &fast)?,
        churned: churned(plan, &few)?,
        beyond: beyond(plan)?,
        sessions: sessions::measure(&plan.sessions, peers.contains(&"bun"))?,
        ready: start_up(&pilotlight()?)?,
        binary: std::fs::metadata(pilotlight()?.program)?.len(),
        allocations: allocations::count()?.text(),
        calls: calls(),
        counted: plan.full.then(Counted::new).transpose()?,
        closed,
    })
}

fn implementations(
    peers: &[&'static str],
    proofs: &[&'static str],
    fresh: bool,
) -> anyhow::Result<Vec<Implementation>> {
    let peers = peers.iter().map(|&name| Implementation::peer(name, fresh));
    peers.chain(proofs.iter().map(|&proof| Implementation::pilotlight(proof))).collect()
}

fn closed(plan: &ReportScope, peers: &[&'static str]) -> anyhow::Result<Vec<Series>> {
    let implementations = implementations(peers, &["written", "acked"], false)?;
    series(plan, "closed loop", &implementations, |server| {
        load::dispatch(server, &LoadShape::standard(plan.seconds))
    })
}

fn fresh(plan: &ReportScope, peers: &[&'static str]) -> anyhow::Result<Vec<Series>> {
    let implementations = implementations(peers, &["received"], true)?;
    series(plan, "a new connection per run", &implementations, |server| {
        load::dispatch(server, &LoadShape::standard(plan.seconds))
    })
}

fn series(
    plan: &ReportScope,
    what: &str,
    implementations: &[Implementation],
    measure: impl Fn(&Server) -> anyhow::Result<Measurement>,
) -> anyhow::Result<Vec<Series>> {
    let names: Vec<&'static str> = implementations.iter().map(|implementation| implementation.name).collect();
    alternate(plan.rounds, what, &names, |place| measure(&Server::start(&implementations[place])?))
}

fn growth(plan: &ReportScope) -> anyhow::Result<Vec<Series>> {
    // Few enough that the broker does not close connections because of its limit.
    let many = LoadShape { controllers: 17_000, pools: 5_000, ..LoadShape::standard(plan.seconds) };
    let shapes = [LoadShape::standard(plan.seconds), many];
    alternate(plan.rounds, "growth", &["500 waiters in 10 pools", "17,000 waiters in 5,000 pools"], |place| {
        load::dispatch(&Server::start(&Implementation::pilotlight("written")?)?, &shapes[place])
    })
}

fn threads(plan: &ReportScope) -> anyhow::Result<Vec<Series>> {
    alternate(plan.rounds, "threads", &["1 thread", "2 threads"], |place| {
        let mut implementation = Implementation::pilotlight("written")?;
        let threads = ["1", "2"][place];
        implementation.arguments = ["--proof", "written", "--threads", threads].map(str::to_owned).to_vec();
        server::unpin()?;
        load::dispatch(&Server::start_unpinned(&implementation)?, &LoadShape::standard(plan.seconds))
    })
}

fn held(plan: &ReportScope, peers: &[&'static str]) -> anyhow::Result<Vec<(&'static str, Vec<HoldResult>)>> {
    let mut all = Vec::new();
    for implementation in implementations(peers, &["written"], false)? {
        let mut points = Vec::new();
        for &count in &plan.held_counts {
            // The memory after the end takes a while to settle, so it is measured once, and for pilotlight only.
            let settle = implementation.is_pilotlight && plan.held_counts.last() == Some(&count);
            let held = load::hold(&Server::start(&implementation)?, WaitKind::Poll, count, settle)?;
            print(&format!("  {} held: {} at {:.0} B each\n", count, implementation.name, held.user));
            points.push(held);
        }
        all.push((implementation.name, points));
    }
    Ok(all)
}

fn churned(plan: &ReportScope, peers: &[&'static str]) -> anyhow::Result<Vec<(&'static str, ChurnResult)>> {
    print("churn\n");
    let peers: Vec<&'static str> = peers.iter().copied().filter(|&name| name == "bun").collect();
    let mut all = Vec::new();
    for implementation in implementations(&peers, &["written"], false)? {
        // A tenth of the polls is enough to show the slope of a peer.
        let polls = if implementation.is_pilotlight { plan.churn } else { plan.churn / 10 };
        all.push((implementation.name, load::churn(&Server::start(&implementation)?, polls)?));
    }
    Ok(all)
}

fn beyond(plan: &ReportScope) -> anyhow::Result<Option<CrowdResult>> {
    let Some((brokers, each)) = plan.beyond else { return Ok(None) };
    print(&format!("{} polls on {brokers} brokers\n", brokers * each));
    load::crowd(&Implementation::pilotlight("written")?, brokers, each, plan.seconds).map(Some)
}

/// The median time from the start to the greeting, over several starts.
fn start_up(implementation: &Implementation) -> anyhow::Result<Duration> {
    let mut times =
        (0..9).map(|_| Ok(Server::start(implementation)?.ready_after)).collect::<anyhow::Result<Vec<_>>>()?;
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// System calls per dispatch, if strace is installed to count them.
fn calls() -> Option<String> {
    let server = Server::start(&Implementation::pilotlight("written").ok()?).ok()?;
    let pid = server.pid().to_string();
    let counter = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(3));
        let begun = Instant::now();
        let output = std::process::Command::new("timeout")
            .args(["--signal=INT", "2", "strace", "-f", "-c", "-U", "calls,name", "-p", &pid])
            .output();
        (begun.elapsed(), output)
    });
    let figures = load::dispatch(&server, &LoadShape::standard(5.0));
    let (_, output) = counter.join().ok()?;
    figures.ok()?;
    let table = String::from_utf8(output.ok()?.stderr).ok()?;
    let rows: Vec<(f64, &str)> = table
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .filter_map(|(calls, name)| Some((calls.parse().ok()?, name.trim())))
        .filter(|(_, name)| *name != "total")
        .collect();
    // Each dispatch writes twice.
    let dispatches = rows
        .iter()
        .filter(|(_, name)| *name == "sendto" || *name == "writev")
        .map(|(calls, _)| calls)
        .sum::<f64>()
        / 2.0;
    let each = rows.iter().map(|(calls, name)| format!("{name} {:.2}", calls / dispatches));
    (dispatches > 0.0).then(|| each.collect::<Vec<_>>().join(", "))
}

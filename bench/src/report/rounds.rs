//! Owns the rounds: every subject in turn, again and again, so that a noisy minute falls on all of them alike.

use std::time::{Duration, Instant};

use super::Plan;
use crate::allocations;
use crate::load::{self, Churned, Crowd, Figures, Held, Shape};
use crate::say;
use crate::server::{self, Server};
use crate::subject::Subject;

/// One subject's rounds, in the order in which all subjects had them.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) rounds: Vec<Figures>,
}

/// All that was measured.
pub(super) struct Results {
    pub(super) closed: Vec<Series>,
    pub(super) fresh: Vec<Series>,
    pub(super) open: Vec<Series>,
    pub(super) health: Vec<Series>,
    /// 500 waiters in 10 pools, and many in many.
    pub(super) growth: Vec<Series>,
    /// Unpinned, with one thread and with two.
    pub(super) threads: Vec<Series>,
    pub(super) held: Vec<(&'static str, Vec<Held>)>,
    pub(super) churned: Vec<(&'static str, Churned)>,
    pub(super) beyond: Option<Crowd>,
    pub(super) ready: Duration,
    pub(super) binary: u64,
    pub(super) allocations: String,
    pub(super) calls: Option<String>,
}

pub(super) fn run(plan: &Plan, peers: &[&'static str]) -> anyhow::Result<Results> {
    let fast: Vec<&'static str> = peers.iter().copied().filter(|&name| name != "node-sqlite").collect();
    let closed = closed(plan, peers)?;
    let capacity = super::text::median(closed.iter().find(|series| series.name == "pilotlight"), |f| f.rate);
    let few: Vec<&'static str> =
        peers.iter().copied().filter(|name| ["floor", "bun"].contains(name)).collect();
    let pilotlight = || Subject::pilotlight("written");
    Ok(Results {
        fresh: fresh(plan, &few)?,
        open: series(plan, "open loop", &subjects(&few, &["written"], false)?, |server| {
            load::open(server, &Shape::usual(plan.seconds), (capacity / 2.0).min(25_000.0))
        })?,
        health: series(plan, "health", &subjects(&few, &["written"], false)?, |server| {
            load::health(server, &Shape::usual(plan.seconds))
        })?,
        growth: growth(plan)?,
        threads: threads(plan)?,
        held: held(plan, &fast)?,
        churned: churned(plan, &few)?,
        beyond: beyond(plan)?,
        ready: start_up(&pilotlight()?)?,
        binary: std::fs::metadata(pilotlight()?.program)?.len(),
        allocations: allocations::count()?.text(),
        calls: calls(),
        closed,
    })
}

fn subjects(peers: &[&'static str], proofs: &[&'static str], fresh: bool) -> anyhow::Result<Vec<Subject>> {
    let peers = peers.iter().map(|&name| Subject::peer(name, fresh));
    peers.chain(proofs.iter().map(|&proof| Subject::pilotlight(proof))).collect()
}

fn closed(plan: &Plan, peers: &[&'static str]) -> anyhow::Result<Vec<Series>> {
    let subjects = subjects(peers, &["written", "acked"], false)?;
    series(plan, "closed loop", &subjects, |server| load::dispatch(server, &Shape::usual(plan.seconds)))
}

fn fresh(plan: &Plan, peers: &[&'static str]) -> anyhow::Result<Vec<Series>> {
    let subjects = subjects(peers, &["received"], true)?;
    series(plan, "a new connection per run", &subjects, |server| {
        load::dispatch(server, &Shape::usual(plan.seconds))
    })
}

fn series(
    plan: &Plan,
    what: &str,
    subjects: &[Subject],
    measure: impl Fn(&Server) -> anyhow::Result<Figures>,
) -> anyhow::Result<Vec<Series>> {
    let names: Vec<&'static str> = subjects.iter().map(|subject| subject.name).collect();
    alternate(plan, what, &names, |place| measure(&Server::start(&subjects[place])?))
}

/// Gives each its turn in each round.
fn alternate(
    plan: &Plan,
    what: &str,
    names: &[&'static str],
    measure: impl Fn(usize) -> anyhow::Result<Figures>,
) -> anyhow::Result<Vec<Series>> {
    let mut all: Vec<Series> = names.iter().map(|&name| Series { name, rounds: Vec::new() }).collect();
    for round in 1..=plan.rounds {
        say(&format!("{what}, round {round} of {}\n", plan.rounds));
        for (place, series) in all.iter_mut().enumerate() {
            let figures = measure(place)?;
            say(&format!("  {}", figures.line(series.name)));
            series.rounds.push(figures);
        }
    }
    Ok(all)
}

fn growth(plan: &Plan) -> anyhow::Result<Vec<Series>> {
    // Few enough that the broker does not end connections to make room.
    let many = Shape { controllers: 17_000, pools: 5_000, ..Shape::usual(plan.seconds) };
    let shapes = [Shape::usual(plan.seconds), many];
    alternate(plan, "growth", &["500 waiters in 10 pools", "17,000 waiters in 5,000 pools"], |place| {
        load::dispatch(&Server::start(&Subject::pilotlight("written")?)?, &shapes[place])
    })
}

fn threads(plan: &Plan) -> anyhow::Result<Vec<Series>> {
    alternate(plan, "threads", &["1 thread", "2 threads"], |place| {
        let mut subject = Subject::pilotlight("written")?;
        let threads = ["1", "2"][place];
        subject.arguments = ["--proof", "written", "--threads", threads].map(str::to_owned).to_vec();
        server::unpin()?;
        load::dispatch(&Server::start_anywhere(&subject)?, &Shape::usual(plan.seconds))
    })
}

fn held(plan: &Plan, peers: &[&'static str]) -> anyhow::Result<Vec<(&'static str, Vec<Held>)>> {
    let mut all = Vec::new();
    for subject in subjects(peers, &["written"], false)? {
        let mut points = Vec::new();
        for &count in &plan.crowds {
            // What remains after the end is waited for once, of the broker itself.
            let settle = subject.is_pilotlight && plan.crowds.last() == Some(&count);
            let held = load::hold(&Server::start(&subject)?, count, settle)?;
            say(&format!("  {} held: {} at {:.0} B each\n", count, subject.name, held.user));
            points.push(held);
        }
        all.push((subject.name, points));
    }
    Ok(all)
}

fn churned(plan: &Plan, peers: &[&'static str]) -> anyhow::Result<Vec<(&'static str, Churned)>> {
    say("churn\n");
    let peers: Vec<&'static str> = peers.iter().copied().filter(|&name| name == "bun").collect();
    let mut all = Vec::new();
    for subject in subjects(&peers, &["written"], false)? {
        // The peer shows its shape sooner than a million polls.
        let polls = if subject.is_pilotlight { plan.churn } else { plan.churn / 10 };
        all.push((subject.name, load::churn(&Server::start(&subject)?, polls)?));
    }
    Ok(all)
}

fn beyond(plan: &Plan) -> anyhow::Result<Option<Crowd>> {
    let Some((brokers, each)) = plan.beyond else { return Ok(None) };
    say(&format!("{} polls on {brokers} brokers\n", brokers * each));
    load::crowd(&Subject::pilotlight("written")?, brokers, each, plan.seconds).map(Some)
}

/// From the start to the greeting, the median of some.
fn start_up(subject: &Subject) -> anyhow::Result<Duration> {
    let mut times =
        (0..9).map(|_| Ok(Server::start(subject)?.ready_after)).collect::<anyhow::Result<Vec<_>>>()?;
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// System calls per dispatch, if strace is here to count them.
fn calls() -> Option<String> {
    let server = Server::start(&Subject::pilotlight("written").ok()?).ok()?;
    let pid = server.pid().to_string();
    let counter = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(3));
        let begun = Instant::now();
        let output = std::process::Command::new("timeout")
            .args(["--signal=INT", "2", "strace", "-f", "-c", "-U", "calls,name", "-p", &pid])
            .output();
        (begun.elapsed(), output)
    });
    let figures = load::dispatch(&server, &Shape::usual(5.0));
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
    let dispatches =
        rows.iter().filter(|(_, name)| name.starts_with("write")).map(|(calls, _)| calls).sum::<f64>() / 2.0;
    let each = rows.iter().map(|(calls, name)| format!("{name} {:.2}", calls / dispatches));
    (dispatches > 0.0).then(|| each.collect::<Vec<_>>().join(", "))
}

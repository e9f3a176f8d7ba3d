//! Owns the cost of observability: dispatches with a history, with scrapes, or with subscribers that do not read, compared
//! with none of them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use pilotlight_bench::implementation::Implementation;
use pilotlight_bench::server::Server;
use pilotlight_bench::stdout::print;

use crate::load::{self, LoadShape, Measurement};

/// How a broker is observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    Not,
    History,
    Scraped,
    SlowReaders,
}

const WAYS: [Watched; 4] = [Watched::Not, Watched::History, Watched::Scraped, Watched::SlowReaders];
const SLOW_READERS: usize = 100;

/// Runs alternating rounds of all ways, at a rate or as fast as possible.
pub(crate) fn compare(rounds: usize, seconds: f64, rate: Option<f64>) -> anyhow::Result<()> {
    let mut all = vec![Vec::new(); WAYS.len()];
    for round in 0..rounds {
        // Each round begins with another way.
        for place in 0..WAYS.len() {
            let way = (round + place) % WAYS.len();
            let (figures, note) = measure(WAYS[way], seconds, rate)?;
            print(&figures.line(&format!("{:?}", WAYS[way])));
            print(&note);
            all[way].push(figures);
        }
    }
    let ratio = |way: usize, of: fn(&Measurement) -> f64| {
        load::median(all[way].iter().zip(&all[0]).map(|(one, base)| of(one) / of(base)).collect())
    };
    for (way, watched) in WAYS.iter().enumerate() {
        print(&format!(
            "{watched:?}: per second × {:.3}, CPU × {:.3}, p50 × {:.3}, p99 × {:.3} (medians of {rounds} rounds)\n",
            ratio(way, |f| f.rate),
            ratio(way, |f| f.cpu),
            ratio(way, |f| f.p50),
            ratio(way, |f| f.p99),
        ));
    }
    Ok(())
}

fn measure(watched: Watched, seconds: f64, rate: Option<f64>) -> anyhow::Result<(Measurement, String)> {
    let file = std::env::temp_dir().join(format!("pilotlight-bench-{}.db", std::process::id()));
    let mut implementation = Implementation::pilotlight("written")?;
    if watched == Watched::History {
        implementation = implementation.with(&["--history".to_owned(), file.display().to_string()]);
    }
    let server = Server::start(&implementation)?;
    let ops = server.ops.context("pilotlight has an ops listener")?;
    let over = Arc::new(AtomicBool::new(false));
    let flag = over.clone();
    let watcher = match watched {
        Watched::Not | Watched::History => None,
        Watched::Scraped => Some(std::thread::spawn(move || scrape(ops, &flag))),
        Watched::SlowReaders => Some(std::thread::spawn(move || read_slowly(ops, &flag))),
    };
    let shape = LoadShape::standard(seconds);
    let figures = match rate {
        Some(rate) => load::open(&server, &shape, rate),
        None => load::dispatch(&server, &shape),
    };
    over.store(true, Ordering::Relaxed);
    if let Some(watcher) = watcher {
        let _ = watcher.join();
    }
    let note = counts(ops).unwrap_or_default();
    drop(server);
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", file.display()));
    }
    Ok((figures?, note))
}

/// Scrapes once a second, more often than Prometheus does.
fn scrape(ops: SocketAddr, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let _ = get(ops, "/metrics");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Subscribers to all events that read nothing. One that is disconnected reconnects within a second, as a browser does.
fn read_slowly(ops: SocketAddr, over: &AtomicBool) {
    let mut readers: Vec<TcpStream> = Vec::new();
    while !over.load(Ordering::Relaxed) {
        readers.retain(|reader| {
            reader.set_nonblocking(true).is_ok()
                && !matches!(reader.peek(&mut [0]), Ok(0))
                && reader.take_error().is_ok_and(|e| e.is_none())
        });
        while readers.len() < SLOW_READERS {
            let Ok(mut reader) = TcpStream::connect(ops) else { break };
            let _ = reader.write_all(b"GET /events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
            readers.push(reader);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn get(ops: SocketAddr, target: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(ops)?;
    stream.write_all(
        format!("GET {target} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The counters of dropped records, and of dispatches.
fn counts(ops: SocketAddr) -> std::io::Result<String> {
    let text = get(ops, "/metrics")?;
    let names = [
        "pilotlight_history_dropped_total",
        "pilotlight_events_dropped_total",
        "pilotlight_events_cut_off_total",
    ];
    let hits = "pilotlight_dispatches_total{outcome=\"hit\"";
    let lines =
        text.lines().filter(|line| names.iter().any(|name| line.starts_with(name)) || line.starts_with(hits));
    Ok(format!("  {}\n", lines.collect::<Vec<_>>().join(", ")))
}

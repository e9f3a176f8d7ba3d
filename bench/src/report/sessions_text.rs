//! Owns the report's text about sessions: their targets, their tables, and what was published.

use std::fmt::Write;

use super::results::{Series, SessionResults, median_of, median_ratio};
use super::sessions::{MANY, ONE};
use crate::load::{HoldResult, Measurement, median};

/// The whole section.
pub(super) fn section(results: &SessionResults) -> String {
    let mut text = format!(
        "{HEADING}\n\
         A run is pushed to a waiting session and acknowledged, then its POST is answered, and the slot is ready again: proof `received`. Times are from the POST \
         to its answer, and from the POST to the moment when the controller has read the run; ratios are to Bun's with the same transport.\n\n\
         | what | target | reached |\n|---|---|---|\n",
    );
    for [what, wanted, reached] in targets(results) {
        let _ = writeln!(text, "| {what} | {wanted} | **{reached}** |");
    }
    for (load, all) in &results.loads {
        let _ = writeln!(text, "\n### {load}\n");
        text.push_str(&table(all));
    }
    text.push_str(&held(&results.held));
    text.push_str(PUBLISHED);
    text.push_str("\n![Sessions](plots/sessions.svg)\n![Held sessions](plots/held-sessions.svg)\n");
    text
}

pub(super) const HEADING: &str = "\n## WebSockets and streams of events\n";

const PUBLISHED: &str = "\nPublished of WebSocket servers, on another machine and under another load: 1.2 million connections (Bun) against 680,000 (Node, `ws`); \
    0.4 ms per message against 0.9 ms.\n";

/// Runs that are pushed and acknowledged for each second of the server's CPU time.
pub(super) fn per_cpu_second(figures: &Measurement) -> f64 {
    1e6 / figures.cpu
}

fn targets(results: &SessionResults) -> [[String; 3]; 4] {
    let times = |load: &str, of: fn(&Measurement) -> f64, text: &dyn Fn(f64, f64, f64) -> String| {
        let load = results.loads.iter().find(|(name, _)| *name == load);
        let find = |name: &str| load.and_then(|(_, all)| all.iter().find(|series| series.name == name));
        let (ours, bun) = (find("pilotlight, WebSocket"), find("Bun, WebSocket"));
        text(median_ratio(ours, bun, of), median_of(ours, of), median_of(bun, of))
    };
    let bytes = |of: &str| {
        let each = |server: &str| {
            let held = results.held.iter().find(|(name, _)| *name == format!("{server}, {of}"));
            held.map_or(f64::NAN, |(_, held)| resident(held))
        };
        let count = results.held.iter().find_map(|(_, held)| Some(held.first()?.count)).unwrap_or(0);
        let (bun, node) = (each("Bun"), each("Node"));
        format!("{:.0} at {count}; Bun {bun:.0}, Node {node:.0}", each("pilotlight"))
    };
    let row = |what: &str, wanted: &str, reached| [what.to_owned(), wanted.to_owned(), reached];
    [
        row(
            "p50 of a run pushed and acknowledged over one WebSocket, one at a time",
            "below Bun's",
            times(ONE, |f| f.p50, &|ratio, ours, bun| format!("{ratio:.2} ×: {ours:.0} µs, Bun {bun:.0} µs")),
        ),
        row(
            "runs per CPU second, 500 WebSockets",
            "≥ 1.5 × Bun's",
            times(MANY, per_cpu_second, &|ratio, ours, bun| format!("{ratio:.2} ×: {ours:.0}, Bun {bun:.0}")),
        ),
        row("resident bytes per held WebSocket", "≤ 1,500 at 19,000", bytes("WebSocket")),
        row("resident bytes per held stream of events", "≤ 1,300 at 19,000", bytes("events")),
    ]
}

fn table(all: &[Series]) -> String {
    let mut text = String::from(
        "| | runs per CPU second | × Bun's | CPU µs each | p50 µs | × Bun's | p99 µs | read after p50 µs | p99 µs | runs per second | load's CPU µs |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for series in all {
        let transport = series.name.rsplit(' ').next().unwrap_or_default();
        let bun = all.iter().find(|series| series.name == format!("Bun, {transport}"));
        let of = |of: fn(&Measurement) -> f64| median_of(Some(series), of);
        let cpu = || series.rounds.iter().map(per_cpu_second);
        let _ = writeln!(
            text,
            "| {} | {:.0} ({:.0}–{:.0}) | {:.2} | {:.1} | {:.0} | {:.2} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} |",
            series.name,
            of(per_cpu_second),
            cpu().fold(f64::MAX, f64::min),
            cpu().fold(0.0, f64::max),
            median_ratio(Some(series), bun, per_cpu_second),
            of(|f| f.cpu),
            of(|f| f.p50),
            median_ratio(Some(series), bun, |f| f.p50),
            of(|f| f.p99),
            of(|f| f.arrival_p50),
            of(|f| f.arrival_p99),
            of(|f| f.rate),
            of(|f| f.own_cpu),
        );
    }
    text
}

/// Resident bytes per held session, the median of the rounds.
pub(super) fn resident(held: &[HoldResult]) -> f64 {
    median(held.iter().map(|held| held.user).collect())
}

fn held(all: &[(&'static str, Vec<HoldResult>)]) -> String {
    let mut text = String::from(
        "\n### Sessions that only wait\n\n| | held | bytes each | kernel, both ends |\n|---|---|---|---|\n",
    );
    for (name, held) in all {
        let count = held.first().map_or(0, |held| held.count);
        let kernel = median(held.iter().map(|held| held.kernel).collect());
        let _ = writeln!(text, "| {name} | {count} | {:.0} | {kernel:.0} |", resident(held));
    }
    text
}

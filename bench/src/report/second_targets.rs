//! Owns the second table of targets: those that were set when everything had been measured on slower machines, where the
//! broker stood then, and what was reached.

use super::counted::Counted;
use super::results::{Results, Series, median_ratio};
use crate::load::Measurement;

const NOT_MEASURED: &str = "not in this mode";

/// What, where it stood, the target, the extreme target, and what was reached.
type Row = [String; 5];

/// The rows of the table.
pub(super) fn rows(results: &Results) -> Vec<Row> {
    counted(results).into_iter().chain(timed(results)).chain(sizes(results)).collect()
}

fn row(what: &str, was: &str, wanted: &str, extreme: &str, reached: &str) -> Row {
    [what, was, wanted, extreme, reached].map(str::to_owned)
}

fn counted(results: &Results) -> [Row; 2] {
    let reached = |text: &dyn Fn(&Counted) -> String| match &results.counted {
        None => NOT_MEASURED.to_owned(),
        Some(counted) => counted.requests.as_ref().map_or_else(Clone::clone, |_| text(counted)),
    };
    let (kept, fresh) = ("dispatch, written", "dispatch, received");
    [
        row(
            "user instructions per dispatch, written, kept connections",
            "59,000",
            "≤ 25,000",
            "≤ 15,000",
            &reached(&|counted| format!("{:.0}", counted.figure(kept, |counts| counts.instructions))),
        ),
        row(
            "heap allocations per dispatch, written / received",
            "21 / –",
            "≤ 5 / ≤ 9",
            "≤ 2 / ≤ 5",
            &reached(&|counted| {
                let figure = |which| counted.figure(which, |counts| counts.allocations);
                format!("{:.1} / {:.1}", figure(kept), figure(fresh))
            }),
        ),
    ]
}

fn timed(results: &Results) -> [Row; 4] {
    let ratio = |all: &[Series], name: &str, base: &str, of: fn(&Measurement) -> f64| {
        let find = |name: &str| all.iter().find(|series| series.name == name);
        format!("{:.2} ×", median_ratio(find(name), find(base), of))
    };
    let (kept, fresh) = (&results.closed, &results.fresh);
    [
        row(
            "CPU per dispatch, written, kept connections",
            "2.6–3.9 × floor",
            "≤ 1.7 ×",
            "≤ 1.4 ×",
            &ratio(kept, "pilotlight", "floor", |f| f.cpu),
        ),
        row(
            "dispatches per second, the same",
            "1.7 × Bun",
            "≥ 2.5 ×",
            "≥ 4 ×",
            &ratio(kept, "pilotlight", "bun", |f| f.rate),
        ),
        row(
            "CPU per run, received, a new connection each",
            "1.67 × floor",
            "≤ 1.4 ×",
            "≤ 1.25 ×",
            &ratio(fresh, "pilotlight, received", "floor", |f| f.cpu),
        ),
        row(
            "POST p99 in the closed loop",
            "2.2 × floor's",
            "≤ 1.4 ×",
            "≤ 1.2 ×",
            &ratio(kept, "pilotlight", "floor", |f| f.p99),
        ),
    ]
}

fn sizes(results: &Results) -> [Row; 2] {
    let held = results.held.iter().find(|(name, _)| *name == "pilotlight").map(|(_, points)| points);
    let points = held.into_iter().flatten().rev();
    let held: Vec<_> = points.map(|point| format!("{:.0} at {}", point.user, point.count)).collect();
    let lock = results.counted.as_ref().map(|counted| format!("{:.0} µs", counted.longest_hold()));
    [
        row(
            "resident bytes per held connection, at 19,000 / at 1,000",
            "1,001 / 1,642",
            "≤ 850 / ≤ 1,200",
            "≤ 750",
            &held.join(", "),
        ),
        row(
            "the core's lock held at most, 100,000 waiters, CPU time",
            "5 ms and more",
            "≤ 100 µs",
            "",
            lock.as_deref().unwrap_or(NOT_MEASURED),
        ),
    ]
}

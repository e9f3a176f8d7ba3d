//! Owns the table of targets and the values that were reached.

use std::fmt::Write;

use super::results::{Results, Series, median_of, median_ratio};
use super::second_targets;
use crate::load::median;

/// One row: the target, the extreme target, and the value that was reached.
struct Target {
    what: &'static str,
    wanted: &'static str,
    extreme: &'static str,
    reached: String,
}

/// The table of all targets.
pub(super) fn table(results: &Results) -> String {
    let mut text = String::from("## Targets\n\n| what | target | extreme | reached |\n|---|---|---|---|\n");
    for Target { what, wanted, extreme, reached } in speed(results).into_iter().chain(size(results)) {
        let _ = writeln!(text, "| {what} | {wanted} | {extreme} | **{reached}** |");
    }
    text.push_str("\n### Half the cycles, and no stalls\n\n| what | was | target | extreme | reached |\n|---|---|---|---|---|\n");
    for [what, was, wanted, extreme, reached] in second_targets::rows(results) {
        let _ = writeln!(text, "| {what} | {was} | {wanted} | {extreme} | **{reached}** |");
    }
    text
}

fn speed(results: &Results) -> Vec<Target> {
    let find = |all: &'static str, name: &str| {
        let all = if all == "closed" { &results.closed } else { &results.fresh };
        all.iter().find(|series| series.name == name).cloned()
    };
    let closed = |name: &str| find("closed", name);
    let fresh = |name: &str| find("fresh", name);
    let (ours, floor, bun, node) = (closed("pilotlight"), closed("floor"), closed("bun"), closed("node-map"));
    let (received, floor_fresh) = (fresh("pilotlight, received"), fresh("floor"));
    let (ours, floor, bun) = (ours.as_ref(), floor.as_ref(), bun.as_ref());
    let open = results.open.iter().find(|series| series.name == "pilotlight");
    let times =
        |series: Option<&Series>, base, of: fn(&_) -> f64| format!("{:.2} ×", median_ratio(series, base, of));
    let target = |what, wanted, extreme, reached| Target { what, wanted, extreme, reached };
    vec![
        target(
            "CPU per dispatch, proof written, kept connections",
            "≤ 1.35 × floor",
            "≤ 1.10 ×",
            times(ours, floor, |f| f.cpu),
        ),
        target(
            "dispatches per second, the same",
            "≥ 2.2 × Bun, ≥ 5 × node Map",
            "≥ 2.8 × Bun",
            format!(
                "{:.1} × Bun, {:.1} × node Map",
                median_ratio(ours, bun, |f| f.rate),
                median_ratio(ours, node.as_ref(), |f| f.rate)
            ),
        ),
        target(
            "CPU per run, proof received, a new connection each",
            "≤ 1.6 × floor in that regime",
            "below Bun's kept connections without proof",
            format!(
                "{}; {:.1} µs, Bun {:.1} µs",
                times(received.as_ref(), floor_fresh.as_ref(), |f| f.cpu),
                median_of(received.as_ref(), |f| f.cpu),
                median_of(bun, |f| f.cpu)
            ),
        ),
        target("POST p99 in the closed loop", "≤ 1.4 × floor's", "≤ 1.2 ×", times(ours, floor, |f| f.p99)),
        target(
            "open loop at half of the capacity",
            "p50 ≤ 60 µs, p99 ≤ 400 µs",
            "p99 ≤ 200 µs",
            format!("p50 {:.0} µs, p99 {:.0} µs", median_of(open, |f| f.p50), median_of(open, |f| f.p99)),
        ),
        target(
            "growth: 17,000 waiters in 5,000 pools against 500 in 10",
            "≤ 1.3 × CPU per dispatch",
            "≤ 1.1 ×",
            times(results.growth.get(1), results.growth.first(), |f| f.cpu),
        ),
    ]
}

fn size(results: &Results) -> Vec<Target> {
    let held = results.held.iter().find(|(name, _)| *name == "pilotlight").and_then(|(_, held)| held.last());
    let churned = results.churned.iter().find(|(name, _)| *name == "pilotlight").map(|(_, churned)| churned);
    let beyond = results.beyond.as_ref().map(|beyond| {
        let p99 = median(beyond.figures.iter().map(|figures| figures.p99).collect());
        format!("{} held, p99 {:.1} ms", beyond.held, p99 / 1e3)
    });
    let mebibytes = |bytes: f64| bytes / 1_048_576.0;
    let closed = held.map(|held| {
        let (after, idle) = (held.after_close, held.idle);
        format!("{:.2} × ({:.1} MiB, idle {:.1})", after / idle, mebibytes(after), mebibytes(idle))
    });
    let megabytes = f64::from(u32::try_from(results.binary).unwrap_or(0)) / 1e6;
    let target = |what, wanted, extreme, reached: Option<String>| {
        let reached = reached.unwrap_or_else(|| "not in this mode".to_owned());
        Target { what, wanted, extreme, reached }
    };
    vec![
        target(
            "resident bytes per held connection",
            "≤ 1,000 at 19,000",
            "≤ 800",
            held.map(|held| format!("{:.0} at {}", held.user, held.count)),
        ),
        target("100,000 held", "held, dispatch p99 ≤ 5 ms", "", beyond),
        target(
            "churn, 1,000,000 connect, poll, abort",
            "flat, registry empty",
            "",
            churned.map(|churned| {
                format!(
                    "{:.2} B left by a poll, {} waiters left",
                    churned.slope(),
                    churned.waiters.unwrap_or(0)
                )
            }),
        ),
        target("resident 10 s after a mass close of 19,000", "≤ 1.5 × idle", "", closed),
        target(
            "binary, start to ready",
            "≤ 15 MB, ≤ 50 ms",
            "",
            Some(format!("{megabytes:.1} MB, {:.0} ms", results.ready.as_secs_f64() * 1e3)),
        ),
    ]
}

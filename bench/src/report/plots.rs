//! Owns the plots: SVG that is readable on white and on black.

use std::fmt::Write;

use super::lambda_text;
use super::results::{Results, Series, SessionResults, median_of, median_ratio};
use super::sessions::MANY;
use super::sessions_text::{per_cpu_second, resident};
use super::streams_text;
use crate::lambda::{LambdaResults, Round};
use crate::load::Measurement;
use crate::stream::{ALL_CALLERS, PhaseFigures, StreamResults};

const WIDTH: f64 = 760.0;
const INK: &str = "#7d8590";
const OURS: &str = "#f08c2e";
const THEIRS: &str = "#5b8def";
const COLOURS: [&str; 6] = ["#5b8def", "#3fb27f", "#b07fe0", "#d9607a", "#8a8f98", OURS];

/// Every plot with its file's name.
pub(super) fn all(results: &Results) -> Vec<(&'static str, String)> {
    let floor = results.closed.iter().find(|series| series.name == "floor");
    let bar = |of: fn(&Measurement) -> f64| move |series: &Series| (series.name, median_of(Some(series), of));
    let rates: Vec<_> = results.closed.iter().map(bar(|f| f.rate)).collect();
    let cpu: Vec<_> =
        results.closed.iter().map(|s| (s.name, median_ratio(Some(s), floor, |f| f.cpu))).collect();
    let latency: Vec<_> = results.closed.iter().map(bar(|f| f.p99)).collect();
    let held: Vec<_> = results
        .held
        .iter()
        .map(|(name, held)| {
            (*name, held.iter().map(|h| (f64::from(u32::try_from(h.count).unwrap_or(0)), h.user)).collect())
        })
        .collect();
    let churned: Vec<_> = results
        .churned
        .iter()
        .map(|(name, churned)| (*name, churned.samples.iter().map(|(x, y)| (*x, y / 1_048_576.0)).collect()))
        .collect();
    let mut plots = vec![
        ("throughput.svg", bars("Dispatches per second, one core (more is better)", &rates, 0)),
        ("cpu.svg", bars("CPU per dispatch, as a multiple of the floor (less is better)", &cpu, 2)),
        ("latency.svg", bars("POST p99 in the closed loop, µs (less is better)", &latency, 0)),
        ("memory.svg", lines("Resident bytes per held connection", "held connections", &held)),
        ("churn.svg", lines("Resident MiB while polls connect and abort", "polls", &churned)),
    ];
    plots.extend(of_sessions(&results.sessions));
    plots
}

/// Those of the sessions.
pub(super) fn of_sessions(sessions: &SessionResults) -> [(&'static str, String); 2] {
    let many = sessions.loads.iter().find(|(load, _)| *load == MANY);
    let pushed: Vec<_> = many
        .into_iter()
        .flat_map(|(_, all)| all.iter().map(|series| (series.name, median_of(Some(series), per_cpu_second))))
        .collect();
    let held_sessions: Vec<_> = sessions.held.iter().map(|(name, held)| (*name, resident(held))).collect();
    [
        (
            "sessions.svg",
            bars("Runs pushed and acknowledged per CPU second, 500 sessions (more is better)", &pushed, 0),
        ),
        ("held-sessions.svg", bars("Resident bytes per held session (less is better)", &held_sessions, 0)),
    ]
}

/// Those of streamed answers.
pub(super) fn of_streams(results: &StreamResults) -> [(&'static str, String); 2] {
    let all = |of: fn(&PhaseFigures) -> f64| -> Vec<_> {
        let of_server = |name| streams_text::median_of(results, name, ALL_CALLERS, of);
        results.phases.iter().map(|(name, _)| (*name, of_server(name))).collect()
    };
    [
        (
            "stream-cpu.svg",
            bars("Answers per CPU second, 200 callers (more is better)", &all(|f| f.per_cpu_second), 0),
        ),
        (
            "stream-latency.svg",
            bars(
                "p99 from a token's write to its read, µs, 200 callers (less is better)",
                &all(|f| f.token_p99),
                0,
            ),
        ),
    ]
}

/// Those of functions.
pub(super) fn of_functions(results: &LambdaResults) -> [(&'static str, String); 3] {
    let all = |of: fn(&Round) -> f64| -> Vec<_> {
        let of_server = |results| lambda_text::median_of(results, of);
        results.subjects.iter().map(|results| (results.subject.name, of_server(results))).collect()
    };
    [
        (
            "lambda-latency.svg",
            bars("p50 of a warm hello, 1 caller, µs (less is better)", &all(|round| round.loads[0].p50), 0),
        ),
        (
            "lambda-cpu.svg",
            bars(
                "Invocations per CPU second, 8 callers (more is better)",
                &all(|round| round.loads[1].per_cpu_second),
                0,
            ),
        ),
        (
            "lambda-at-once.svg",
            bars("8 invocations of 100 ms at once, ms (less is better)", &all(|round| round.burst), 0),
        ),
    ]
}

fn open(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"13\" fill=\"{INK}\">\n<title>{title}</title>\n<text x=\"12\" y=\"24\" font-size=\"15\" \
         font-weight=\"600\">{title}</text>\n"
    )
}

/// Bars on a logarithmic scale, the longest at the top.
fn bars(title: &str, rows: &[(&str, f64)], digits: usize) -> String {
    let mut rows = rows.to_vec();
    rows.sort_by(|a, b| b.1.total_cmp(&a.1));
    let least = rows.iter().map(|row| row.1).fold(f64::MAX, f64::min).max(1e-9) / 2.0;
    let most = rows.iter().map(|row| row.1).fold(least * 2.0, f64::max);
    let mut svg = open(
        &format!("{title}, logarithmic"),
        50.0 + 28.0 * f64::from(u32::try_from(rows.len()).unwrap_or(0)),
    );
    let mut y = 42.0;
    for (name, value) in rows {
        let long = (value / least).ln() / (most / least).ln() * 480.0;
        let colour = if name.starts_with("pilotlight") { OURS } else { THEIRS };
        let _ = writeln!(
            svg,
            "<text x=\"150\" y=\"{:.0}\" text-anchor=\"end\">{name}</text><rect x=\"160\" y=\"{y:.0}\" width=\"{long:.0}\" \
             height=\"20\" rx=\"3\" fill=\"{colour}\"/><text x=\"{:.0}\" y=\"{:.0}\">{value:.digits$}</text>",
            y + 15.0,
            168.0 + long,
            y + 15.0
        );
        y += 28.0;
    }
    svg.push_str("</svg>\n");
    svg
}

/// A line per subject, on a linear x axis and a logarithmic y axis.
fn lines(title: &str, below: &str, series: &[(&str, Vec<(f64, f64)>)]) -> String {
    let points = || series.iter().flat_map(|(_, points)| points.iter());
    let right = points().map(|point| point.0).fold(1.0, f64::max);
    let bottom = 10_f64.powf(points().map(|point| point.1.max(1.0)).fold(f64::MAX, f64::min).log10().floor());
    let top = 10_f64.powf(points().map(|point| point.1).fold(bottom * 10.0, f64::max).log10().ceil());
    let place = |(x, y): (f64, f64)| {
        let up = (y.max(bottom) / bottom).ln() / (top / bottom).ln();
        (60.0 + x / right * 540.0, 290.0 - up * 240.0)
    };
    let mut svg = open(&format!("{title}, logarithmic"), 340.0);
    let mut decade = bottom;
    while decade <= top * 1.01 {
        let (_, y) = place((0.0, decade));
        let _ = writeln!(
            svg,
            "<path d=\"M60 {y:.0}H600\" stroke=\"{INK}\" stroke-opacity=\".3\"/><text x=\"54\" y=\"{:.0}\" \
             text-anchor=\"end\">{decade:.0}</text>",
            y + 4.0
        );
        decade *= 10.0;
    }
    for step in 0..=4 {
        let x = right / 4.0 * f64::from(step);
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"308\" text-anchor=\"middle\">{x:.0}</text>",
            place((x, top)).0
        );
    }
    let _ = writeln!(svg, "<text x=\"330\" y=\"328\" text-anchor=\"middle\">{below}</text>");
    let mut label = 60.0;
    for ((name, points), colour) in series.iter().rev().zip(COLOURS.iter().rev()) {
        let path: String = points.iter().map(|&point| place(point)).enumerate().fold(
            String::new(),
            |mut path, (n, (x, y))| {
                let _ = write!(path, "{}{x:.1} {y:.1}", if n == 0 { "M" } else { "L" });
                path
            },
        );
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/><text x=\"616\" y=\"{label:.0}\" \
             fill=\"{colour}\">{name}</text>"
        );
        label += 20.0;
    }
    svg.push_str("</svg>\n");
    svg
}

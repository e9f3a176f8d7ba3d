//! Owns the report's text: tables of medians and spreads, and the table of targets.

use std::fmt::Write;
use std::time::Duration;

use super::results::{Results, Series, median_of, median_ratio};
use super::scope::ReportScope;
use super::sessions_text;
use super::targets;
use crate::load::Measurement;

/// The whole report.
pub(super) fn report(
    plan: &ReportScope,
    results: &Results,
    machine: &str,
    took: Duration,
    notes: &str,
) -> String {
    let ReportScope { rounds, seconds, full, .. } = plan;
    let kind = if *full { "full" } else { "quick" };
    let mut text = format!(
        "# What pilotlight costs, beside what people would use instead\n\n\
         Written by `cargo build --profile dist --workspace && target/dist/pilotlight-bench report{}` in {:.0} min ({kind}: {rounds} rounds of {seconds} s for each \
         row). Every subject has its turn in each round; figures are medians, with the spread from the lowest round to the \
         highest; ratios are medians of the ratios within a round, as the machine's pace drifts between them.\n\n{machine}\n",
        if *full { " --full" } else { "" },
        took.as_secs_f64() / 60.0,
    );
    text.push_str(&targets::table(results));
    let _ = writeln!(
        text,
        "\n## Closed loop: 500 controllers, 50 supervisors, 10 pools, 1.43 KB runs, kept connections\n"
    );
    text.push_str(&table(&results.closed, "floor"));
    text.push_str(
        "\n![Throughput](plots/throughput.svg)\n![CPU](plots/cpu.svg)\n![Latency](plots/latency.svg)\n",
    );
    text.push_str(PUBLISHED);
    let _ = writeln!(text, "\n## A new connection for every run: what a proof by FIN costs\n");
    text.push_str(&table(&results.fresh, "floor"));
    let _ = writeln!(
        text,
        "\n## Open loop at half of pilotlight's capacity, times counted from when a run was due\n"
    );
    text.push_str(&table(&results.open, "floor"));
    let _ = writeln!(text, "\n## Growth\n");
    text.push_str(&table(&results.growth, "500 waiters in 10 pools"));
    let _ = writeln!(text, "\n## Threads: the server unpinned, beside the load on the same cores\n");
    text.push_str(&table(&results.threads, "1 thread"));
    let _ = writeln!(text, "\n## Health route, as published gateways quote it\n");
    text.push_str(&table(&results.health, "floor"));
    text.push_str(&memory(results));
    text.push_str(&sessions_text::section(&results.sessions));
    let _ = writeln!(
        text,
        "\n## Inside a dispatch\n\n- {}- System calls per dispatch: {}.\n",
        results.allocations,
        results.calls.as_deref().unwrap_or("not counted, strace is absent")
    );
    if let Some(counted) = &results.counted {
        let _ = writeln!(
            text,
            "Counted by `pilotlight-bench count`, as the difference of runs with different numbers of requests, each sent after the one \
             before it was handled; the serving thread, and beside it the journal's.\n\n{}\n\
             ## The memory of a held poll, by block\n\nBy `pilotlight-bench memory`.\n\n{}\n\
             ## The core's lock\n\nBy `pilotlight-bench lock`.\n\n```text\n{}```\n",
            counted.requests_table, counted.memory, counted.lock
        );
    }
    text.push_str(notes);
    text
}

const PUBLISHED: &str = "\nPublished of Firestarter, on another machine and under another load: 2,099 req/s (Node, SQLite), 4,534 (Node, Map), \
    9,434 (Bun), about 10,700 (Bun, compiled); p50 22.5 ms, then 4.5 ms; longest 619 ms, then 22 ms; image 180 MB, then 68 MB; about 85 MB resident.\n";

fn table(all: &[Series], base: &str) -> String {
    let base = all.iter().find(|series| series.name == base);
    let mut text = format!(
        "| | CPU µs each | × {} | per second | p50 µs | p99 µs | p99.9 µs | load's CPU µs |\n|---|---|---|---|---|---|---|---|\n",
        base.map_or("first", |base| base.name)
    );
    for series in all {
        let spread = |of: fn(&Measurement) -> f64| {
            let values = || series.rounds.iter().map(of);
            let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max));
            (median_of(Some(series), of), low, high)
        };
        let (cpu, low, high) = spread(|f| f.cpu);
        let (rate, slow, quick) = spread(|f| f.rate);
        let of = |of: fn(&Measurement) -> f64| median_of(Some(series), of);
        let _ = writeln!(
            text,
            "| {} | {cpu:.1} ({low:.1}–{high:.1}) | {:.2} | {rate:.0} ({slow:.0}–{quick:.0}) | {:.0} | {:.0} | {:.0} | {:.1} |",
            series.name,
            median_ratio(Some(series), base, |f| f.cpu),
            of(|f| f.p50),
            of(|f| f.p99),
            of(|f| f.p999),
            of(|f| f.own_cpu),
        );
    }
    text
}

fn memory(results: &Results) -> String {
    let mut text = String::from(
        "\n## Memory\n\nResident bytes of the server per held connection; the kernel's slab is of both ends together.\n\n\
         | | held | bytes each | kernel, both ends |\n|---|---|---|---|\n",
    );
    for (name, points) in &results.held {
        for held in points {
            let _ = writeln!(text, "| {name} | {} | {:.0} | {:.0} |", held.count, held.user, held.kernel);
        }
    }
    for (name, churned) in &results.churned {
        let polls = churned.samples.last().map_or(0.0, |last| last.0);
        let waiters =
            churned.waiters.map_or(String::new(), |waiters| format!("; {waiters} waiters stand at the end"));
        let _ = writeln!(
            text,
            "\nChurn, {name}: {:.2} bytes left by each of {polls:.0} polls{waiters}.",
            churned.slope()
        );
    }
    text.push_str("\n![Memory](plots/memory.svg)\n![Churn](plots/churn.svg)\n");
    text
}

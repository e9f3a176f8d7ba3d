//! Owns the report's text about streamed answers: their targets, their tables, and what was published.

use std::fmt::Write;

use crate::load::median;
use crate::stream::{
    ALL_CALLERS, MemoryFigures, OURS, OURS_WEBSOCKETS, PHASES, PhaseFigures, StreamResults, StreamScope,
    Unread, is_ours,
};

pub(super) const HEADING: &str = "\n## Replies, streamed token by token\n";

/// The whole section.
pub(super) fn section(scope: &StreamScope, machine: &str, results: &StreamResults) -> String {
    let StreamScope { rounds, few, ramp, all, workers, tokens, delay, .. } = scope;
    let least = f64::from(*tokens) * delay;
    let mut text = format!(
        "{HEADING}\n\
         A caller posts a small JSON message and reads server-sent events until `[DONE]`: {tokens} tokens of 40 bytes, one every {delay:.0} ms, so that an answer \
         takes at least {least:.0} ms and the number of callers bounds the answers per second. The peers are proxies before a stub; pilotlight has {workers} warm workers in the stub's \
         place, each of which polls, opens its reply on the same connection, and polls again on it, so its figures contain the dispatch, \
         with proof `received`. With *WebSockets*, workers wait on one each, and write all replies on one connection, as a stub does. A token carries the time of its write, and every token was checked: none was missing, cut or out of order. Callers and \
         stub or workers are two processes on the core beside the server's. By `pilotlight-bench stream`: {rounds} rounds, in which all servers have their turn; \
         {few:.0} s, {ramp:.0} s and {all:.0} s in each; medians, the longest times and the memory of all rounds.\n\n{machine}\n\
         | what | target | reached |\n|---|---|---|\n",
    );
    for [what, wanted, reached] in targets(scope, results) {
        let _ = writeln!(text, "| {what} | {wanted} | **{reached}** |");
    }
    for (phase, name) in PHASES.iter().enumerate() {
        let _ = writeln!(text, "\n### {name}\n");
        text.push_str(&table(phase, results));
    }
    text.push_str(&memory(scope, &results.memory));
    text.push_str(PUBLISHED);
    text.push_str("\n![Answers per CPU second](plots/stream-cpu.svg)\n![Tokens](plots/stream-latency.svg)\n");
    text
}

const PUBLISHED: &str = "\nPublished of such proxies, on another machine and under another load: Bun 1,543 req/s at 122 MB, Go net/http 1,424 at 37 MB, \
    axum 1,187 at 23 MB; four to five times less without TCP_NODELAY, which is *axum, Nagle* here.\n";

type Of = fn(&PhaseFigures) -> f64;

/// The median of a server's rounds; NaN if it was not measured.
pub(super) fn median_of(results: &StreamResults, name: &str, phase: usize, of: Of) -> f64 {
    median(values(results, name, phase, of))
}

fn most_of(results: &StreamResults, name: &str, phase: usize, of: Of) -> f64 {
    values(results, name, phase, of).into_iter().fold(f64::NAN, f64::max)
}

fn values(results: &StreamResults, name: &str, phase: usize, of: Of) -> Vec<f64> {
    let rounds = results.phases.iter().find(|(found, _)| *found == name).map(|(_, rounds)| rounds);
    rounds.into_iter().flatten().filter_map(|figures| figures.get(phase)).map(of).collect()
}

/// The median of pilotlight's ratios to a peer within each round.
fn ratio_to(results: &StreamResults, name: &str, phase: usize, of: Of) -> f64 {
    ratio(results, OURS, name, phase, of)
}

fn ratio(results: &StreamResults, ours: &str, name: &str, phase: usize, of: Of) -> f64 {
    let (ours, theirs) = (values(results, ours, phase, of), values(results, name, phase, of));
    median(ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect())
}

fn targets(scope: &StreamScope, results: &StreamResults) -> Vec<[String; 3]> {
    let of = |of: Of| median_of(results, OURS, ALL_CALLERS, of);
    let peers = || results.phases.iter().map(|(name, _)| *name).filter(|name| !is_ours(name));
    let joined = |each: &dyn Fn(&str) -> String| peers().map(each).collect::<Vec<_>>().join(", ");
    let ratios = |ours| {
        joined(&|name| {
            format!("{:.2} × {name}'s", ratio(results, ours, name, ALL_CALLERS, |f| f.per_cpu_second))
        })
    };
    let resident = |name: &str| most_of(results, name, ALL_CALLERS, |f| f.resident) / MIB;
    let private = |name: &str| most_of(results, name, ALL_CALLERS, |f| f.private) / MIB;
    let ours = results.memory.iter().find(|(name, _)| *name == OURS).map(|(_, figures)| figures);
    let held = |of: fn(&MemoryFigures) -> f64| ours.map_or(f64::NAN, of);
    let row = |what: String, wanted: &str, reached: String| [what, wanted.to_owned(), reached];
    vec![
        row(
            "from a token's write at the worker to its read at the caller, 200 callers".to_owned(),
            "p50 ≤ 0.3 ms, p99 ≤ 3 ms",
            format!("p50 {:.2} ms, p99 {:.2} ms", of(|f| f.token_p50) / 1e3, of(|f| f.token_p99) / 1e3),
        ),
        row("answers per CPU second, 200 callers".to_owned(), "above each peer's", ratios(OURS)),
        row(
            "the same with workers that wait over WebSockets".to_owned(),
            "above each peer's",
            ratios(OURS_WEBSOCKETS),
        ),
        row(
            "largest resident memory, 200 callers".to_owned(),
            "below each peer's",
            format!("{:.1} MiB; {}", resident(OURS), joined(&|name| format!("{name} {:.1}", resident(name)))),
        ),
        row(
            "of it private: written by the process, not its program's file".to_owned(),
            "below each peer's",
            format!("{:.1} MiB; {}", private(OURS), joined(&|name| format!("{name} {:.1}", private(name)))),
        ),
        row(
            format!("resident with {} open answers, more than idle", scope.open),
            "≤ 20 MB",
            format!("{:.1} MB", held(|f| f.open) / 1e6),
        ),
        row(
            format!("resident while {:.1} GiB pass, more than before", gibibytes(scope.large)),
            "flat",
            format!("{:+.1} MiB", held(|f| f.large) / MIB),
        ),
        row(
            "what stands of an answer that its caller never reads, kernel's queues included".to_owned(),
            "≤ 64 KiB",
            format!("{:.1} KiB", held(|f| f.unread.all) / 1024.0),
        ),
    ]
}

const MIB: f64 = 1_048_576.0;

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / MIB / 1024.0
}

fn table(phase: usize, results: &StreamResults) -> String {
    let mut text = String::from(
        "| | answers per CPU second | pilotlight's × | CPU s | answers/s | p95 ms | longest ms | token p50 µs | p99 µs | longest ms | largest RSS MiB | of it private | load's share of its core |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (name, _) in &results.phases {
        let of = |of: Of| median_of(results, name, phase, of);
        let most = |of: Of| most_of(results, name, phase, of);
        let per_cpu = values(results, name, phase, |f| f.per_cpu_second);
        let _ = writeln!(
            text,
            "| {name} | {:.0} ({:.0}–{:.0}) | {:.2} | {:.2} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} | {:.1} | {:.1} | {:.1} | {:.0} % |",
            of(|f| f.per_cpu_second),
            per_cpu.iter().copied().fold(f64::NAN, f64::min),
            per_cpu.iter().copied().fold(f64::NAN, f64::max),
            ratio_to(results, name, phase, |f| f.per_cpu_second),
            of(|f| f.cpu),
            of(|f| f.rate),
            of(|f| f.p95) / 1e3,
            most(|f| f.longest) / 1e3,
            of(|f| f.token_p50),
            of(|f| f.token_p99),
            most(|f| f.token_longest) / 1e3,
            most(|f| f.resident) / MIB,
            most(|f| f.private) / MIB,
            of(|f| f.load) * 100.0,
        );
    }
    text
}

fn memory(scope: &StreamScope, all: &[(&'static str, MemoryFigures)]) -> String {
    let mut text = format!(
        "\n### Open, large, and not read\n\n\
         What is resident of {} answers that stand open after their first token, of which the second column stood before a caller came; what a {:.1} GiB \
         answer adds while it passes as fast as it can, and its speed; what the server and the kernel's queues of its sockets hold \
         of an answer whose caller never reads, and the parts of it in those queues (/proc/net/tcp).\n\n\
         | | open, MB | before callers, MB | large, MiB | GB/s | GB per CPU second | not read, KiB | received, KiB | unsent, KiB |\n|---|---|---|---|---|---|---|---|---|\n",
        scope.open,
        gibibytes(scope.large)
    );
    for (name, figures) in all {
        let MemoryFigures { open, waiting, large, large_rate, large_per_cpu_second, unread } = figures;
        let Unread { all, received, unsent, is_unbounded } = unread;
        let _ = writeln!(
            text,
            "| {name} | {:.1} | {:.1} | {:+.1} | {:.2} | {:.2} | {:.1}{} | {:.1} | {:.1} |",
            open / 1e6,
            waiting / 1e6,
            large / MIB,
            large_rate / 1e9,
            large_per_cpu_second / 1e9,
            all / 1024.0,
            if *is_unbounded { ", and growing" } else { "" },
            received / 1024.0,
            unsent / 1024.0,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(per_cpu_second: f64) -> Vec<PhaseFigures> {
        let figures = PhaseFigures {
            rate: 400.0,
            p95: 502_000.0,
            longest: 510_000.0,
            token_p50: 123.0,
            token_p99: 456.0,
            token_longest: 7_000.0,
            cpu: 400.0 / per_cpu_second,
            per_cpu_second,
            resident: 10.0 * MIB,
            private: 4.0 * MIB,
            load: 0.25,
        };
        vec![figures; PHASES.len()]
    }

    #[test]
    fn ratios_are_medians_of_the_ratios_within_a_round() {
        let ours = [1000.0, 2000.0, 3000.0].map(figures).to_vec();
        let theirs = [500.0, 2000.0, 1000.0].map(figures).to_vec();
        let results = StreamResults { phases: vec![("axum", theirs), (OURS, ours)], memory: Vec::new() };
        let text = table(ALL_CALLERS, &results);
        assert!(text.contains(
            "| axum | 1000 (500–2000) | 2.00 | 0.40 | 400.0 | 502.0 | 510.0 | 123 | 456 | 7.0 | 10.0 | 4.0 | 25 % |"
        ));
        assert!(text.contains("| pilotlight | 2000 (1000–3000) | 1.00 |"), "{text}");
    }
}

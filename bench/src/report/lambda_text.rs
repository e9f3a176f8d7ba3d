//! Owns the report's text about functions of AWS Lambda: their tables, and what the emulator makes of invocations at the same time.

use std::fmt::Write;

use crate::lambda::{
    CALLERS, LANGUAGES, LOADS, LambdaResults, LambdaScope, Language, LoadFigures, Parts, Round, SLEEP,
    ServerKind, SubjectResults, Unqueued,
};
use crate::load::median;

pub(super) const HEADING: &str = "\n## Functions of AWS Lambda\n";

/// The whole section.
pub(super) fn section(scope: &LambdaScope, machine: &str, results: &LambdaResults) -> String {
    let LambdaScope { rounds, seconds, .. } = scope;
    let mut text = format!(
        "{HEADING}\n\
         A handler that answers with its event's name, run by the stock runtime clients of Node.js and Python. *pilotlight* is a broker and one worker \
         (`--runtime-api --slots {CALLERS}`) with {CALLERS} functions. *RIE* is AWS's own emulator, `aws-lambda-rie`, with the one function that it can have; \
         callers take turns before it, because invocations at the same time end it. *node:http* and *http.server* are plain servers of {CALLERS} processes in the \
         same language that call the handler themselves ([what they are](peers/README.md#functions)). Callers post what boto3 posts, on kept connections, with a \
         new `amz-sdk-invocation-id` each time; every answer was checked to be that of its own event. Whatever serves, broker and functions together, shares \
         one core; callers are on the other. By `pilotlight-bench lambda`: {rounds} rounds of {seconds:.0} s for each load, in which all servers have their turn; \
         medians, with the spread from the lowest round to the highest.\n\n{machine}\n",
    );
    for reason in &results.missing {
        let _ = writeln!(text, "{reason}.\n");
    }
    text.push_str(&summary(results));
    text.push_str(&unqueued(results));
    for (place, (name, _)) in LOADS.iter().enumerate() {
        let _ = writeln!(text, "\n### A warm hello, {name}\n");
        text.push_str(&table(place, results));
    }
    text.push_str(&memory(results));
    text.push_str(
        "\n![Times](plots/lambda-latency.svg)\n![Invocations per CPU second](plots/lambda-cpu.svg)\n\
         ![At once](plots/lambda-at-once.svg)\n",
    );
    text
}

/// The median of a server's rounds.
pub(super) fn median_of(results: &SubjectResults, of: impl Fn(&Round) -> f64) -> f64 {
    median(results.rounds.iter().map(of).collect())
}

/// What of a round is compared.
type Of = fn(&Round) -> f64;

fn summary(results: &LambdaResults) -> String {
    let at_once = format!("{CALLERS} invocations of {SLEEP} ms at once, ms until all are answered");
    let one = format!("p50 of a warm hello, {}, µs", LOADS[0].0);
    let many = format!("p50 of a warm hello, {}, µs", LOADS[1].0);
    let rate = format!("warm hellos per second, {}", LOADS[1].0);
    let rows: [(String, Of); 4] = [
        (at_once, |round| round.burst),
        (one, |round| round.loads[0].p50),
        (many, |round| round.loads[1].p50),
        (rate, |round| round.loads[1].rate),
    ];
    let mut text =
        String::from("| | one at a time: RIE | plain HTTP server | pilotlight |\n|---|---|---|---|\n");
    for language in LANGUAGES {
        for (what, of) in &rows {
            let Some(ours) = find(results, language, ServerKind::Pilotlight) else { continue };
            let beside = |kind| match find(results, language, kind) {
                Some(theirs) => format!("{:.0} ({:.2} ×)", median_of(theirs, of), ratio(ours, theirs, *of)),
                None => "–".to_owned(),
            };
            let _ = writeln!(
                text,
                "| {}: {what} | {} | {} | **{:.0}** |",
                language.name(),
                beside(ServerKind::Emulator),
                beside(ServerKind::Plain),
                median_of(ours, of),
            );
        }
    }
    text.push_str("\nIn brackets: pilotlight's figure as a multiple of this one, the median of the ratios within a round.\n");
    text
}

fn find(results: &LambdaResults, language: Language, kind: ServerKind) -> Option<&SubjectResults> {
    let is_it = |found: &&SubjectResults| found.subject.language == language && found.subject.kind == kind;
    results.subjects.iter().find(is_it)
}

/// The median of the ratios within each round.
fn ratio(ours: &SubjectResults, theirs: &SubjectResults, of: Of) -> f64 {
    median(ours.rounds.iter().zip(&theirs.rounds).map(|(ours, theirs)| of(ours) / of(theirs)).collect())
}

fn unqueued(results: &LambdaResults) -> String {
    if results.unqueued.is_empty() {
        return "\nPublished of aws-lambda-rie, which was not measured here: one invocation at a time \
                (aws-lambda-runtime-interface-emulator#97).\n"
            .to_owned();
    }
    let each = results.unqueued.iter().map(|(language, Unqueued { answered, has_ended })| {
        let end = if *has_ended { "its process ended" } else { "its process went on" };
        format!("{}: {answered} were answered, and {end}", language.name())
    });
    format!(
        "\nOf {CALLERS} invocations that come to aws-lambda-rie at the same time (aws-lambda-runtime-interface-emulator#97): {}.\n",
        each.collect::<Vec<_>>().join("; ")
    )
}

fn table(place: usize, results: &LambdaResults) -> String {
    let mut text = String::from(
        "| | p50 µs | p99 µs | per second | per CPU second | CPU µs each | broker | worker or emulator | functions | throttled | \
         load's share of its core |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for subject in &results.subjects {
        let of = |of: fn(&LoadFigures) -> f64| median_of(subject, |round| of(&round.loads[place]));
        let per_cpu = || subject.rounds.iter().map(|round| round.loads[place].per_cpu_second);
        let throttled: u32 = subject.rounds.iter().map(|round| round.loads[place].throttled).sum();
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} ({:.0}–{:.0}) | {:.0} | {} | {} | {:.0} | {throttled} | {:.0} % |",
            subject.subject.name,
            of(|f| f.p50),
            of(|f| f.p99),
            of(|f| f.rate),
            of(|f| f.per_cpu_second),
            per_cpu().fold(f64::NAN, f64::min),
            per_cpu().fold(f64::NAN, f64::max),
            of(|f| f.cpu.sum()),
            part(of(|f| f.cpu.broker), 0),
            part(of(|f| f.cpu.stand_in), 0),
            of(|f| f.cpu.functions),
            of(|f| f.load) * 100.0,
        );
    }
    text
}

fn memory(results: &LambdaResults) -> String {
    let mut text = format!(
        "\n### Memory\n\nWhat processes have for themselves after the load (`Private_Dirty`), in MiB: all functions of a server together, which are one for \
         RIE and {CALLERS} for the others.\n\n| | broker | worker or emulator | functions |\n|---|---|---|---|\n",
    );
    for subject in &results.subjects {
        let of = |of: fn(Parts) -> f64| part(median_of(subject, |round| of(round.memory)) / MIB, 1);
        let (broker, stand_in, functions) = (of(|m| m.broker), of(|m| m.stand_in), of(|m| m.functions));
        let _ = writeln!(text, "| {} | {broker} | {stand_in} | {functions} |", subject.subject.name);
    }
    text
}

/// A part's figure; nothing if there is no such part.
fn part(figure: f64, digits: usize) -> String {
    if figure == 0.0 { String::new() } else { format!("{figure:.digits$}") }
}

const MIB: f64 = 1_048_576.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lambda::SUBJECTS;

    fn round(time: f64, burst: f64) -> Round {
        let cpu = Parts { broker: 10.0, stand_in: 0.0, functions: 30.0 };
        let load = LoadFigures {
            rate: 1e6 / time,
            p50: time,
            p99: time * 2.0,
            per_cpu_second: 25_000.0,
            cpu,
            load: 0.5,
            throttled: 1,
        };
        let memory = Parts { broker: MIB, stand_in: 3.0 * MIB, functions: 0.0 };
        Round { loads: vec![load.clone(), load], burst, memory }
    }

    fn results(times: &[(ServerKind, [f64; 3])]) -> LambdaResults {
        let rounds_of = |kind| times.iter().find(|(of, _)| *of == kind).map(|(_, times)| times);
        let subjects = SUBJECTS.into_iter().filter(|subject| subject.language == Language::Python);
        let subjects = subjects.filter_map(|subject| {
            let rounds = rounds_of(subject.kind)?.iter().map(|&time| round(time, time / 4.0)).collect();
            Some(SubjectResults { subject, rounds })
        });
        LambdaResults { subjects: subjects.collect(), unqueued: Vec::new(), missing: Vec::new() }
    }

    #[test]
    fn servers_of_a_language_are_compared_within_a_round() {
        let times = [
            (ServerKind::Emulator, [400.0, 1000.0, 2000.0]),
            (ServerKind::Pilotlight, [800.0, 1000.0, 1000.0]),
        ];
        let text = summary(&results(&times));
        assert!(
            text.contains("| Python: p50 of a warm hello, 1 caller, µs | 1000 (1.00 ×) | – | **1000** |"),
            "{text}"
        );
        assert!(text.contains("at once, ms until all are answered | 250 (1.00 ×) | – | **250** |"), "{text}");
        assert!(!text.contains("Node.js"), "{text}");
    }

    #[test]
    fn a_server_without_a_part_has_no_figure_for_it() {
        let results = results(&[(ServerKind::Pilotlight, [100.0, 200.0, 300.0])]);
        assert!(table(0, &results).contains(
            "| pilotlight (Python) | 200 | 400 | 5000 | 25000 (25000–25000) | 40 | 10 |  | 30 | 3 | 50 % |"
        ));
        assert!(memory(&results).contains("| pilotlight (Python) | 1.0 | 3.0 |  |"));
    }
}

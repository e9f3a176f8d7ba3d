//! Owns the scenario of functions of AWS Lambda: callers post Invokes to pilotlight with a worker around the stock runtime client,
//! to AWS's emulator around the same client, and to a plain HTTP server in the same language.

mod burst;
mod caller;
mod figures;
mod language;
mod load;
mod parts;
mod process;
mod scope;
mod subject;

use std::path::Path;

use anyhow::ensure;
use pilotlight_bench::stdout::print;

pub(crate) use burst::{SLEEP, Unqueued};
pub(crate) use figures::LoadFigures;
pub(crate) use language::{LANGUAGES, Language};
pub(crate) use load::LOADS;
pub(crate) use parts::Parts;
pub(crate) use scope::LambdaScope;
pub(crate) use subject::{CALLERS, SUBJECTS, ServerKind, Subject};

/// All results.
pub(crate) struct LambdaResults {
    /// By server, those of a language together.
    pub(crate) subjects: Vec<SubjectResults>,
    /// By language: what the emulator makes of invocations that come at the same time, if there is one.
    pub(crate) unqueued: Vec<(Language, Unqueued)>,
    /// Why rows are missing.
    pub(crate) missing: Vec<String>,
}

/// The results of one server.
pub(crate) struct SubjectResults {
    pub(crate) subject: Subject,
    pub(crate) rounds: Vec<Round>,
}

/// One round of one server.
pub(crate) struct Round {
    /// In the order of [`LOADS`].
    pub(crate) loads: Vec<LoadFigures>,
    /// Milliseconds until as many sleeping invocations as there are callers were answered.
    pub(crate) burst: f64,
    /// Bytes that the processes of each part have for themselves.
    pub(crate) memory: Parts,
}

/// Measures all servers that are wanted and can be started here, in alternating rounds.
pub(crate) fn measure(scope: &LambdaScope, emulator: Option<&Path>) -> anyhow::Result<LambdaResults> {
    let is_wanted = |name: &str| scope.only.as_ref().is_none_or(|only| name.contains(only));
    let missing: Vec<String> =
        LANGUAGES.iter().filter_map(|language| language.missing(&scope.clients)).collect();
    for reason in &missing {
        print(&format!("{reason}\n"));
    }
    let mut subjects: Vec<SubjectResults> = SUBJECTS
        .into_iter()
        .filter(|subject| is_wanted(subject.name) && subject.is_possible(&scope.clients, emulator))
        .map(|subject| SubjectResults { subject, rounds: Vec::new() })
        .collect();
    ensure!(!subjects.is_empty(), "no server can be started here");
    for round in 1..=scope.rounds {
        print(&format!("functions, round {round} of {}\n", scope.rounds));
        for SubjectResults { subject, rounds } in &mut subjects {
            rounds.push(measure_round(subject, scope, emulator)?);
        }
    }
    let mut unqueued = Vec::new();
    for SubjectResults { subject, .. } in subjects.iter().filter(|results| results.subject.takes_turns()) {
        unqueued.push((subject.language, burst::unqueued(&mut subject.start(&scope.clients, emulator)?)?));
    }
    Ok(LambdaResults { subjects, unqueued, missing })
}

fn measure_round(subject: &Subject, scope: &LambdaScope, emulator: Option<&Path>) -> anyhow::Result<Round> {
    let started = subject.start(&scope.clients, emulator)?;
    let mut loads = Vec::new();
    for (name, callers) in LOADS {
        let figures = load::measure(&started, callers, scope.seconds)?;
        print(&format!("  {name:<10}{}", figures.line(subject.name)));
        loads.push(figures);
    }
    let (burst, memory) = (burst::measure(&started)?, started.memory()?);
    print(&format!("  at once   {:<24} {burst:.1} ms  {memory:?}\n", subject.name));
    Ok(Round { loads, burst, memory })
}

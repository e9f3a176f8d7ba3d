//! Owns the scenario of answers that are streamed token by token: callers post, a stub or warm workers write tokens, and a server in
//! between relays them.

mod answer;
mod ask;
mod caller;
mod figures;
mod kernel_queues;
mod memory;
mod origin;
mod phases;
mod progress;
mod scope;
mod session_worker;
mod stub;
mod subject;
mod worker;

use pilotlight_bench::stdout::print;

pub(crate) use figures::PhaseFigures;
pub(crate) use memory::{MemoryFigures, Unread};
pub(crate) use origin::{OriginOptions, run as run_origin};
pub(crate) use phases::{ALL_CALLERS, PHASES};
use scope::Part;
pub(crate) use scope::StreamScope;
use subject::SUBJECTS;
pub(crate) use subject::{OURS, OURS_WEBSOCKETS, is_ours};

/// All results.
pub(crate) struct StreamResults {
    /// By server; in each round, the phases in order.
    pub(crate) phases: Vec<(&'static str, Vec<Vec<PhaseFigures>>)>,
    /// By server.
    pub(crate) memory: Vec<(&'static str, MemoryFigures)>,
}

/// Measures all servers that are wanted, in alternating rounds.
pub(crate) fn measure(scope: &StreamScope) -> anyhow::Result<StreamResults> {
    let is_wanted = |name: &str| scope.only.as_ref().is_none_or(|only| name.contains(only));
    let subjects: Vec<_> = SUBJECTS.into_iter().filter(|subject| is_wanted(subject.name)).collect();
    let mut phases: Vec<_> = subjects.iter().map(|subject| (subject.name, Vec::new())).collect();
    if scope.part != Some(Part::Memory) {
        for round in 1..=scope.rounds {
            print(&format!("streams, round {round} of {}\n", scope.rounds));
            for (subject, (name, rounds)) in subjects.iter().zip(&mut phases) {
                let figures = phases::measure(subject, scope)?;
                for (phase, figures) in PHASES.iter().zip(&figures) {
                    print(&format!("  {phase:<28}{}", figures.line(name)));
                }
                rounds.push(figures);
            }
        }
    }
    let mut memory = Vec::new();
    if scope.part != Some(Part::Phases) {
        print("streams: open answers, a large one, one that nobody reads\n");
        for subject in &subjects {
            memory.push((subject.name, memory::measure(subject, scope)?));
        }
    }
    Ok(StreamResults { phases, memory })
}

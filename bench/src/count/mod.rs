//! Owns the counts of one request of each kind: user instructions, allocations and clock reads under callgrind, system calls
//! under strace. They do not depend on how fast a machine is, or what else it does.
//!
//! A count is the difference of two runs that differ in the number of requests only, so that start and end cancel out. Both runs last
//! equally long, so that what a thread does periodically cancels out, too.

mod callgrind;
mod conditions;
mod counts;
mod limits;
mod participants;
mod replies;
mod run;
mod scenario;
mod sessions;
mod text;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};

use callgrind::ThreadCounts;
pub use conditions::Conditions;
pub use counts::Counts;
pub use limits::Limits;
use run::Run;
pub use scenario::{SCENARIOS, Scenario};
pub use text::table;

/// The requests of the shorter and of the longer run.
const REQUESTS: [u32; 2] = [100, 300];
/// The rounds of counts that are to be kept or compared.
pub const ROUNDS: usize = 3;
/// So many kinds of requests are counted at once: most of the time each of them waits.
const AT_ONCE: usize = 3;
/// The threads that are counted, by the broker's names for them: the one that serves, and the one that keeps records.
const SERVING: &str = "serve-0";
const JOURNAL: &str = "journal";

/// The tools that count and are not installed.
pub fn missing_tools() -> Vec<&'static str> {
    let is_missing = |tool: &&str| Command::new(tool).arg("--version").output().is_err();
    ["valgrind", "strace"].into_iter().filter(is_missing).collect()
}

/// Counts a request of this kind to the broker `program`. Each count is the median of so many, one or more.
pub fn count(program: &Path, scenario: &Scenario, rounds: usize) -> anyhow::Result<Counts> {
    let counted =
        (0..rounds).map(|_| under_callgrind(program, scenario)).collect::<anyhow::Result<Vec<_>>>()?;
    let median = |of: fn(&[ThreadCounts; 2]) -> f64| {
        let mut values: Vec<f64> = counted.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[rounds / 2]
    };
    Ok(Counts {
        instructions: median(|[serving, _]| serving.instructions),
        allocations: median(|[serving, _]| serving.allocations),
        clock_reads: median(|[serving, _]| serving.clock_reads),
        system_calls: under_strace(program, scenario)?,
        journal_instructions: median(|[_, journal]| journal.instructions),
        journal_allocations: median(|[_, journal]| journal.allocations),
    })
}

/// What a request costs each of the two threads.
fn under_callgrind(program: &Path, scenario: &Scenario) -> anyhow::Result<[ThreadCounts; 2]> {
    let [less, more] = both(program, scenario, |run| {
        let counted = run.under_callgrind()?;
        Ok((counted.by_thread, counted.lasted))
    })?;
    let of = |thread: &str| {
        let (less, more) = less.get(thread).zip(more.get(thread)).context("the broker has other threads")?;
        anyhow::Ok(ThreadCounts {
            instructions: each(less.instructions, more.instructions),
            allocations: each(less.allocations, more.allocations),
            clock_reads: each(less.clock_reads, more.clock_reads),
        })
    };
    Ok([of(SERVING)?, of(JOURNAL)?])
}

/// The system calls of the serving thread for a request.
fn under_strace(program: &Path, scenario: &Scenario) -> anyhow::Result<BTreeMap<String, f64>> {
    let [less, more] = both(program, scenario, |run| {
        let counted = run.under_strace()?;
        Ok((counted.by_thread, counted.lasted))
    })?;
    let (less, more) = less.get(SERVING).zip(more.get(SERVING)).context("the broker has other threads")?;
    let calls =
        more.iter().map(|(name, more)| (name.clone(), each(less.get(name).copied().unwrap_or(0.0), *more)));
    Ok(calls.filter(|(_, calls)| *calls > 0.0).collect())
}

/// The shorter and the longer run. The longer one comes first, because its length is known only then.
fn both<T>(
    program: &Path,
    scenario: &Scenario,
    run: impl Fn(Run<'_>) -> anyhow::Result<(T, Duration)>,
) -> anyhow::Result<[T; 2]> {
    let [fewer, requests] = REQUESTS;
    let (more, lasts) = run(Run { program, scenario, requests, lasts: Duration::ZERO })?;
    let (less, _) = run(Run { program, scenario, requests: fewer, lasts })?;
    Ok([less, more])
}

/// The count of one request.
fn each(less: f64, more: f64) -> f64 {
    let [fewer, requests] = REQUESTS;
    (more - less) / f64::from(requests - fewer)
}

/// Counts a request of each kind as [`count`] does, some kinds at once.
pub fn count_all(program: &Path, rounds: usize) -> anyhow::Result<Vec<(&'static str, Counts)>> {
    let counted = |scenario: &'static Scenario| Ok((scenario.name, count(program, scenario, rounds)?));
    let mut counts = Vec::new();
    for some in SCENARIOS.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                some.iter().map(|scenario| scope.spawn(move || counted(scenario))).collect();
            for thread in threads {
                let counted: anyhow::Result<_> = thread.join().map_err(|_| anyhow!("a count panicked"))?;
                counts.push(counted?);
            }
            anyhow::Ok(())
        })?;
    }
    Ok(counts)
}

/// Counts a request of each kind, and returns them as a table.
pub fn count_as_table(program: &Path) -> anyhow::Result<String> {
    let missing = missing_tools();
    ensure!(missing.is_empty(), "nothing is counted, because {} cannot be run here", missing.join(" and "));
    let counts = count_all(program, ROUNDS)?;
    Ok(table(&Conditions::here()?, &counts))
}

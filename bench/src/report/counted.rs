//! Owns what the report quotes of the program's other measurements, which do not depend on the machine's speed: counts of a
//! request, the blocks of a held poll, the longest holds of the core's lock.

use std::process::Command;

use anyhow::{Context, ensure};
use pilotlight_bench::count::{Conditions, Counts, ROUNDS, SCENARIOS, count, missing_tools, table};
use pilotlight_bench::implementation::Implementation;
use pilotlight_bench::stdout::print;

/// Polls that are held while their memory is looked at.
const HELD: &str = "19000";

pub(super) struct Counted {
    /// Why there are none, if a tool is missing.
    pub(super) requests: Requests,
    /// The same as a table.
    pub(super) requests_table: String,
    pub(super) memory: String,
    pub(super) lock: String,
}

impl Counted {
    pub(super) fn new() -> anyhow::Result<Self> {
        let (requests, requests_table) = requests()?;
        print("the memory of held polls, the core's lock\n");
        Ok(Self {
            requests,
            requests_table,
            memory: own_output(&["memory", "--each", HELD])?,
            lock: own_output(&["lock", "--rounds", "3"])?,
        })
    }

    /// A figure of the kind of request whose name begins so.
    pub(super) fn figure(&self, beginning: &str, of: impl Fn(&Counts) -> f64) -> f64 {
        let counts = self.requests.as_ref().map(Vec::as_slice).unwrap_or_default();
        counts.iter().find(|(name, _)| name.starts_with(beginning)).map_or(f64::NAN, |(_, counts)| of(counts))
    }

    /// The longest hold of the lock over all operations, in microseconds of CPU time. Of each operation it is the shortest of
    /// the rounds' longest, because interrupts are charged to whoever holds it.
    pub(super) fn longest_hold(&self) -> f64 {
        // The last two columns are the shortest and the longest of the rounds' longest.
        let longest = |line: &str| line.split_whitespace().rev().nth(1)?.parse::<f64>().ok();
        self.lock.lines().filter_map(longest).fold(0.0, f64::max)
    }
}

type Requests = Result<Vec<(&'static str, Counts)>, String>;

fn requests() -> anyhow::Result<(Requests, String)> {
    let missing = missing_tools();
    if !missing.is_empty() {
        let why = format!("not counted without {}", missing.join(" and "));
        print(&format!("{why}\n"));
        return Ok((Err(why.clone()), why));
    }
    let program = Implementation::pilotlight("written")?.program;
    let mut counts = Vec::new();
    for scenario in &SCENARIOS {
        print(&format!("counting: {}\n", scenario.name));
        counts.push((scenario.name, count(&program, scenario, ROUNDS)?));
    }
    let text = table(&Conditions::here()?, &counts);
    Ok((Ok(counts), text))
}

/// What this program prints with other arguments, in a process of its own.
fn own_output(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(std::env::current_exe()?).args(arguments).env("RUST_LOG", "error").output();
    let output = output.with_context(|| format!("no {}", arguments[0]))?;
    ensure!(
        output.status.success(),
        "no {}: {}",
        arguments[0],
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}

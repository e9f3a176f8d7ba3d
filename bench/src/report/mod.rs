//! Owns the report: alternating rounds over all that is measured, written with plots.

mod machine;
mod plots;
mod rounds;
mod targets;
mod text;

use std::path::Path;
use std::time::Instant;

use crate::subject;

/// How much is measured.
#[derive(Debug, Clone)]
struct Plan {
    full: bool,
    rounds: usize,
    seconds: f64,
    crowds: Vec<usize>,
    churn: usize,
    /// Brokers of the crowd beyond one table of descriptors, and the polls on each.
    beyond: Option<(usize, usize)>,
}

impl Plan {
    fn quick() -> Self {
        Self {
            full: false,
            rounds: 2,
            seconds: 1.0,
            crowds: vec![2_000, 10_000],
            churn: 20_000,
            beyond: None,
        }
    }

    fn full() -> Self {
        Self {
            full: true,
            rounds: 5,
            seconds: 3.0,
            crowds: vec![1_000, 5_000, 10_000, 19_000],
            churn: 1_000_000,
            beyond: Some((6, 16_700)),
        }
    }
}

/// Measures everything and writes it down.
pub(crate) fn write(full: bool) -> anyhow::Result<()> {
    let plan = if full { Plan::full() } else { Plan::quick() };
    let begun = Instant::now();
    crate::say("installing the peers\n");
    let peers = subject::install()?;
    let results = rounds::run(&plan, &peers)?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let plots = folder.join("plots");
    std::fs::create_dir_all(&plots)?;
    for (name, svg) in plots::all(&results) {
        std::fs::write(plots.join(name), svg)?;
    }
    let notes = std::fs::read_to_string(folder.join("notes.md"))?;
    let report = text::report(&plan, &results, &machine::describe(&peers)?, begun.elapsed(), &notes);
    std::fs::write(folder.join("REPORT.md"), report)?;
    crate::say(&format!("REPORT.md is written, after {:.0} s\n", begun.elapsed().as_secs_f64()));
    Ok(())
}

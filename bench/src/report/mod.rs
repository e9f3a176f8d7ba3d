//! Owns the report: alternating rounds over all that is measured, written with plots.

mod alternate;
mod counted;
mod machine;
mod peers;
mod plots;
mod results;
mod rounds;
mod scope;
mod second_targets;
mod sessions;
mod sessions_text;
mod targets;
mod text;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use pilotlight_bench::implementation::Implementation;
use pilotlight_bench::stdout::print;

use scope::ReportScope;
pub(crate) use scope::SessionScope;

/// Measures the sessions alone, and prints their tables.
pub(crate) fn sessions(scope: &SessionScope) -> anyhow::Result<()> {
    peers::install_npm()?;
    let results = sessions::measure(scope, true)?;
    let section = sessions_text::section(&results);
    print(&section);
    if scope.write {
        write_plots(plots::of_sessions(&results))?;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("REPORT.md");
        let report = sessions_text::replace(&std::fs::read_to_string(&path)?, &section);
        std::fs::write(path, report.context("REPORT.md has no place for this part")?)?;
    }
    Ok(())
}

/// Measures everything and writes the report.
pub(crate) fn write(full: bool) -> anyhow::Result<()> {
    let plan = if full { ReportScope::full() } else { ReportScope::quick() };
    let begun = Instant::now();
    for built in [Implementation::peer("floor", false)?, Implementation::pilotlight("written")?] {
        let program = built.program.display();
        ensure!(built.program.exists(), "build {program} first: cargo build --profile dist --workspace");
    }
    print("installing the peers\n");
    let peers = peers::install();
    let results = rounds::run(&plan, &peers)?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    write_plots(plots::all(&results))?;
    let notes = std::fs::read_to_string(folder.join("notes.md"))?;
    let report = text::report(&plan, &results, &machine::describe(&peers)?, begun.elapsed(), &notes);
    std::fs::write(folder.join("REPORT.md"), report)?;
    print(&format!("REPORT.md is written, after {:.0} s\n", begun.elapsed().as_secs_f64()));
    Ok(())
}

fn write_plots(plots: impl IntoIterator<Item = (&'static str, String)>) -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("plots");
    std::fs::create_dir_all(&folder)?;
    for (name, svg) in plots {
        std::fs::write(folder.join(name), svg)?;
    }
    Ok(())
}

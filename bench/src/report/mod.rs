//! Owns the report: alternating rounds over all that is measured, written with plots.

mod alternate;
mod counted;
mod lambda_text;
mod machine;
mod peers;
mod plots;
mod results;
mod rounds;
mod scope;
mod second_targets;
mod section;
mod sessions;
mod sessions_text;
mod streams_text;
mod targets;
mod text;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use pilotlight_bench::implementation::Implementation;
use pilotlight_bench::stdout::print;

use scope::ReportScope;
pub(crate) use scope::SessionScope;

use crate::lambda::{self, LambdaScope, ServerKind};
use crate::stream::{self, StreamScope};

/// Measures the sessions alone, and prints their tables.
pub(crate) fn sessions(scope: &SessionScope) -> anyhow::Result<()> {
    peers::install_npm()?;
    let results = sessions::measure(scope, true)?;
    let section = sessions_text::section(&results);
    print(&section);
    if scope.write {
        write_plots(plots::of_sessions(&results))?;
        replace(sessions_text::HEADING, &section)?;
    }
    Ok(())
}

/// Measures streamed answers alone, and prints their tables.
pub(crate) fn streams(scope: &StreamScope) -> anyhow::Result<()> {
    let begun = Instant::now();
    peers::install_npm()?;
    peers::build_go()?;
    let results = stream::measure(scope)?;
    let peers: Vec<_> =
        results.phases.iter().map(|(name, _)| *name).filter(|name| !stream::is_ours(name)).collect();
    let section = streams_text::section(scope, &machine::describe(&peers)?, &results);
    print(&section);
    if scope.write {
        write_plots(plots::of_streams(&results))?;
        replace(streams_text::HEADING, &section)?;
    }
    print(&format!("after {:.0} s\n", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// Measures functions alone, and prints their tables.
pub(crate) fn lambda(scope: &LambdaScope) -> anyhow::Result<()> {
    let begun = Instant::now();
    let emulator = peers::install_emulator();
    if let Err(error) = &emulator {
        print(&format!("aws-lambda-rie is left out: {error:#}\n"));
    }
    let results = lambda::measure(scope, emulator.ok().as_deref())?;
    let peers = results.subjects.iter().map(|results| results.subject);
    let peers: Vec<_> =
        peers.filter(|peer| peer.kind != ServerKind::Pilotlight).map(|peer| peer.name).collect();
    let mut versions: Vec<String> =
        lambda::LANGUAGES.iter().map(|language| language.versions(&scope.clients)).collect();
    versions.push(format!("aws-lambda-rie: of {}", peers::emulator_package().replace("==", " ")));
    let machine = machine::describe_with(&versions, &peers)?;
    let section = lambda_text::section(scope, &machine, &results);
    print(&section);
    if scope.write {
        write_plots(plots::of_functions(&results))?;
        replace(lambda_text::HEADING, &section)?;
    }
    print(&format!("after {:.0} s\n", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// Replaces one part of the report.
fn replace(heading: &str, section: &str) -> anyhow::Result<()> {
    let report = section::replace(&std::fs::read_to_string(report_path())?, heading, section);
    Ok(std::fs::write(report_path(), report.context("REPORT.md has no place for this part")?)?)
}

fn report_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("REPORT.md")
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
    let mut report = text::report(&plan, &results, &machine::describe(&peers)?, begun.elapsed(), &notes);
    // Streamed answers and functions are measured by their own commands; what those have written stays.
    let old = std::fs::read_to_string(report_path()).unwrap_or_default();
    for heading in [streams_text::HEADING, lambda_text::HEADING] {
        let kept = section::find(&old, heading).unwrap_or_default();
        report = section::replace(&report, heading, kept).context("the report has no place for this part")?;
    }
    std::fs::write(report_path(), report)?;
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

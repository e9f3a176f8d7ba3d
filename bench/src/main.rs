//! Owns the bench's command line: which measurement runs.

mod json;
mod load;
mod server;

use std::io::Write;

use clap::{Parser, Subcommand};

/// What pilotlight is measured with.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    measure: Measure,
}

#[derive(Subcommand)]
enum Measure {
    /// What reading one POST's body costs, by parser
    Json,
    /// Dispatches in closed loops: how many a second, how long each, what CPU
    Dispatch(load::Options),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().measure {
        Measure::Json => json::compare(),
        Measure::Dispatch(options) => load::dispatch(&options)?,
    }
    Ok(())
}

/// Writes to stdout; a reader that has gone away is no error.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

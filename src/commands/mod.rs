//! Owns the command line: which command runs, with which settings, and what the exit code says.

mod check;
mod demo;
mod machine;
mod page;
mod serve;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing_appender::non_blocking::WorkerGuard;

use crate::config::{self, ConfigError, LogFormat, Parsed, Settings};
use crate::logs;
use crate::server::{Adopted, Inherited};

/// The open warm-start broker: idle controllers wait, supervisors post runs.
#[derive(Parser)]
#[command(name = "pilotlight", version, max_term_width = 80)]
#[command(after_help = "Every setting is a flag, an environment variable (PILOTLIGHT_ and the flag in \
    upper snake case) and a key of the TOML file; a flag beats the environment, which beats the file. \
    `pilotlight config default` and `pilotlight config env` list them all.")]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the broker (the default)
    Serve,
    /// Run a broker, a simulated fleet and a supervisor in one process, and sum up
    Demo(demo::Options),
    /// Check settings, limits and addresses, and say where each value came from
    Check,
    /// Write the manual page, for man(1)
    Man,
    /// Write completions for a shell
    Completions {
        /// Which one
        shell: clap_complete::Shell,
    },
    /// Show the settings
    Config {
        #[command(subcommand)]
        what: Shown,
    },
}

#[derive(Subcommand)]
enum Shown {
    /// The default TOML file, commented
    Default,
    /// Every environment variable
    Env,
}

/// Runs the command that the arguments name.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let parsed = match config::parse(&Cli::command(), arguments.clone()) {
        Ok(parsed) => parsed,
        Err(ConfigError::Flag(error)) => {
            // Help and version come this way, too, and go to stdout.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
        Err(error) => return fail(&error.into(), 2),
    };
    match run_parsed(parsed, arguments) {
        Ok(code) => code,
        Err(error) if error.is::<ConfigError>() => fail(&error, 2),
        Err(error) => fail(&error, 1),
    }
}

fn run_parsed(parsed: Parsed, arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let cli = Cli::from_arg_matches(&parsed.matches)?;
    let settings = Settings::from_arg_matches(config::innermost(&parsed.matches))?;
    match cli.command {
        Some(Command::Config { what: Shown::Default }) => Ok(print(&config::default_toml(&Cli::command()))),
        Some(Command::Config { what: Shown::Env }) => Ok(print(&config::environment(&Cli::command()))),
        Some(Command::Man) => page::manual(&mut Cli::command()).map(|page| print(&page)),
        Some(Command::Completions { shell }) => Ok(print(&page::completions(&mut Cli::command(), shell))),
        Some(Command::Check) => check::check(&Cli::command(), &settings, &parsed),
        Some(Command::Demo(options)) => {
            let _logs = log_to_stderr(&settings, "warn");
            demo::demo(&settings, &options)
        }
        Some(Command::Serve) | None => {
            let inherited = Inherited::take()?;
            let _logs = log_to_stderr(&settings, "info");
            serve::serve(
                settings,
                inherited,
                serve::Given { command: Cli::command(), arguments, parsed, adopted: Adopted::default() },
            )
        }
    }
}

/// Writes to stdout; a reader that has gone away is no error.
fn print(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "pilotlight: {error:#}");
    ExitCode::from(code)
}

fn log_to_stderr(settings: &Settings, default: &str) -> WorkerGuard {
    logs::set_up(logs_are_json(settings), default)
}

fn logs_are_json(settings: &Settings) -> bool {
    logs::are_json(settings.log_format.map(|format| format == LogFormat::Json))
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

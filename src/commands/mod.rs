//! Owns the command line: it runs the command that the arguments name, and decides the exit code.

mod capacity;
mod check;
mod client;
mod demo;
mod dispatch;
mod health;
mod man;
mod ops_client;
mod pool_list;
mod pools;
mod process;
mod serve;
mod text;
mod top;
mod worker;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing_appender::non_blocking::WorkerGuard;

use crate::config::{self, ConfigError, ParsedSettings, Settings};
use crate::logging;
use crate::server::{InheritedAddresses, InheritedSockets};

/// The open warm-start broker: idle controllers wait, supervisors post runs.
#[derive(Parser)]
#[command(name = "pilotlight", version, max_term_width = 80)]
#[command(after_help = "Every setting is a flag, an environment variable (PILOTLIGHT_ and the flag in \
    upper snake case) and a key of the TOML file. A flag overrides the environment, which overrides the file. \
    `pilotlight config default` and `pilotlight config env` list all settings.")]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<CliCommand>,
}

#[derive(Subcommand)]
enum CliCommand {
    /// Run the broker (the default)
    Serve,
    /// Run a broker, simulated controllers and a supervisor in one process, and print a summary
    Demo(demo::Options),
    /// Post one run by hand, and say how it ended: exit code 0 delivered or replied, 1 no controller has it, 3 one may have it
    Dispatch(dispatch::Options),
    /// List the pools of a running broker
    Pools(pools::Options),
    /// Show the pools, rates and times of a running broker, and keep showing them
    Top(top::Options),
    /// Ask whether a broker lives: exit code 0 or 1, for the health checks of containers
    Health(health::Options),
    /// Run a program as a warm worker: it is started before a run comes, and the run is its standard input
    Worker(Box<worker::Options>),
    /// Check settings, files, addresses and limits, and print where each value came from
    Check,
    /// Print the manual page, for man(1)
    Man,
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the settings and their defaults
    Config {
        #[command(subcommand)]
        listing: Listing,
    },
}

#[derive(Subcommand)]
enum Listing {
    /// The default TOML file, with every key commented out
    Default,
    /// Every environment variable with its default
    Env,
}

/// The commands that talk to a running broker. The settings are those of a broker, so their help does not list them.
const CLIENTS: [&str; 5] = ["dispatch", "pools", "top", "health", "worker"];

fn command() -> Command {
    let command = Cli::command();
    let settings: Vec<_> =
        command.get_arguments().filter(|arg| arg.is_global_set()).map(|arg| arg.clone().hide(true)).collect();
    CLIENTS
        .iter()
        .fold(command, |command, name| command.mut_subcommand(name, |client| client.args(settings.clone())))
}

/// Runs the command that the arguments name.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    if let [_, first, arguments @ ..] = arguments.as_slice()
        && first == worker::EXEC
    {
        return ExitCode::from(worker::exec(arguments));
    }
    let parsed = match config::parse(&command(), arguments.clone()) {
        Ok(parsed) => parsed,
        Err(ConfigError::Flag(error)) => {
            // Clap reports help and version as errors, but prints them to stdout.
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

fn run_parsed(parsed: ParsedSettings, arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let cli = Cli::from_arg_matches(&parsed.matches)?;
    let settings = parsed.settings()?;
    match cli.command {
        Some(CliCommand::Config { listing: Listing::Default }) => {
            Ok(process::print(&config::default_toml(&command())))
        }
        Some(CliCommand::Config { listing: Listing::Env }) => {
            Ok(process::print(&config::environment_file(&command())))
        }
        Some(CliCommand::Man) => man::manual_page(&mut command()).map(|page| process::print(&page)),
        Some(CliCommand::Completions { shell }) => {
            Ok(process::print(&man::completions(&mut command(), shell)))
        }
        Some(CliCommand::Check) => check::check(&command(), &settings, &parsed),
        Some(CliCommand::Dispatch(options)) => dispatch::dispatch(&options),
        Some(CliCommand::Pools(options)) => pools::pools(&settings, &options),
        Some(CliCommand::Top(options)) => top::top(&settings, &options),
        Some(CliCommand::Health(options)) => health::health(&settings, &options),
        Some(CliCommand::Demo(options)) => {
            let _guard = start_logging(&settings, "warn");
            demo::demo(&settings, &options)
        }
        Some(CliCommand::Worker(options)) => {
            let _guard = start_logging(&settings, "info");
            worker::worker(&options)
        }
        Some(CliCommand::Serve) | None => {
            let inherited = InheritedSockets::take()?;
            let _guard = start_logging(&settings, "info");
            serve::serve(
                settings,
                inherited,
                serve::Invocation {
                    command: command(),
                    arguments,
                    parsed,
                    inherited_addresses: InheritedAddresses::default(),
                },
            )
        }
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "pilotlight: {error:#}");
    ExitCode::from(code)
}

fn start_logging(settings: &Settings, default: &str) -> WorkerGuard {
    logging::init(process::is_log_json(settings), default)
}

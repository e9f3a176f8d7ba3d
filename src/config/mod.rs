//! Owns the settings: each is one flag, one environment variable and one TOML key, defined once, here.

mod address;
mod check;
mod file;
mod settings;
mod show;

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use thiserror::Error;

pub use address::{Endpoint, ListenAddress};
pub use check::Listeners;
pub use settings::{CAN_PROVE, LogFormat, MessageCheck, PickOrder, ProofLevel, Settings};
pub use show::{default_toml, environment, values};

/// Why the settings were refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A flag or an environment variable; clap's own message says what and where.
    #[error(transparent)]
    Flag(#[from] clap::Error),
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file is no TOML, or a key or value in it is wrong.
    #[error("{path}: {what}")]
    File {
        /// The file.
        path: String,
        /// What is wrong, where, and what would be right.
        what: String,
    },
    /// Two settings contradict each other, or one contradicts the machine.
    #[error("{0}")]
    Contradiction(String),
}

/// Where a setting's value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// The TOML file.
    File,
    /// The environment.
    Environment,
    /// The command line.
    Flag,
}

/// Parsed arguments, and where each came from.
#[derive(Debug)]
pub struct Parsed {
    /// What clap found, with the file's values filled in.
    pub matches: ArgMatches,
    from_file: Vec<String>,
}

impl Parsed {
    /// Where the setting with this flag came from.
    pub fn source(&self, flag: &str) -> Source {
        if self.from_file.iter().any(|key| key == flag) {
            return Source::File;
        }
        match innermost(&self.matches).value_source(&flag.replace('-', "_")) {
            Some(ValueSource::CommandLine) => Source::Flag,
            Some(ValueSource::EnvVariable) => Source::Environment,
            _ => Source::Default,
        }
    }
}

/// Parses arguments, environment and file: a flag beats the environment, which beats the file.
pub fn parse(command: &Command, arguments: Vec<OsString>) -> Result<Parsed, ConfigError> {
    let matches = command.clone().try_get_matches_from(&arguments)?;
    let Some(path) = innermost(&matches).get_one::<std::path::PathBuf>("config") else {
        return Ok(Parsed { matches, from_file: Vec::new() });
    };
    let keys = file::read(path, command)?;
    let given = |key: &str| {
        let source = innermost(&matches).value_source(&key.replace('-', "_"));
        matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    // What only the file sets is handed to clap as if it were a flag: one parser, one set of messages.
    let filled: Vec<_> = keys.into_iter().filter(|(key, _)| !given(key)).collect();
    let flags = filled.iter().map(|(key, value)| file::flag(command, key, value));
    let matches = command.clone().try_get_matches_from(arguments.into_iter().chain(flags.flatten()))?;
    Ok(Parsed { matches, from_file: filled.into_iter().map(|(key, _)| key).collect() })
}

/// The environment variable that a refused value came from; none if it stood on the command line.
pub fn blamed_variable(command: &Command, error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(blamed)) = error.get(ContextKind::InvalidArg) else { return None };
    let flag = blamed.split(' ').next()?.strip_prefix("--")?;
    let given = |argument: &OsString| {
        let named = argument.to_str().and_then(|argument| argument.strip_prefix("--"));
        named.is_some_and(|named| named.split('=').next() == Some(flag))
    };
    let setting = file::settings(command).find(|arg| arg.get_long() == Some(flag))?;
    let variable = setting.get_env().filter(|_| !arguments.iter().any(given))?;
    Some(variable.to_string_lossy().into_owned())
}

/// Settings that are read again when the broker is told to; all others need a restart.
const READ_AGAIN: &[&str] = &[
    "connection-timeout",
    "keepalive",
    "dispatch-budget",
    "body-limit",
    "remember-runs",
    "proof",
    "proof-timeout",
    "behind-proxy",
    "proxy-protocol",
    "public-livez",
    "token-secret-file",
    "require-token",
    "dispatch-token-file",
    "ops-token-file",
    "allow-poll",
    "allow-dispatch",
    "tls-cert",
    "tls-key",
    "tls-client-ca",
    "ops-tls-cert",
    "ops-tls-key",
    "max-posts",
    "max-post-rate",
    "message-check",
];

/// The settings that differ and cannot change while the broker runs.
pub fn needing_a_restart(command: &Command, before: &Parsed, after: &Parsed) -> Vec<String> {
    let all = |parsed: &Parsed| -> Vec<_> {
        let values = values(command, innermost(&parsed.matches));
        values.map(|(flag, value)| (flag.to_owned(), value)).collect()
    };
    let changed = all(before).into_iter().zip(all(after)).filter(|(before, after)| before != after);
    changed.map(|((flag, _), _)| flag).filter(|flag| !READ_AGAIN.contains(&flag.as_str())).collect()
}

/// Global arguments are found in the innermost subcommand's matches.
pub fn innermost(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, inner)| innermost(inner))
}

#[cfg(test)]
mod tests;

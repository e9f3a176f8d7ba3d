//! Owns the settings: each is one flag, one environment variable and one TOML key, defined once, here.

mod address;
mod check;
mod environment;
mod file;
mod settings;
mod show;

use std::ffi::OsString;

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use thiserror::Error;

pub use address::{Endpoint, ListenAddress};
pub use check::Listeners;
pub use environment::misspelt;
pub use settings::{CAN_PROVE, LogFormat, MessageCheck, PickOrder, ProofLevel, Settings};
pub use show::{default_toml, environment, values};

/// Why the settings were refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A flag; clap's own message says what and where.
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
    /// An environment variable's value is wrong.
    #[error("{name}: {what}")]
    Variable {
        /// The variable.
        name: String,
        /// What is wrong with it, and what would be right.
        what: String,
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
    from_environment: Vec<String>,
}

impl Parsed {
    /// Where the setting with this flag came from.
    pub fn source(&self, flag: &str) -> Source {
        if self.from_file.iter().any(|key| key == flag) {
            return Source::File;
        }
        if self.from_environment.iter().any(|key| key == flag) {
            return Source::Environment;
        }
        match innermost(&self.matches).value_source(&flag.replace('-', "_")) {
            Some(ValueSource::CommandLine) => Source::Flag,
            _ => Source::Default,
        }
    }
}

/// Parses arguments, environment and file: a flag beats the environment, which beats the file.
pub fn parse(command: &Command, arguments: Vec<OsString>) -> Result<Parsed, ConfigError> {
    let bare = command.clone().mut_args(bare);
    let matches = bare.clone().try_get_matches_from(&arguments)?;
    let given = innermost(&matches);
    let is_given = |key: &str| given.value_source(&key.replace('-', "_")) == Some(ValueSource::CommandLine);
    let mut variables = Vec::new();
    for arg in file::settings(command) {
        let (Some(key), Some(name)) = (arg.get_long(), arg.get_env()) else { continue };
        if let Some(value) = environment::value(name).filter(|_| !is_given(key)) {
            let flag = file::flag(key, &value);
            // Parsed alone first, so that the message can name the variable.
            let wrong = |what| ConfigError::Variable { name: name.to_string_lossy().into_owned(), what };
            file::parse_alone(&bare, &flag).map_err(wrong)?;
            variables.push((key.to_owned(), value, flag));
        }
    }
    let named = variables.iter().find(|(key, ..)| key == "config").map(|(_, value, _)| value.into());
    let path = given.get_one::<std::path::PathBuf>("config").cloned().or(named);
    let keys = path.map_or_else(|| Ok(Vec::new()), |path| file::read(&path, command, &bare))?;
    let from_environment: Vec<_> = variables.iter().map(|(key, ..)| key.clone()).collect();
    let is_new = |key: &str| !is_given(key) && !from_environment.iter().any(|other| other == key);
    let keys: Vec<_> = keys.into_iter().filter(|(key, _)| is_new(key)).collect();
    // What stands elsewhere is handed to clap as if it were flags: one parser, one set of messages.
    let flags = keys.iter().map(|(key, value)| file::flag(key, value.as_ref()));
    let flags = variables.into_iter().map(|(.., flag)| flag).chain(flags);
    let mut arguments = arguments.into_iter();
    let all = arguments.next().into_iter().chain(flags).chain(arguments);
    let matches = bare.try_get_matches_from(all)?;
    Ok(Parsed { matches, from_file: keys.into_iter().map(|(key, _)| key).collect(), from_environment })
}

/// A setting as it is parsed: its variable is read here and not by clap, for which an empty one is a value; and a switch
/// can be said to be off, so that a flag beats what stands elsewhere.
fn bare(arg: Arg) -> Arg {
    let is_switch = file::is_switch(&arg);
    let arg = if arg.get_env().is_some() { arg.env(Resettable::Reset) } else { return arg };
    if !is_switch {
        return arg;
    }
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .default_value("false")
        .hide_default_value(true)
        .value_name("BOOL")
        .value_parser(switch)
}

fn switch(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" | "y" | "t" => Ok(true),
        "0" | "false" | "no" | "off" | "n" | "f" => Ok(false),
        _ => Err("neither true nor false; 1, 0, yes, no, on and off are the same".to_owned()),
    }
}

/// Settings that are read again when the broker is told to; all others need a restart.
const READ_AGAIN: &[&str] = &[
    "connection-timeout",
    "keepalive",
    "idle-timeout",
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

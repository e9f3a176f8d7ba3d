//! Owns the merging of flags, environment and file: a flag overrides the environment, which overrides the file.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use super::error::ConfigError;
use super::settings::Settings;
use super::{environment, file};

/// Parsed arguments, and the source of each.
#[derive(Debug)]
pub struct ParsedSettings {
    /// Clap's matches, which include the values from the environment and the file.
    pub matches: ArgMatches,
    from_file: Vec<String>,
    from_environment: Vec<String>,
}

/// Where a setting's value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingSource {
    /// It was not set.
    Default,
    /// The TOML file.
    File,
    /// The environment.
    Environment,
    /// The command line.
    Flag,
}

impl ParsedSettings {
    /// The values of all settings.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        Ok(Settings::from_arg_matches(self.innermost())?)
    }

    /// Where the value of the setting with this flag came from.
    pub fn source(&self, flag: &str) -> SettingSource {
        if self.from_file.iter().any(|key| key == flag) {
            return SettingSource::File;
        }
        if self.from_environment.iter().any(|key| key == flag) {
            return SettingSource::Environment;
        }
        if is_on_command_line(self.innermost(), flag) {
            return SettingSource::Flag;
        }
        SettingSource::Default
    }

    /// The matches of the innermost subcommand, where clap puts global arguments.
    pub(super) fn innermost(&self) -> &ArgMatches {
        innermost(&self.matches)
    }
}

/// Parses arguments, environment and file.
pub fn parse(command: &Command, arguments: Vec<OsString>) -> Result<ParsedSettings, ConfigError> {
    let parser = without_variables(command.clone());
    let matches = parser.clone().try_get_matches_from(&arguments)?;
    let on_command_line = innermost(&matches);

    let mut variables = Vec::new();
    for arg in file::setting_args(command) {
        let (Some(key), Some(name)) = (arg.get_long(), arg.get_env()) else { continue };
        let Some(value) = environment::value(name).filter(|_| !is_on_command_line(on_command_line, key))
        else {
            continue;
        };
        let flag = file::as_flag(key, &value);
        // Each value is parsed alone first, so that an error can name its variable.
        file::check_flag(&parser, &flag)
            .map_err(|reason| ConfigError::Variable { name: name.to_string_lossy().into_owned(), reason })?;
        variables.push((key.to_owned(), value, flag));
    }
    let from_environment: Vec<_> = variables.iter().map(|(key, ..)| key.clone()).collect();

    let by_variable = variables.iter().find(|(key, ..)| key == "config").map(|(_, value, _)| value.into());
    let path = on_command_line.get_one::<PathBuf>("config").cloned().or(by_variable);
    let mut keys = path.map_or_else(|| Ok(Vec::new()), |path| file::read(&path, command, &parser))?;
    keys.retain(|(key, _)| !is_on_command_line(on_command_line, key) && !from_environment.contains(key));

    // Values from the environment and the file are passed to clap as flags, so that there is one parser with one set of
    // messages.
    let from_file_flags = keys.iter().map(|(key, value)| file::as_flag(key, value.as_ref()));
    let flags = variables.into_iter().map(|(.., flag)| flag).chain(from_file_flags);
    let mut arguments = arguments.into_iter();
    let all = arguments.next().into_iter().chain(flags).chain(arguments);
    let matches = parser.try_get_matches_from(all)?;
    Ok(ParsedSettings {
        matches,
        from_file: keys.into_iter().map(|(key, _)| key).collect(),
        from_environment,
    })
}

fn innermost(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, inner)| innermost(inner))
}

fn is_on_command_line(matches: &ArgMatches, flag: &str) -> bool {
    matches.value_source(&flag.replace('-', "_")) == Some(ValueSource::CommandLine)
}

fn without_variables(command: Command) -> Command {
    command.mut_args(without_variable).mut_subcommands(without_variables)
}

/// Makes clap ignore a setting's variable, because `parse` treats an empty one as not set and clap would not. A switch gets
/// an optional value, so that `--flag=false` can override the environment and the file.
fn without_variable(arg: Arg) -> Arg {
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
        .value_parser(parse_bool)
}

/// Takes the same words as clap's `BoolishValueParser`, whose error does not name them.
fn parse_bool(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" | "y" | "t" => Ok(true),
        "0" | "false" | "no" | "off" | "n" | "f" => Ok(false),
        _ => Err("must be true or false (1, 0, yes, no, on and off are accepted as well)".to_owned()),
    }
}

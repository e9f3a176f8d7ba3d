//! Owns the TOML file: every key is a flag's name, anything else is an error with a suggestion.

use std::ffi::OsString;
use std::path::Path;

use clap::{ArgAction, Command};
use toml::{Table, Value};

use super::ConfigError;

/// Reads a file's keys and values, as texts that the flags' own parsers take.
pub(super) fn read(path: &Path, command: &Command) -> Result<Vec<(String, String)>, ConfigError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Unreadable { path: shown.clone(), error })?;
    let wrong = |what: String| ConfigError::File { path: shown.clone(), what };
    let table: Table = text.parse().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
    let mut found = Vec::new();
    for (key, value) in table {
        if !is_setting(command, &key) {
            return Err(wrong(unknown(command, &key)));
        }
        let value = as_text(&value).ok_or_else(|| {
            wrong(format!("`{key}` must be a text, a whole number, a boolean or a list of texts"))
        })?;
        // Parsed alone first, so that the message can name the file.
        let alone = [OsString::from("pilotlight")].into_iter().chain(flag(command, &key, &value));
        command.clone().try_get_matches_from(alone).map_err(|error| wrong(first_line(&error)))?;
        found.push((key, value));
    }
    Ok(found)
}

/// A key and its value as a command line has them. A switch that is off is not there at all.
pub(super) fn flag(command: &Command, key: &str, value: &str) -> Option<OsString> {
    let switch = settings(command).any(|arg| arg.get_long() == Some(key) && is_switch(arg));
    match value {
        "true" if switch => Some(format!("--{key}").into()),
        "false" if switch => None,
        value => Some(format!("--{key}={value}").into()),
    }
}

/// The settings are the arguments with an environment variable, except the file itself.
pub(super) fn settings(command: &Command) -> impl Iterator<Item = &clap::Arg> {
    command.get_arguments().filter(|arg| arg.get_env().is_some())
}

fn is_setting(command: &Command, key: &str) -> bool {
    settings(command).any(|arg| arg.get_long() == Some(key) && key != "config")
}

fn unknown(command: &Command, key: &str) -> String {
    let names = settings(command).filter_map(clap::Arg::get_long).filter(|name| *name != "config");
    let nearest = names.max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
    match nearest {
        Some(name) => format!("unknown key `{}`; did you mean `{name}`?", key.escape_default()),
        None => format!("unknown key `{}`", key.escape_default()),
    }
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => {
            items.iter().map(Value::as_str).collect::<Option<Vec<_>>>().map(|items| items.join(","))
        }
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(flag) => Some(flag.to_string()),
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => None,
    }
}

fn first_line(error: &clap::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// Whether the argument is a switch without a value.
pub(super) fn is_switch(arg: &clap::Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

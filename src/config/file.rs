//! Owns the TOML file: every key is a flag's name, and any other key is an error with a suggestion.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

use super::error::ConfigError;

/// The least similarity (Jaro-Winkler, 0 to 1) at which an unknown key is taken for a typing error.
const MIN_SIMILARITY: f64 = 0.85;
/// `config` cannot be set in a file, and the unsafe flag is never suggested.
const NEVER_SUGGESTED: [&str; 2] = ["config", "insecure-no-auth"];

/// Reads a file's keys, with their values as texts for the flags' own parsers.
pub(super) fn read(
    path: &Path,
    command: &Command,
    parser: &Command,
) -> Result<Vec<(String, String)>, ConfigError> {
    let path_text = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Unreadable { path: path_text.clone(), error })?;
    let refuse = |reason: String| ConfigError::File { path: path_text.clone(), reason };
    let table: Table = text.parse().map_err(|error: toml::de::Error| refuse(error.to_string()))?;
    let mut found = Vec::new();
    for (key, value) in table {
        let setting = setting_args(command).find(|arg| arg.get_long() == Some(&key) && key != "config");
        let Some(setting) = setting else {
            return Err(refuse(unknown_key(command, &key, &value)));
        };
        if is_switch(setting) && !value.is_bool() {
            return Err(refuse(format!("`{key}` must be true or false")));
        }
        if value.as_array().is_some_and(Vec::is_empty) {
            return Err(refuse(format!("`{key}` is an empty list; leave it out to get the default")));
        }
        let value = as_text(&value).ok_or_else(|| {
            refuse(format!("`{key}` must be a string, an integer, a boolean or a list of strings"))
        })?;
        // Each value is parsed alone first, so that an error can name the file.
        check_flag(parser, &as_flag(&key, value.as_ref())).map_err(refuse)?;
        found.push((key, value));
    }
    Ok(found)
}

/// The arguments that are settings: those with an environment variable.
pub(super) fn setting_args(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| arg.get_env().is_some())
}

/// Whether the argument is a switch, which needs no value.
pub(super) fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// A key and its value in the form of a command-line flag.
pub(super) fn as_flag(key: &str, value: &OsStr) -> OsString {
    let mut flag = OsString::from(format!("--{key}="));
    flag.push(value);
    flag
}

/// Parses a flag alone. The error says what is wrong and what would be right.
pub(super) fn check_flag(parser: &Command, flag: &OsStr) -> Result<(), String> {
    let arguments = [OsStr::new("pilotlight"), flag];
    parser.clone().try_get_matches_from(arguments).map(drop).map_err(|error| message(&error))
}

fn unknown_key(command: &Command, key: &str, value: &Value) -> String {
    let shown = key.escape_default();
    if value.is_table() {
        return format!("unknown table `{shown}`; all keys belong at the top level, not in a table");
    }
    let wanted = key.to_lowercase().replace('_', "-");
    let wanted = wanted.strip_prefix("pilotlight-").unwrap_or(&wanted);
    let names = setting_args(command).filter_map(Arg::get_long);
    let candidates = names.filter(|name| !NEVER_SUGGESTED.contains(name));
    let rated = candidates.map(|name| (strsim::jaro_winkler(name, wanted), name));
    match rated.max_by(|(one, _), (other, _)| one.total_cmp(other)) {
        Some((similarity, name)) if similarity > MIN_SIMILARITY => {
            format!("unknown key `{shown}`; did you mean `{name}`?")
        }
        _ => format!("unknown key `{shown}`; `pilotlight config default` lists all keys"),
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

/// Clap's message in one line, without the usage below it.
fn message(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
    lines.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned()
}

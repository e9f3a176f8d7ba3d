//! Owns the TOML file: every key is a flag's name, anything else is an error with a suggestion.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{ArgAction, Command};
use toml::{Table, Value};

use super::ConfigError;

/// A key that is less like a setting's name than this is no typing error.
const LIKELY: f64 = 0.85;
/// One is no key, the other nobody's by mistake.
const NOT_SUGGESTED: [&str; 2] = ["config", "insecure-no-auth"];

/// Reads a file's keys and values, as texts that the flags' own parsers take.
pub(super) fn read(
    path: &Path,
    command: &Command,
    bare: &Command,
) -> Result<Vec<(String, String)>, ConfigError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Unreadable { path: shown.clone(), error })?;
    let wrong = |what: String| ConfigError::File { path: shown.clone(), what };
    let table: Table = text.parse().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
    let mut found = Vec::new();
    for (key, value) in table {
        let Some(setting) = settings(command).find(|arg| arg.get_long() == Some(&key) && key != "config")
        else {
            return Err(wrong(unknown(command, &key, &value)));
        };
        if is_switch(setting) && !value.is_bool() {
            return Err(wrong(format!("`{key}` is true or false")));
        }
        if value.as_array().is_some_and(Vec::is_empty) {
            return Err(wrong(format!("`{key}` is an empty list; leave it out for the default")));
        }
        let value = as_text(&value).ok_or_else(|| {
            wrong(format!("`{key}` must be a text, a whole number, a boolean or a list of texts"))
        })?;
        // Parsed alone first, so that the message can name the file.
        parse_alone(bare, &flag(&key, value.as_ref())).map_err(wrong)?;
        found.push((key, value));
    }
    Ok(found)
}

/// A key and its value as a command line has them.
pub(super) fn flag(key: &str, value: &OsStr) -> OsString {
    let mut flag = OsString::from(format!("--{key}="));
    flag.push(value);
    flag
}

/// Whether a flag can be parsed; the error says what is wrong and what would be right.
pub(super) fn parse_alone(bare: &Command, flag: &OsStr) -> Result<(), String> {
    let alone = [OsStr::new("pilotlight"), flag];
    bare.clone().try_get_matches_from(alone).map(drop).map_err(|error| said(&error))
}

/// The settings are the arguments with an environment variable, except the file itself.
pub(super) fn settings(command: &Command) -> impl Iterator<Item = &clap::Arg> {
    command.get_arguments().filter(|arg| arg.get_env().is_some())
}

fn unknown(command: &Command, key: &str, value: &Value) -> String {
    let shown = key.escape_default();
    if value.is_table() {
        return format!("unknown table `{shown}`; all keys stand at the top, in none");
    }
    let meant = key.to_lowercase().replace('_', "-");
    let meant = meant.strip_prefix("pilotlight-").unwrap_or(&meant);
    let names = settings(command).filter_map(clap::Arg::get_long);
    let near =
        names.filter(|name| !NOT_SUGGESTED.contains(name)).map(|n| (strsim::jaro_winkler(n, meant), n));
    match near.max_by(|(one, _), (other, _)| one.total_cmp(other)) {
        Some((likeness, name)) if likeness > LIKELY => {
            format!("unknown key `{shown}`; did you mean `{name}`?")
        }
        _ => format!("unknown key `{shown}`; `pilotlight config default` lists them all"),
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

/// What is wrong and what would be right, without the usage.
fn said(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
    lines.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned()
}

/// Whether the argument is a switch without a value.
pub(super) fn is_switch(arg: &clap::Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

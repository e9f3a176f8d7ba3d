//! Owns what is shown of the settings: the commented default file, the environment variables.

use std::fmt::Write;

use clap::{Arg, ArgMatches, Command};

use super::file::{is_switch, settings};

/// The default TOML file: every key, commented out, with its meaning above it.
pub fn default_toml(command: &Command) -> String {
    let mut text =
        String::from("# pilotlight's settings. A flag beats the environment, which beats this file.\n");
    for arg in settings(command).filter(|arg| arg.get_long() != Some("config")) {
        let name = arg.get_long().unwrap_or_default();
        let value = match default(arg) {
            _ if is_switch(arg) => "false".to_owned(),
            Some(value) if value.parse::<i64>().is_ok() => value,
            Some(value) => format!("\"{value}\""),
            None => "…".to_owned(),
        };
        // Writing into a String cannot fail.
        let _ = write!(text, "\n# {}\n# {name} = {value}\n", help(arg));
    }
    text
}

/// Every environment variable with its default, as an environment file that changes nothing.
pub fn environment(command: &Command) -> String {
    let mut text = String::from("# pilotlight's environment. A flag beats it; it beats the file.\n");
    for arg in settings(command) {
        let name = arg.get_env().unwrap_or_default().to_string_lossy();
        let value = if is_switch(arg) { "false".to_owned() } else { default(arg).unwrap_or_default() };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "\n# {}\n# {name}={value}", help(arg));
    }
    text
}

/// Every setting's flag with the value that was parsed.
pub fn values<'a>(command: &'a Command, matches: &'a ArgMatches) -> impl Iterator<Item = (&'a str, String)> {
    settings(command).map(|arg| {
        let raw = matches.try_get_raw(arg.get_id().as_str()).ok().flatten();
        let value =
            raw.map(|values| values.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(","));
        // However it was said.
        let switch = is_switch(arg).then(|| matches.get_flag(arg.get_id().as_str()).to_string());
        (arg.get_long().unwrap_or_default(), switch.or(value).unwrap_or_else(|| "-".to_owned()))
    })
}

fn default(arg: &Arg) -> Option<String> {
    arg.get_default_values().first().map(|value| value.to_string_lossy().into_owned())
}

fn help(arg: &Arg) -> String {
    arg.get_help().map(ToString::to_string).unwrap_or_default()
}

//! Owns the listings of settings: the commented default file, the environment variables, the values in force.

use std::fmt::Write;

use clap::{Arg, Command};

use super::file::{is_switch, setting_args};
use super::parse::ParsedSettings;

/// The default TOML file: every key, commented out, below its description.
pub fn default_toml(command: &Command) -> String {
    let mut text = String::from(
        "# pilotlight's settings. A flag overrides the environment, which overrides this file.\n",
    );
    for arg in setting_args(command).filter(|arg| arg.get_long() != Some("config")) {
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

/// An environment file with every variable, commented out with its default, below its description.
pub fn environment_file(command: &Command) -> String {
    let mut text = String::from(
        "# pilotlight's environment variables. A flag overrides them; they override the TOML file.\n",
    );
    for arg in setting_args(command) {
        let name = arg.get_env().unwrap_or_default().to_string_lossy();
        let value = if is_switch(arg) { "false".to_owned() } else { default(arg).unwrap_or_default() };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "\n# {}\n# {name}={value}", help(arg));
    }
    text
}

/// The flag of every setting with the value that was parsed.
pub fn values<'a>(
    command: &'a Command,
    parsed: &'a ParsedSettings,
) -> impl Iterator<Item = (&'a str, String)> {
    let matches = parsed.innermost();
    setting_args(command).map(|arg| {
        let id = arg.get_id().as_str();
        let raw = matches.try_get_raw(id).ok().flatten();
        let text =
            raw.map(|values| values.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(","));
        // A switch that was set to `yes` is shown as `true`.
        let switch = is_switch(arg).then(|| matches.get_flag(id).to_string());
        (arg.get_long().unwrap_or_default(), switch.or(text).unwrap_or_else(|| "-".to_owned()))
    })
}

fn default(arg: &Arg) -> Option<String> {
    arg.get_default_values().first().map(|value| value.to_string_lossy().into_owned())
}

fn help(arg: &Arg) -> String {
    arg.get_help().map(ToString::to_string).unwrap_or_default()
}

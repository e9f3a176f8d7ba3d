//! Owns the environment: the variable of each setting, and variables that are nearly one.

use std::env;
use std::ffi::{OsStr, OsString};

use clap::Command;

use super::file::settings;

const PREFIX: &str = "PILOTLIGHT";
/// A name that is as much like a setting's variable as this is a typing error.
const LIKELY: f64 = 0.85;

/// What the variable of a setting says; none if it is not set, or empty. White space around it is not meant.
pub(super) fn value(variable: &OsStr) -> Option<OsString> {
    let value = env::var_os(variable)?;
    let value = value.to_str().map_or_else(|| value.clone(), |text| text.trim().into());
    Some(value).filter(|value| !value.is_empty())
}

/// Variables that look like a setting's and are none, each with the one that may be meant. Their values are not shown.
pub fn misspelt(command: &Command) -> Vec<String> {
    let known: Vec<String> =
        settings(command).filter_map(|arg| Some(arg.get_env()?.to_string_lossy().into_owned())).collect();
    let mut found = Vec::new();
    for (name, value) in env::vars_os() {
        let name = name.to_string_lossy();
        let upper = name.to_uppercase();
        if upper == PREFIX || known.iter().any(|known| **known == *name) || is_of_a_service(&upper, &value) {
            continue;
        }
        let likeness = |known: &str| strsim::normalized_damerau_levenshtein(known, &upper);
        let nearest = known.iter().map(|known| (likeness(known), known));
        let nearest = nearest.max_by(|(one, _), (other, _)| one.total_cmp(other));
        let shown = name.escape_default();
        match nearest.filter(|(likeness, _)| *likeness >= LIKELY) {
            Some((_, meant)) => found.push(format!("{shown} is no setting; did you mean {meant}?")),
            None if upper.starts_with(PREFIX) => {
                found.push(format!("{shown} is no setting; `pilotlight config env` lists them all"));
            }
            None => {}
        }
    }
    found.sort();
    found
}

/// Whether it is one of those that Kubernetes sets for a Service whose name begins with `pilotlight`.
fn is_of_a_service(name: &str, value: &OsStr) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let is_url =
        ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.to_string_lossy().starts_with(scheme));
    let is_port_of = |(_, port): (&str, &str)| {
        let (number, rest) = port.split_once('_').unwrap_or((port, ""));
        number.parse::<u16>().is_ok()
            && ["TCP", "UDP", "SCTP"].iter().any(|protocol| rest.starts_with(protocol))
    };
    rest.ends_with("_SERVICE_HOST")
        || rest.ends_with("_SERVICE_PORT")
        || rest.contains("_SERVICE_PORT_")
        || rest.ends_with("_PORT") && is_url
        || rest.split_once("_PORT_").is_some_and(is_port_of)
}

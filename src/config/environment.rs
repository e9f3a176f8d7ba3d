//! Owns the environment: the variable of each setting, and variables that look like a misspelt one.

use std::env;
use std::ffi::{OsStr, OsString};

use clap::Command;

use super::file::setting_args;

const PREFIX: &str = "PILOTLIGHT";
/// The least similarity (Damerau-Levenshtein, 0 to 1) at which a name is taken for a misspelt variable.
const MIN_SIMILARITY: f64 = 0.85;

/// The value of a variable without the white space around it; none if it is empty or not set.
pub(super) fn value(variable: &OsStr) -> Option<OsString> {
    let value = env::var_os(variable)?;
    let value = value.to_str().map_or_else(|| value.clone(), |text| text.trim().into());
    Some(value).filter(|value| !value.is_empty())
}

/// A warning for each variable that looks like a setting's but is not one, with the most similar setting. Their values are
/// never shown: they may be secret.
pub fn misspelt_variables(command: &Command) -> Vec<String> {
    let known: Vec<String> =
        setting_args(command).filter_map(|arg| Some(arg.get_env()?.to_string_lossy().into_owned())).collect();
    let mut found = Vec::new();
    for (name, value) in env::vars_os() {
        let name = name.to_string_lossy();
        let upper = name.to_uppercase();
        let is_known = upper == PREFIX || known.iter().any(|known| **known == *name);
        if is_known || is_kubernetes_service(&upper, &value) {
            continue;
        }
        let rated = known.iter().map(|known| (strsim::normalized_damerau_levenshtein(known, &upper), known));
        let nearest = rated.max_by(|(one, _), (other, _)| one.total_cmp(other));
        let shown = name.escape_default();
        match nearest.filter(|(similarity, _)| *similarity >= MIN_SIMILARITY) {
            Some((_, nearest)) => found.push(format!("{shown} is not a setting; did you mean {nearest}?")),
            None if upper.starts_with(PREFIX) => {
                found.push(format!("{shown} is not a setting; `pilotlight config env` lists all variables"));
            }
            None => {}
        }
    }
    found.sort();
    found
}

/// Whether Kubernetes sets this variable for a Service whose name begins with `pilotlight`.
fn is_kubernetes_service(name: &str, value: &OsStr) -> bool {
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

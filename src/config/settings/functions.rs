//! Owns the settings of functions: which pool each is, when it is called through AWS Lambda's Invoke API.

use std::str::FromStr;

use ahash::RandomState;
use clap::Args;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use percent_encoding::percent_decode_str;

use crate::broker::{Number, check_part};
use crate::config::error::ConfigError;

/// The qualifier of a function that is called without one.
pub const LATEST: &str = "$LATEST";
/// The version of a pool that is the caller's qualifier.
const ANY: &str = "*";

/// Functions that are called through AWS Lambda's Invoke API.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Functions")]
pub struct FunctionSettings {
    /// The functions that callers of AWS Lambda's Invoke API may call, each with its pool: NAME=DEPLOYMENT/VERSION/CPU/MEMORY, percent-encoded; a NAME:QUALIFIER is for that qualifier only, and the version * is the caller's qualifier [default: each name is a deployment, its qualifier or $LATEST the version, without cpu and memory]
    #[arg(long, value_name = "NAME=POOL,...", value_delimiter = ',')]
    pub function: Vec<FunctionPool>,
}

impl FunctionSettings {
    pub(in crate::config) fn validate(&self) -> Result<(), ConfigError> {
        self.table().map(drop)
    }

    /// The functions by their names. An error if one is named twice.
    pub fn table(&self) -> Result<FunctionTable, ConfigError> {
        let mut pools = HashMap::default();
        for function in &self.function {
            match pools.entry(function.name.clone()) {
                Entry::Vacant(entry) => drop(entry.insert(function.clone())),
                Entry::Occupied(_) => {
                    let name = &function.name;
                    return Err(ConfigError::invalid(format!("--function has two pools for {name}")));
                }
            }
        }
        Ok(FunctionTable(pools))
    }
}

/// The pool of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionPool {
    /// The function's name, with its qualifier if it is of this one only.
    name: String,
    /// The deployment of the pool.
    pub deployment: String,
    /// The version of the pool; none if it is the caller's qualifier.
    version: Option<String>,
    /// vCPUs.
    pub cpu: Number,
    /// GB of memory.
    pub memory: Number,
}

impl FunctionPool {
    /// The version of the pool for a caller with this qualifier.
    pub fn version<'a>(&'a self, qualifier: &'a str) -> &'a str {
        self.version.as_deref().unwrap_or(qualifier)
    }
}

impl FromStr for FunctionPool {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = "must be NAME=DEPLOYMENT/VERSION/CPU/MEMORY, such as hello=my-app/v1/0.5/1; a slash or a comma in the pool is %2F or %2C";
        let (name, pool) = text.split_once('=').ok_or(form)?;
        let (function, qualifier) =
            name.split_once(':').map_or((name, None), |(name, qualifier)| (name, Some(qualifier)));
        let is_of = |text: &str, others: &[u8]| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
        };
        if !is_of(function, b"-_.") || !qualifier.is_none_or(|qualifier| is_of(qualifier, b"-_.$")) {
            return Err(format!(
                "{form}; a name has letters, digits, `-`, `_` and `.`, and perhaps a qualifier after `:`"
            ));
        }
        let parts: Vec<&str> = pool.split('/').collect();
        let [deployment, version, cpu, memory] = parts[..] else { return Err(form.to_owned()) };
        let decode = |what: &str, part: &str| {
            let text = percent_decode_str(part).decode_utf8().map_err(|_| format!("{what} is not UTF-8"))?;
            check_part(&text).map_err(|error| format!("{what} {error}"))?;
            Ok::<_, String>(text.into_owned())
        };
        let number = |what: &str, part: &str| Number::parse(part).map_err(|error| format!("{what} {error}"));
        let version = (version != ANY).then(|| decode("the version", version)).transpose()?;
        // `NAME` and `NAME:$LATEST` are one function to a caller.
        let name = if qualifier == Some(LATEST) { function } else { name };
        Ok(Self {
            name: name.to_owned(),
            deployment: decode("the deployment", deployment)?,
            version,
            cpu: number("the cpu figure", cpu)?,
            memory: number("the memory figure", memory)?,
        })
    }
}

/// Which pool each function is.
#[derive(Debug, Clone, Default)]
pub struct FunctionTable(HashMap<String, FunctionPool, RandomState>);

impl FunctionTable {
    /// Whether no function is listed, so that each name is a deployment.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The pool of a function. None if it is not listed: neither with this qualifier, nor without one for each qualifier.
    pub fn find(&self, name: &str, qualifier: &str) -> Option<&FunctionPool> {
        let is_latest = qualifier == LATEST;
        let exact = if is_latest { None } else { self.0.get(&format!("{name}:{qualifier}")) };
        exact.or_else(|| self.0.get(name).filter(|pool| is_latest || pool.version.is_none()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(functions: &[&str]) -> FunctionTable {
        let function = functions.iter().map(|text| text.parse().unwrap()).collect();
        FunctionSettings { function }.table().unwrap()
    }

    #[test]
    fn a_function_is_found_by_its_name_and_the_qualifiers_that_it_has() {
        let table = table(&["a=app/v1/0.5/1", "b=my%2Fapp/*/0/0", "b:prod=app/v2/0/0", "c:7=app/v3/0/0"]);
        for (name, qualifier, found) in [
            ("a", LATEST, Some(("app", "v1"))),
            ("a", "prod", None),
            ("b", LATEST, Some(("my/app", LATEST))),
            ("b", "8", Some(("my/app", "8"))),
            ("b", "prod", Some(("app", "v2"))),
            ("c", "7", Some(("app", "v3"))),
            ("c", LATEST, None),
            ("d", LATEST, None),
        ] {
            let pool = table.find(name, qualifier);
            assert_eq!(
                pool.map(|pool| (&*pool.deployment, pool.version(qualifier))),
                found,
                "{name}:{qualifier}"
            );
        }
        assert_eq!(table.find("a", LATEST).map(|pool| (pool.cpu.get(), pool.memory.get())), Some((0.5, 1.0)));
    }

    #[test]
    fn what_is_no_function_is_refused() {
        for text in [
            "",
            "a",
            "a=",
            "=app/v1/0/0",
            "a b=app/v1/0/0",
            "a:=app/v1/0/0",
            "a=app/v1/0",
            "a=app/v1/0/0/0",
            "a=/v1/0/0",
            "a=app//0/0",
            "a=app/v1/x/0",
            "a=app/v1/0/-1",
            "a=app/v%ff/0/0",
            "a=app/v%0a/0/0",
        ] {
            text.parse::<FunctionPool>().expect_err(text);
        }
        for name in ["a", "a:$LATEST"] {
            let function =
                vec!["a=app/v1/0/0".parse().unwrap(), format!("{name}=app/v2/0/0").parse().unwrap()];
            FunctionSettings { function }.table().expect_err(name);
        }
    }
}

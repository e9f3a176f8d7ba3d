//! Owns what a function is told about itself: the usual variables of its environment, and its name as AWS writes it.

use std::ffi::OsString;

use hyper::header::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::commands::worker::program::CommandSpec;

/// What stays as it is in a part of a function's ARN.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'$');
/// Where a function is, if nothing says so.
const DEFAULT_REGION: &str = "us-east-1";
/// The memory of a function whose pool says 0, in MiB.
const DEFAULT_MEMORY: f64 = 3008.0;

/// One function, as the pool names it.
#[derive(Debug)]
pub(in crate::commands::worker) struct Function {
    pub(super) name: String,
    pub(super) version: String,
    /// In MiB.
    memory: f64,
    region: String,
    /// `arn:aws:lambda:REGION:000000000000:function:NAME:VERSION`
    pub(super) arn: HeaderValue,
}

impl Function {
    /// The deployment is the name; the memory is in GiB, as a number.
    pub(in crate::commands::worker) fn new(deployment: &str, version: &str, memory: &str) -> Self {
        let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
        Self::in_region(deployment, version, memory, region.as_deref().unwrap_or(DEFAULT_REGION))
    }

    fn in_region(name: &str, version: &str, memory: &str, region: &str) -> Self {
        let encode = |part| utf8_percent_encode(part, ENCODED);
        let [region_part, name_part, version_part] = [region, name, version].map(encode);
        let arn = format!("arn:aws:lambda:{region_part}:000000000000:function:{name_part}:{version_part}");
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            memory: memory
                .parse()
                .ok()
                .filter(|memory| *memory > 0.0)
                .map_or(DEFAULT_MEMORY, |gib: f64| gib * 1024.0),
            region: region.to_owned(),
            // Nothing else is left after the encoding.
            arn: HeaderValue::from_str(&arn).unwrap_or(HeaderValue::from_static("arn:aws:lambda")),
        }
    }

    /// Sets the variables that are not set. `stream` names the slot's part of the log.
    pub(super) fn apply(&self, command: &mut CommandSpec, stream: &str) {
        let Self { name, version, memory, region, .. } = self;
        let variables = [
            ("AWS_LAMBDA_FUNCTION_NAME", name.clone()),
            ("AWS_LAMBDA_FUNCTION_VERSION", version.clone()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", format!("{memory:.0}")),
            ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{name}")),
            ("AWS_LAMBDA_LOG_STREAM_NAME", format!("[{version}]{stream}")),
            ("AWS_REGION", region.clone()),
            ("AWS_DEFAULT_REGION", region.clone()),
        ];
        for (name, value) in variables {
            if std::env::var_os(name).is_none() {
                command.set_variable(name, Some(OsString::from(value)));
            }
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name)?.into_string().ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_is_safe_in_a_header_whatever_the_pool_is_called() {
        let function = Function::in_region("my app\u{e9}", "$LATEST", "0.5", "eu-central-1");
        let expected = "arn:aws:lambda:eu-central-1:000000000000:function:my%20app%C3%A9:$LATEST";
        assert_eq!(function.arn, expected);
        assert!((function.memory - 512.0).abs() < f64::EPSILON);
        assert!((Function::in_region("f", "1", "0", "r").memory - DEFAULT_MEMORY).abs() < f64::EPSILON);
    }
}

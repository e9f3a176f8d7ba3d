//! Owns the arguments of `pilotlight worker`.

use std::ffi::OsString;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use humantime::parse_duration;
use hyper::header::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::broker::{Number, check_part};
use crate::commands::client::{BrokerUrl, ClientOptions};

/// The longest text of `--metadata`, in bytes.
const MAX_METADATA: usize = 1024;
/// The longest `--timeout`: clocks and runtimes cannot count any time.
const MAX_TIMEOUT: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// What stays as it is in a segment of a path.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The arguments of the worker.
#[derive(Debug, Clone, Args)]
pub(in crate::commands) struct Options {
    /// Where the broker waits for controllers
    #[arg(long, value_name = "URL")]
    pub(super) broker: BrokerUrl,

    /// The pool to wait in: DEPLOYMENT/VERSION/CPU/MEMORY, percent-encoded where a part has a slash
    #[arg(long, value_name = "POOL")]
    pub(super) pool: PoolPath,

    /// How many programs wait at a time, each for one run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) slots: u16,

    /// Run all runs of a slot with one program, which reads and writes lines of JSON
    #[arg(long)]
    pub(super) keep: bool,

    /// Run an AWS Lambda function: serve the Lambda Runtime API to the program
    #[arg(long, conflicts_with_all = ["keep", "ready_after", "buffer", "content_type"])]
    pub(super) runtime_api: bool,

    /// A program is ready after this time, instead of when it reads its standard input
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    pub(super) ready_after: Option<Duration>,

    /// Hold the reply back until its end (up to 64MiB), so that a failed run has no part of one
    #[arg(long)]
    pub(super) buffer: bool,

    /// Kill the program if its run takes longer [default: 15m with --runtime-api]
    #[arg(long, value_name = "DUR", value_parser = parse_timeout)]
    pub(super) timeout: Option<Duration>,

    /// The content type of replies
    #[arg(long, value_name = "TYPE", default_value = "application/octet-stream", value_parser = HeaderValue::from_str)]
    pub(super) content_type: HeaderValue,

    /// What a hit tells the supervisor about this worker (printable ASCII, up to 1024 bytes; it may be secret)
    #[arg(long, value_name = "TEXT", value_parser = parse_metadata)]
    pub(super) metadata: Option<String>,

    #[command(flatten)]
    pub(super) client: ClientOptions,

    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(super) command: Vec<OsString>,
}

/// A pool, as it was written and as a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PoolPath {
    /// As it was written.
    pub(super) text: String,
    /// `/v1/pools/…`
    pub(super) path: String,
    pub(super) deployment: String,
    pub(super) version: String,
    /// A number.
    pub(super) memory: String,
}

impl FromStr for PoolPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = "must be DEPLOYMENT/VERSION/CPU/MEMORY, such as my-app/v1/0.5/1";
        let parts = text.split('/').map(|part| percent_decode_str(part).decode_utf8().map_err(|_| malformed));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let [deployment, version, cpu, memory] = parts.as_slice() else { return Err(malformed.to_owned()) };
        for (name, part) in [("deployment", deployment), ("version", version)] {
            check_part(part).map_err(|why| format!("the {name} {why}"))?;
        }
        for (name, part) in [("cpu", cpu), ("memory", memory)] {
            Number::parse(part).map_err(|why| format!("the {name} {why}"))?;
        }
        let path =
            parts.iter().flat_map(|part| ["/".to_owned(), utf8_percent_encode(part, ENCODED).to_string()]);
        let path = format!("/v1/pools{}", path.collect::<String>());
        let [deployment, version, memory] = [deployment, version, memory].map(ToString::to_string);
        Ok(Self { text: text.to_owned(), path, deployment, version, memory })
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout = parse_duration(text).map_err(|error| error.to_string())?;
    if timeout > MAX_TIMEOUT {
        return Err("must be a year at most".to_owned());
    }
    Ok(timeout)
}

/// The error does not quote the text.
fn parse_metadata(text: &str) -> Result<String, String> {
    if text.len() > MAX_METADATA || !text.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return Err(format!("must be printable ASCII of at most {MAX_METADATA} bytes"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_four_parts() {
        let path = |text: &str| text.parse::<PoolPath>().map(|pool| pool.path);
        assert_eq!(path("my-app/v1/0.5/1").as_deref(), Ok("/v1/pools/my-app/v1/0.5/1"));
        assert_eq!(path("my%2Fapp/a b/1e0/1").as_deref(), Ok("/v1/pools/my%2Fapp/a%20b/1e0/1"));
        for latest in ["resize/$LATEST/0/0", "resize/%24LATEST/0/0"] {
            let pool: PoolPath = latest.parse().unwrap();
            assert_eq!(
                (pool.version.as_str(), pool.path.as_str()),
                ("$LATEST", "/v1/pools/resize/%24LATEST/0/0")
            );
        }
        for text in
            ["", "my-app", "my/app/v1/0.5/1", "/v1/1/1", "a/v1/x/1", "a/v1/1/-1", "a/%ff/1/1", "a/v1/1/1/"]
        {
            assert!(path(text).is_err(), "{text}");
        }
    }
}

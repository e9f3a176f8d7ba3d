//! Owns the path and the query of a worker's request about a run: `POST /v1/runs/{run}/ack`, `/ready`, `/reply` and `/error`.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::problem::Problem;
use crate::broker::check_part;
use crate::transport::RUNS_PATH;

/// The parameter of a request that another broker has passed on, so that it is not passed on again.
pub(super) const PASSED_ON: &str = "passed_on";

/// A path of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunPath<'a> {
    /// The run, percent-encoded.
    pub(super) run: &'a str,
    pub(super) resource: RunResource,
}

/// What a worker says of a run that it was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunResource {
    /// It has read it.
    Ack,
    /// It can take another one.
    Ready,
    /// This is the answer.
    Reply,
    /// The run has failed.
    Error,
}

/// The parameters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RunQuery<'a> {
    pub(super) token: Option<Cow<'a, str>>,
    pub(super) is_ready: bool,
    pub(super) is_passed_on: bool,
}

impl<'a> RunPath<'a> {
    /// The path as one of a run; none if it is another one.
    pub(super) fn find(path: &'a str) -> Option<Self> {
        let (run, resource) = path.strip_prefix(RUNS_PATH)?.split_once('/')?;
        let resource = match resource {
            "ack" => RunResource::Ack,
            "ready" => RunResource::Ready,
            "reply" => RunResource::Reply,
            "error" => RunResource::Error,
            _ => return None,
        };
        Some(Self { run, resource })
    }

    /// The run; none for a text that no run can have.
    pub(super) fn decode_run(&self) -> Option<Cow<'a, str>> {
        let run = percent_decode_str(self.run).decode_utf8().ok()?;
        check_part(&run).is_ok().then_some(run)
    }
}

impl RunResource {
    /// The last segment of its path.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Ready => "ready",
            Self::Reply => "reply",
            Self::Error => "error",
        }
    }
}

impl<'a> RunQuery<'a> {
    pub(super) fn parse(resource: RunResource, query: Option<&'a str>) -> Result<Self, Problem> {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let flag = || {
                let bad = || Problem::bad_parameter(&name, "is neither true nor false");
                value.parse().map_err(|_| bad())
            };
            match &*name {
                "token" if parsed.token.is_some() => {
                    return Err(Problem::bad_parameter("token", "occurs more than once"));
                }
                "token" => parsed.token = Some(value),
                "ready" if resource == RunResource::Ack => parsed.is_ready = flag()?,
                PASSED_ON => parsed.is_passed_on = flag()?,
                _ => {
                    let known = match resource {
                        RunResource::Ack => "has an unknown name; known: token, ready",
                        RunResource::Ready | RunResource::Reply | RunResource::Error => {
                            "has an unknown name; known: token"
                        }
                    };
                    return Err(Problem::bad_parameter("The query", known));
                }
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_run_and_what_is_done_to_it() {
        let found = |path| RunPath::find(path).map(|RunPath { run, resource }| (run, resource));
        assert_eq!(found("/v1/runs/a%2Fb/ack"), Some(("a%2Fb", RunResource::Ack)));
        for resource in [RunResource::Ready, RunResource::Reply, RunResource::Error] {
            let path = format!("/v1/runs/a/{}", resource.text());
            assert_eq!(RunPath::find(&path), Some(RunPath { run: "a", resource }));
        }
        for other in [
            "/v1/runs/",
            "/v1/runs/a",
            "/v1/runs/ack",
            "/v1/runs/a/acks",
            "/v1/runs/a/b/ack",
            "/v1/pools/a/ack",
        ] {
            assert_eq!(found(other), None, "{other}");
        }
    }
}

//! Owns the dialect of AWS Lambda's callers: Invoke and `InvokeWithResponseStream`, as the stock SDKs send them.

mod error;
mod fields;
mod function_name;

use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;

use super::interface::{Dialect, DispatchHead, ParsedDispatch, PoolKey, Resource};
use super::run_name::RunName;
use crate::broker::{Number, PayloadKind, check_part};
use crate::dispatch::Outcome;
use crate::http::h1::RequestHead;
use crate::http::problem::Problem;
use crate::http::response::{HttpResponse, ResponseBody, append_field};
use crate::http::state::{HttpState, RequestLimits};
use crate::lambda::event;
use crate::metrics::Route;
use crate::model::random_uuid;
use crate::reply::ResponseStyle;
use error::{bad_content, miss, refuse, unknown_function};
use fields::{InvocationType, InvokeFields};
use function_name::FunctionName;

/// How long a call waits for a worker. In a closed loop, the caller has its result before the worker polls again.
const WAIT: Duration = Duration::from_millis(150);
/// The largest event of a call whose result is not awaited, in bytes, as with AWS.
const MAX_ASYNC_EVENT_BYTES: usize = 1024 * 1024;

/// One of the two calls.
pub(super) struct Invoke {
    prefix: &'static str,
    suffix: &'static str,
    style: ResponseStyle,
}

impl Invoke {
    /// `POST /2015-03-31/functions/{name}/invocations`
    pub(super) const BUFFERED: Self =
        Self { prefix: "/2015-03-31/functions/", suffix: "/invocations", style: ResponseStyle::Invoke };
    /// `POST /2021-11-15/functions/{name}/response-streaming-invocations`
    pub(super) const STREAMED: Self = Self {
        prefix: "/2021-11-15/functions/",
        suffix: "/response-streaming-invocations",
        style: ResponseStyle::InvokeStream,
    };

    fn is_stream(&self) -> bool {
        self.style == ResponseStyle::InvokeStream
    }

    /// The function in a path; none if the path is not one of this call.
    fn function<'a>(&self, path: &'a str) -> Option<&'a str> {
        let name = path.strip_prefix(self.prefix)?.strip_suffix(self.suffix)?;
        (!name.is_empty() && !name.contains('/')).then_some(name)
    }
}

impl Dialect for Invoke {
    fn resource(&self, path: &str) -> Option<Resource> {
        self.function(path).map(|_| Resource::Function)
    }

    fn dispatch_route(&self) -> Route {
        Route::Invoke
    }

    fn reply_style(&self) -> ResponseStyle {
        self.style
    }

    fn parse_dispatch_head<'a>(
        &self,
        state: &HttpState,
        head: &RequestHead<'a>,
    ) -> Result<DispatchHead<'a>, Problem> {
        let name = FunctionName::parse(self.function(head.path).unwrap_or_default(), head.query)?;
        let limits = state.limits();
        let key = find_pool(&limits, name)?;
        let fields = InvokeFields::read(head.all_fields);
        let kind = fields.invocation_type()?;
        let is_event = kind == InvocationType::Event;
        if is_event && self.is_stream() {
            return Err(Problem::bad_parameter(
                "x-amz-invocation-type",
                "is not Event for a call with a response stream",
            ));
        }
        fields.check()?;
        let is_awaited = kind == InvocationType::RequestResponse;
        let most = if is_awaited { usize::MAX } else { MAX_ASYNC_EVENT_BYTES };
        Ok(DispatchHead {
            key: Some(key),
            run: fields.run(),
            content_type: Some(b"application/json"),
            wait: Some(WAIT),
            reply: is_awaited.then_some(limits.max_reply_wait),
            body_limit: Some(limits.event_limit.min(most)),
            fields: fields.for_worker(is_event, self.is_stream()),
            wants_log: fields.wants_log(),
            is_dry_run: kind == InvocationType::DryRun,
            ..DispatchHead::default()
        })
    }

    fn asks_for_reply(&self, head: &RequestHead<'_>) -> bool {
        let kind = InvokeFields::read(head.all_fields).invocation_type();
        !matches!(kind, Ok(InvocationType::Event | InvocationType::DryRun))
    }

    fn parse_dispatch_body<'a>(
        &self,
        state: &HttpState,
        _: &RequestLimits,
        head: DispatchHead<'a>,
        body: &'a Bytes,
    ) -> Result<ParsedDispatch<'a>, Problem> {
        let DispatchHead { key, run, wait, reply, fields, wants_log, is_dry_run, .. } = head;
        let payload = event(body.clone()).map_err(|why| bad_content(format!("The event {why}")))?;
        let RunName { run, idempotency_key, content } =
            RunName::new(state, run, key.as_ref(), &payload, random_uuid);
        Ok(ParsedDispatch {
            key,
            run,
            idempotency_key,
            content,
            payload_kind: PayloadKind::Opaque,
            content_type: Bytes::from_static(b"application/json"),
            payload,
            proof: None,
            redeliver: false,
            wait: wait.unwrap_or_default(),
            reply,
            fields,
            wants_log,
            is_dry_run,
        })
    }

    fn names_controller(&self) -> bool {
        true
    }

    fn render(&self, run: &str, outcome: &Outcome) -> HttpResponse {
        match &outcome.result {
            Ok(_) => accept(run, StatusCode::ACCEPTED),
            Err(reason) => miss(run, *reason),
        }
    }

    fn dry_run(&self, run: &str) -> HttpResponse {
        HttpResponse { omits_body: true, ..accept(run, StatusCode::NO_CONTENT) }
    }

    fn refuse(&self, head: &RequestHead<'_>, problem: Problem) -> HttpResponse {
        let run = InvokeFields::read(head.all_fields).run();
        if run.is_empty() { refuse(&random_uuid(), &problem) } else { refuse(run, &problem) }
    }
}

/// The pool of a function.
fn find_pool<'a>(limits: &RequestLimits, name: FunctionName<'a>) -> Result<PoolKey<'a>, Problem> {
    let FunctionName { name, qualifier } = name;
    let functions = &limits.functions;
    if functions.is_empty() {
        let none = Number::new(0.0).map_err(|error| Problem::bad_key("The cpu figure", error))?;
        return Ok(PoolKey { deployment: name, version: qualifier, cpu: none, memory: none });
    }
    let Some(pool) = functions.find(&name, &qualifier) else {
        return Err(unknown_function(&name, &qualifier));
    };
    let version =
        check_part(pool.version(&qualifier)).map_err(|error| Problem::bad_key("The version", error))?;
    let version = version.to_owned().into();
    Ok(PoolKey { deployment: pool.deployment.clone().into(), version, cpu: pool.cpu, memory: pool.memory })
}

/// The response to a call whose result is not awaited.
fn accept(run: &str, status: StatusCode) -> HttpResponse {
    let mut fields = Vec::new();
    append_field(&mut fields, "x-amzn-requestid", run.as_bytes());
    HttpResponse { fields, ..HttpResponse::new(status, "", ResponseBody::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_its_own_path() {
        for (path, buffered, streamed) in [
            ("/2015-03-31/functions/a/invocations", Some("a"), None),
            ("/2015-03-31/functions/a%2Fb/invocations", Some("a%2Fb"), None),
            ("/2021-11-15/functions/a:1/response-streaming-invocations", None, Some("a:1")),
            ("/2015-03-31/functions//invocations", None, None),
            ("/2015-03-31/functions/invocations", None, None),
            ("/2015-03-31/functions/a/b/invocations", None, None),
            ("/2015-03-31/functions/a/invocations/", None, None),
            ("/2021-11-15/functions/a/invocations", None, None),
            ("/v1/pools/a/b/0/0", None, None),
        ] {
            assert_eq!(
                (Invoke::BUFFERED.function(path), Invoke::STREAMED.function(path)),
                (buffered, streamed)
            );
        }
    }
}

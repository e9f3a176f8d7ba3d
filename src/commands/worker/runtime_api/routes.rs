//! Owns the requests of a program: to the Runtime API, and to as much of the Extensions API as lets it start.

use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::pending;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::event::Event;
use super::function::Function;
use super::next_calls::{Handover, NextCalls};
use super::posted::{ERROR_TYPE, Posted, PostedKind};
use super::process::RuntimeProcess;
use crate::model::random_uuid;

const RUNTIME: &str = "/2018-06-01/runtime/";
const EXTENSION: &str = "/2020-01-01/extension/";
/// Subscriptions to logs, which are accepted, and get none.
const SUBSCRIPTIONS: [&str; 2] = ["/2020-08-15/logs", "/2022-07-01/telemetry"];

/// What browsers send, and runtimes do not; `fetch` in Node has a `sec-fetch-mode`.
const SENT_BY_BROWSERS: [&str; 2] = ["sec-fetch-site", "sec-fetch-dest"];

const RESPONSE_MODE: &str = "lambda-runtime-function-response-mode";

/// The longest reason that is read of why a program cannot begin, in bytes.
const MAX_INIT_ERROR: usize = 64 << 10;
/// The longest reason in the log, in characters.
const MAX_REASON: usize = 1024;

type Answer = Response<Full<Bytes>>;

/// What one program is served.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) process: Arc<RuntimeProcess>,
    pub(super) calls: Arc<NextCalls>,
    pub(super) function: Arc<Function>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InitError {
    #[serde(default)]
    error_type: String,
    #[serde(default)]
    error_message: String,
}

impl Api {
    pub(super) async fn respond(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        if is_of_a_page(&head.headers) {
            return refused(body).await;
        }
        let path = head.uri.path();
        if let Some(path) = path.strip_prefix(RUNTIME) {
            let event = path.strip_prefix("invocation/").and_then(|path| path.split_once('/'));
            return match (&head.method, path, event) {
                (&Method::GET, "invocation/next", _) => self.next().await,
                (&Method::POST, _, Some((request, "response"))) => {
                    self.answer(request, response_kind(&head.headers), body).await
                }
                (&Method::POST, _, Some((request, "error"))) => {
                    let kind = text(&head.headers, ERROR_TYPE);
                    self.answer(request, PostedKind::Error { kind }, body).await
                }
                (&Method::POST, "init/error", _) => self.init_error(&head.headers, body).await,
                _ => not_here(body).await,
            };
        }
        let extension = path.strip_prefix(EXTENSION);
        match (&head.method, extension) {
            (&Method::POST, Some("register")) => self.register(body).await,
            // No events of extensions are sent.
            (&Method::GET, Some("event/next")) => pending().await,
            (&Method::POST, Some("init/error" | "exit/error")) => accepted(body).await,
            (&Method::PUT, None) if SUBSCRIPTIONS.contains(&path) => accepted(body).await,
            _ => not_here(body).await,
        }
    }

    /// Held for ever: a runtime ends on anything but an event.
    async fn next(&self) -> Answer {
        self.process.note_asked();
        let event = self.calls.open(self.process.clone()).await;
        let Some(Event { fields, payload }) = event.ok().and_then(Handover::take) else {
            return pending().await;
        };
        let mut answer = Response::new(Full::new(payload));
        *answer.headers_mut() = fields;
        answer
    }

    async fn answer(&self, request: &str, kind: PostedKind, body: Incoming) -> Answer {
        let Some(event) = self.process.find(request) else { return accepted(body).await };
        let (posted, rest) = Posted::new(kind, body);
        if let Err(refused) = event.try_send(posted) {
            refused.into_inner().refuse();
        }
        match rest.await {
            Ok(Some(rest)) => accepted(rest).await,
            Ok(None) | Err(_) => answer(StatusCode::ACCEPTED, &json!({"status": "OK"})),
        }
    }

    async fn init_error(&self, fields: &HeaderMap, body: Incoming) -> Answer {
        let body = read_some(body, MAX_INIT_ERROR).await;
        let said = serde_json::from_slice::<InitError>(&body).ok();
        let kind = text(fields, ERROR_TYPE).unwrap_or_default();
        let reason = match said {
            Some(InitError { error_type, error_message }) => {
                let kind = if kind.is_empty() { error_type } else { kind };
                format!("{kind}: {error_message}")
            }
            None => kind,
        };
        let reason = reason.chars().map(|c| if c.is_control() { ' ' } else { c });
        self.process.note_init_error(&reason.take(MAX_REASON).collect::<String>());
        answer(StatusCode::ACCEPTED, &json!({"status": "OK"}))
    }

    async fn register(&self, body: Incoming) -> Answer {
        discard(body).await;
        let handler = std::env::var_os("_HANDLER").unwrap_or_default();
        let mut registered = answer(
            StatusCode::OK,
            &json!({
                "functionName": self.function.name,
                "functionVersion": self.function.version,
                "handler": handler.to_string_lossy(),
            }),
        );
        if let Ok(identifier) = HeaderValue::from_str(&random_uuid()) {
            registered.headers_mut().insert("lambda-extension-identifier", identifier);
        }
        registered
    }
}

fn response_kind(fields: &HeaderMap) -> PostedKind {
    let mode = fields.get(RESPONSE_MODE);
    PostedKind::Response {
        content_type: fields.get(CONTENT_TYPE).cloned(),
        is_streamed: mode.is_some_and(|mode| mode.as_bytes().eq_ignore_ascii_case(b"streaming")),
    }
}

fn text(fields: &HeaderMap, name: &str) -> Option<String> {
    fields.get(name)?.to_str().ok().map(str::to_owned)
}

/// The answer to what is no longer, or not at all, of use.
async fn accepted(body: Incoming) -> Answer {
    discard(body).await;
    answer(StatusCode::ACCEPTED, &json!({"status": "OK"}))
}

async fn not_here(body: Incoming) -> Answer {
    discard(body).await;
    let error = json!({"errorType": "ResourceNotFound", "errorMessage": "this API is not served"});
    answer(StatusCode::NOT_FOUND, &error)
}

async fn refused(body: Incoming) -> Answer {
    discard(body).await;
    let error = json!({"errorType": "Forbidden", "errorMessage": "this API is for the function alone"});
    answer(StatusCode::FORBIDDEN, &error)
}

/// Whether a browser sends the request, for a page that has found the port: also one whose name leads here.
fn is_of_a_page(fields: &HeaderMap) -> bool {
    let is_sent_by_browsers = SENT_BY_BROWSERS.iter().any(|name| fields.contains_key(*name));
    let host = fields.get(HOST).map(|host| host.to_str().unwrap_or_default());
    let is_elsewhere = host.is_some_and(|host| {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        !name.eq_ignore_ascii_case("localhost") && name.parse::<Ipv4Addr>().is_err()
    });
    fields.contains_key(ORIGIN) || is_sent_by_browsers || is_elsewhere
}

/// Reads a body to its end, and keeps its first part.
async fn read_some(mut body: Incoming, limit: usize) -> Bytes {
    let mut part = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            part.extend_from_slice(&data[..data.len().min(limit - part.len())]);
        }
    }
    part.freeze()
}

/// Reads a body to its end: a client that still writes would take the end of the connection for a failure.
async fn discard(mut body: Incoming) {
    while let Some(Ok(_)) = body.frame().await {}
}

/// Without a content type, clients in C++ crash.
fn answer(status: StatusCode, document: &serde_json::Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(document.to_string())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

//! Owns the routes of the ops listener.

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;

use super::connection_slots::ConnectionSlot;
use super::events::{self, EventStream, LagSignal};
use super::response::text;
use super::state::OpsState;
use super::{brokers, console, guard, pools, runs};
use crate::http::{HttpResponse, HttpState, Problem};

/// A whole body, or a stream of events without an end.
type OpsBody = Either<Full<Bytes>, EventStream>;

/// Answers one request. If it subscribes to events, `lag` is set.
pub(super) async fn respond(
    ops_state: &OpsState,
    request: Request<Incoming>,
    lag: &Mutex<Option<LagSignal>>,
    slot: &ConnectionSlot,
) -> Response<OpsBody> {
    let state = &ops_state.http_state;
    let query = request.uri().query().unwrap_or_default().to_owned();
    if let Err(problem) = guard::authorize(ops_state, &request) {
        return Response::from(HttpResponse::from(problem)).map(Either::Left);
    }
    // hyper omits the body of a response to HEAD, and sends its length.
    let is_head = request.method() == Method::HEAD;
    let method = if is_head { &Method::GET } else { request.method() };
    let response = match (method, request.uri().path()) {
        (&Method::GET, "/events") if is_head => return events::head().map(Either::Left),
        (&Method::GET, "/events") if !slot.begin_stream() => Err(Problem::too_many_readers()),
        (&Method::GET, "/events") => match events::subscribe(state, &request) {
            Ok((response, signal)) => {
                *lag.lock() = Some(signal);
                return response.map(Either::Right);
            }
            Err(problem) => Err(problem),
        },
        (&Method::GET, path) if console::contains(path) => return console::file(path).map(Either::Left),
        (&Method::GET, "/console.json") => Ok(console::info(ops_state)),
        (&Method::GET, "/livez") => Ok(text(StatusCode::OK, "ok\n")),
        (&Method::GET, "/readyz") => Ok(readiness(ops_state)),
        (&Method::GET, "/metrics") => ops_state.build_large(|state| Ok(metrics(state))).await,
        (&Method::GET, "/pools") => pools::pools(ops_state, &query).await,
        (&Method::GET, "/waiters") => pools::waiters(ops_state, &query).await,
        (&Method::GET, "/brokers") => Ok(brokers::brokers(state)),
        (&Method::GET, path) if path == "/runs" || path.starts_with("/runs/") => {
            runs::find(state, path, &query).await
        }
        (&Method::POST, "/retire") => pools::retire(ops_state, &query).await,
        (&Method::POST, "/drain") => Ok(pools::drain(state)),
        (_, "/retire" | "/drain") => Err(Problem::method_not_allowed("POST")),
        (_, path) if is_read_only(path) => Err(Problem::method_not_allowed("GET, HEAD")),
        _ => Err(Problem::no_such_ops_route()),
    };
    Response::from(response.unwrap_or_else(HttpResponse::from)).map(Either::Left)
}

fn is_read_only(path: &str) -> bool {
    const ROUTES: [&str; 9] = [
        "/livez",
        "/readyz",
        "/metrics",
        "/pools",
        "/waiters",
        "/brokers",
        "/runs",
        "/events",
        "/console.json",
    ];
    ROUTES.contains(&path) || path.starts_with("/runs/") || console::contains(path)
}

fn readiness(ops_state: &OpsState) -> HttpResponse {
    let is_draining = ops_state.http_state.exchange.is_draining();
    let reason = if is_draining { Some("draining\n") } else { (ops_state.readiness)() };
    match reason {
        Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason),
        None => text(StatusCode::OK, "ready\n"),
    }
}

fn metrics(state: &HttpState) -> HttpResponse {
    match state.metrics.render(state.exchange.counts()) {
        Ok(body) => HttpResponse::new(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be rendered");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be rendered\n")
        }
    }
}

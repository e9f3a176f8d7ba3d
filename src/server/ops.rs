//! Owns the ops listener's routes: health, metrics, pools, and an operator's two verbs.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::accept;
use crate::broker::{Filter, Key, Number, PoolView, WaiterView};
use crate::http::{Front, Problem, Reply};
use crate::metrics::{Listener, Route};
use crate::transport::Farewell;

const HEAD_TIME: Duration = Duration::from_secs(5);
/// A page of waiters has at most so many rows.
const LARGEST_PAGE: usize = 1000;

/// Serves operators for ever.
pub(super) async fn serve(socket: TcpListener, front: Arc<Front>) -> Infallible {
    loop {
        let (stream, _) = accept::next(&socket, &front.metrics).await;
        let open = front.metrics.connected(Listener::Ops);
        let front = front.clone();
        #[expect(clippy::disallowed_methods, reason = "owned by the ops runtime, ends with its connection")]
        tokio::spawn(async move {
            let service = service_fn(async |request| {
                let reply = answer(&front, &request);
                front.metrics.answered(Route::Ops, reply.status.as_u16());
                Ok::<_, Infallible>(Response::from(reply))
            });
            let mut http = http1::Builder::new();
            let http = http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "an ops connection ended");
            }
            drop(open);
        });
    }
}

fn answer(front: &Front, request: &Request<Incoming>) -> Reply {
    let query = request.uri().query().unwrap_or_default();
    let result = match (request.method(), request.uri().path()) {
        (&Method::GET, "/livez") => Ok(text(StatusCode::OK, "ok\n")),
        (&Method::GET, "/readyz") if front.exchange.is_draining() => {
            Ok(text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"))
        }
        (&Method::GET, "/readyz") => Ok(text(StatusCode::OK, "ready\n")),
        (&Method::GET, "/metrics") => Ok(metrics(front)),
        (&Method::GET, "/pools") => pools(front, query),
        (&Method::GET, "/waiters") => waiters(front, query),
        (&Method::POST, "/retire") => retire(front, query),
        (&Method::POST, "/drain") => Ok(drain(front)),
        (_, "/livez" | "/readyz" | "/metrics" | "/pools" | "/waiters") => {
            Err(Problem::method_not_allowed("GET"))
        }
        (_, "/retire" | "/drain") => Err(Problem::method_not_allowed("POST")),
        _ => Err(Problem::no_such_ops_route()),
    };
    result.unwrap_or_else(Reply::from)
}

fn metrics(front: &Front) -> Reply {
    match front.metrics.render(front.exchange.counts()) {
        Ok(body) => Reply::new(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n")
        }
    }
}

fn pools(front: &Front, query: &str) -> Result<Reply, Problem> {
    let query = Query::read(query, Paging::No)?;
    let pools = front.exchange.pools(&query.filter);
    let waiters: usize = pools.iter().map(|pool| pool.waiters).sum();
    let row = |pool: &PoolView| {
        let Key { deployment, version, cpu, memory } = &pool.key;
        json!({
            "deployment": deployment, "version": version, "cpu": cpu.get(), "memory": memory.get(),
            "waiters": pool.waiters,
            "oldest_seconds": pool.oldest.as_secs_f64(), "newest_seconds": pool.newest.as_secs_f64(),
        })
    };
    let rows: Vec<Value> = pools.iter().map(row).collect();
    Ok(json_reply(&json!({ "pools": rows, "waiters": waiters })))
}

fn waiters(front: &Front, query: &str) -> Result<Reply, Problem> {
    let query = Query::read(query, Paging::Yes)?;
    let found = front.exchange.waiters(&query.filter, query.from, query.limit);
    let row = |waiter: &WaiterView| {
        let Key { deployment, version, cpu, memory } = &waiter.key;
        json!({
            "deployment": deployment, "version": version, "cpu": cpu.get(), "memory": memory.get(),
            "controller": waiter.controller, "origin": waiter.origin,
            "held_seconds": waiter.held.as_secs_f64(), "late": waiter.late, "suspect": waiter.suspect,
        })
    };
    let rows: Vec<Value> = found.rows.iter().map(row).collect();
    Ok(json_reply(&json!({ "waiters": rows, "next": found.next })))
}

fn retire(front: &Front, query: &str) -> Result<Reply, Problem> {
    let Query { filter, .. } = Query::read(query, Paging::No)?;
    if form_urlencoded::parse(query.as_bytes()).any(|(_, value)| value.is_empty()) {
        let why = "has an empty value; here that would select more than it names";
        return Err(Problem::bad_parameter("The filter", why));
    }
    if filter == Filter::default() {
        let why = "selects every pool; name at least one of deployment, version, cpu, memory";
        return Err(Problem::bad_parameter("The filter", why));
    }
    let retired = front.exchange.retire(&filter, |taken| taken.waiter.dismiss(Farewell::Retired));
    tracing::info!(?filter, retired, "retired");
    Ok(json_reply(&json!({ "retired": retired })))
}

fn drain(front: &Front) -> Reply {
    tracing::info!("draining, as an operator asked");
    front.exchange.drain();
    json_reply(&json!({ "draining": true, "waiters": front.exchange.counts().0 }))
}

/// Whether a listing comes in pages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Paging {
    Yes,
    No,
}

/// A filter, and the page that is wanted.
struct Query {
    filter: Filter,
    from: usize,
    limit: usize,
}

impl Query {
    fn read(query: &str, paging: Paging) -> Result<Self, Problem> {
        let mut read = Self { filter: Filter::default(), from: 0, limit: LARGEST_PAGE };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            // An empty value selects all, so that a form with blank fields means what it looks like.
            if value.is_empty() {
                continue;
            }
            let figure = |name| Number::parse(&value).map_err(|error| Problem::bad_parameter(name, error));
            let count =
                |name| value.parse().map_err(|_| Problem::bad_parameter(name, "is not a whole number"));
            match &*name {
                "deployment" => read.filter.deployment = Some(value.into_owned()),
                "version" => read.filter.version = Some(value.into_owned()),
                "cpu" => read.filter.cpu = Some(figure("cpu")?),
                "memory" => read.filter.memory = Some(figure("memory")?),
                "from" if paging == Paging::Yes => read.from = count("from")?,
                "limit" if paging == Paging::Yes => read.limit = count("limit")?.min(LARGEST_PAGE),
                _ => {
                    return Err(Problem::bad_parameter(
                        "The query",
                        "has a name that this route does not know",
                    ));
                }
            }
        }
        Ok(read)
    }
}

fn text(status: StatusCode, body: &'static str) -> Reply {
    Reply::new(status, "text/plain; charset=utf-8", body)
}

fn json_reply(body: &Value) -> Reply {
    Reply::new(StatusCode::OK, "application/json", body.to_string())
}

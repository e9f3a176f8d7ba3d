//! Owns what operators see of pools and waiters, and their two verbs: retire and drain.

use serde_json::{Value, json};

use super::json as json_reply;
use crate::broker::{Filter, Key, Number, PoolSummary, WaiterSummary};
use crate::http::{HttpResponse, HttpState, Problem};
use crate::transport::CloseReason;

/// A page of waiters has at most so many rows.
const LARGEST_PAGE: usize = 1000;

pub(super) fn pools(front: &HttpState, query: &str) -> Result<HttpResponse, Problem> {
    let query = Query::read(query, Paging::No)?;
    let pools = front.exchange.pools(&query.filter);
    let waiters: usize = pools.iter().map(|pool| pool.waiters).sum();
    let row = |pool: &PoolSummary| {
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

pub(super) fn waiters(front: &HttpState, query: &str) -> Result<HttpResponse, Problem> {
    let query = Query::read(query, Paging::Yes)?;
    let found = front.exchange.waiters(&query.filter, query.from, query.limit);
    let row = |waiter: &WaiterSummary| {
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

pub(super) fn retire(front: &HttpState, query: &str) -> Result<HttpResponse, Problem> {
    let Query { filter, .. } = Query::read(query, Paging::No)?;
    if form_urlencoded::parse(query.as_bytes()).any(|(_, value)| value.is_empty()) {
        let why = "has an empty value; here that would select more than it names";
        return Err(Problem::bad_parameter("The filter", why));
    }
    if filter == Filter::default() {
        let why = "selects every pool; name at least one of deployment, version, cpu, memory";
        return Err(Problem::bad_parameter("The filter", why));
    }
    let retired = front.exchange.retire(&filter, |taken| taken.waiter.close(CloseReason::Retired));
    let Filter { deployment, version, cpu, memory } = filter;
    let [cpu, memory] = [cpu, memory].map(|figure| figure.map(Number::get));
    tracing::info!(deployment, version, cpu, memory, retired, "retired");
    Ok(json_reply(&json!({ "retired": retired })))
}

pub(super) fn drain(front: &HttpState) -> HttpResponse {
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

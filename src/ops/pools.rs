//! Owns the lists of pools and waiters, and the two routes that change something: retire and drain.

use serde_json::{Value, json};

use super::response::json as json_response;
use crate::broker::{Filter, Key, Number, PoolSummary, WaiterSummary};
use crate::http::{HttpResponse, HttpState, Problem};
use crate::transport::CloseReason;

/// The largest number of waiters on a page.
const MAX_PAGE: usize = 1000;

pub(super) fn pools(state: &HttpState, query: &str) -> Result<HttpResponse, Problem> {
    let query = Query::parse(query, Paging::No)?;
    let pools = state.exchange.pools(&query.filter);
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
    Ok(json_response(&json!({ "pools": rows, "waiters": waiters })))
}

pub(super) fn waiters(state: &HttpState, query: &str) -> Result<HttpResponse, Problem> {
    let query = Query::parse(query, Paging::Yes)?;
    let found = state.exchange.waiters(&query.filter, query.from, query.limit);
    let row = |waiter: &WaiterSummary| {
        let Key { deployment, version, cpu, memory } = &waiter.key;
        json!({
            "deployment": deployment, "version": version, "cpu": cpu.get(), "memory": memory.get(),
            "controller": &*waiter.controller, "origin": waiter.origin,
            "held_seconds": waiter.held.as_secs_f64(), "late": waiter.late, "suspect": waiter.suspect,
        })
    };
    let rows: Vec<Value> = found.rows.iter().map(row).collect();
    Ok(json_response(&json!({ "waiters": rows, "next": found.next })))
}

pub(super) fn retire(state: &HttpState, query: &str) -> Result<HttpResponse, Problem> {
    let Query { filter, .. } = Query::parse(query, Paging::No)?;
    if form_urlencoded::parse(query.as_bytes()).any(|(_, value)| value.is_empty()) {
        let why = "has an empty value, which would retire more pools than you name";
        return Err(Problem::bad_parameter("The filter", why));
    }
    if filter == Filter::default() {
        let why = "selects every pool; name at least one of deployment, version, cpu, memory";
        return Err(Problem::bad_parameter("The filter", why));
    }
    let retired = state.exchange.retire(&filter, |taken| taken.waiter.close(CloseReason::Retired));
    let Filter { deployment, version, cpu, memory } = filter;
    let [cpu, memory] = [cpu, memory].map(|figure| figure.map(Number::get));
    tracing::info!(deployment, version, cpu, memory, retired, "retired");
    Ok(json_response(&json!({ "retired": retired })))
}

pub(super) fn drain(state: &HttpState) -> HttpResponse {
    tracing::info!("draining, as an operator asked");
    state.drain();
    json_response(&json!({ "draining": true, "waiters": state.exchange.counts().0 }))
}

/// Whether a list has pages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Paging {
    Yes,
    No,
}

/// A filter, and the requested page.
struct Query {
    filter: Filter,
    from: usize,
    limit: usize,
}

impl Query {
    fn parse(query: &str, paging: Paging) -> Result<Self, Problem> {
        let mut parsed = Self { filter: Filter::default(), from: 0, limit: MAX_PAGE };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            // An empty value does not filter, so that the console's form can have blank fields.
            if value.is_empty() {
                continue;
            }
            let figure = |name| Number::parse(&value).map_err(|error| Problem::bad_parameter(name, error));
            let count =
                |name| value.parse().map_err(|_| Problem::bad_parameter(name, "is not a whole number"));
            match &*name {
                "deployment" => parsed.filter.deployment = Some(value.into_owned()),
                "version" => parsed.filter.version = Some(value.into_owned()),
                "cpu" => parsed.filter.cpu = Some(figure("cpu")?),
                "memory" => parsed.filter.memory = Some(figure("memory")?),
                "from" if paging == Paging::Yes => parsed.from = count("from")?,
                "limit" if paging == Paging::Yes => parsed.limit = count("limit")?.min(MAX_PAGE),
                _ => {
                    return Err(Problem::bad_parameter(
                        "The query",
                        "has a name that this route does not know",
                    ));
                }
            }
        }
        Ok(parsed)
    }
}

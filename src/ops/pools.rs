//! Owns the lists of pools and waiters, of this broker or of all brokers of its cluster, and the two routes that change something:
//! retire and drain.

use std::iter;
use std::sync::Arc;

use serde_json::{Value, json};

use super::response::json as json_response;
use super::state::OpsState;
use crate::broker::{Filter, Key, Number, PoolSummary, WaiterSummary};
use crate::cluster::{Cluster, Gathered};
use crate::http::{HttpResponse, HttpState, Problem};
use crate::transport::retire_pools;

/// The largest number of waiters on a page.
const MAX_PAGE: usize = 1000;

pub(super) async fn pools(ops_state: &OpsState, query: &str) -> Result<HttpResponse, Problem> {
    let query = Query::parse(query, Paging::No)?;
    let Some(cluster) = query.cluster(ops_state)? else {
        let build = move |state: &HttpState| {
            let pools = state.exchange.pools_page(&query.filter, 0, usize::MAX).rows;
            let waiters: usize = pools.iter().map(|pool| pool.waiters).sum();
            let rows: Vec<Value> = pools.iter().map(pool_row).collect();
            Ok(json_response(&json!({ "pools": rows, "waiters": waiters })))
        };
        return ops_state.build_large(build).await;
    };
    let Gathered { answers, missing } = cluster.pools(&query.filter).await;
    let build = move |state: &HttpState| {
        let own = (cluster.name().into(), state.exchange.pools_page(&query.filter, 0, usize::MAX).rows);
        let (mut rows, mut waiters) = (Vec::new(), 0_usize);
        for (broker, pools) in iter::once(own).chain(answers) {
            waiters = pools.iter().fold(waiters, |sum, pool| sum.saturating_add(pool.waiters));
            rows.extend(pools.iter().map(|pool| at_broker(&broker, pool_row(pool))));
        }
        Ok(json_response(&json!({ "pools": rows, "waiters": waiters, "missing": names(&missing) })))
    };
    ops_state.build_large(build).await
}

pub(super) async fn waiters(ops_state: &OpsState, query: &str) -> Result<HttpResponse, Problem> {
    let query = Query::parse(query, Paging::Yes)?;
    let Some(cluster) = query.cluster(ops_state)? else {
        let build = move |state: &HttpState| {
            let from = query.from.unwrap_or_default();
            let found = state.exchange.waiters(&query.filter, from, query.limit);
            let rows: Vec<Value> = found.rows.iter().map(waiter_row).collect();
            Ok(json_response(&json!({ "waiters": rows, "next": found.next })))
        };
        return ops_state.build_large(build).await;
    };
    if query.from.is_some() {
        let why = "cannot be used with cluster=true, which lists the first waiters of each broker";
        return Err(Problem::bad_parameter("from", why));
    }
    let limit = query.limit.max(1);
    // One row more than is shown says whether there are more.
    let Gathered { answers, missing } = cluster.waiters(&query.filter, limit + 1).await;
    let build = move |state: &HttpState| {
        let own = (cluster.name().into(), state.exchange.waiters(&query.filter, 0, limit + 1).rows);
        let (mut rows, mut has_more) = (Vec::new(), false);
        for (broker, waiters) in iter::once(own).chain(answers) {
            has_more |= waiters.len() > limit;
            rows.extend(waiters.iter().take(limit).map(|waiter| at_broker(&broker, waiter_row(waiter))));
        }
        Ok(json_response(&json!({ "waiters": rows, "more": has_more, "missing": names(&missing) })))
    };
    ops_state.build_large(build).await
}

pub(super) async fn retire(ops_state: &OpsState, text: &str) -> Result<HttpResponse, Problem> {
    let query = Query::parse(text, Paging::No)?;
    if form_urlencoded::parse(text.as_bytes()).any(|(_, value)| value.is_empty()) {
        let why = "has an empty value, which would retire more pools than you name";
        return Err(Problem::bad_parameter("The filter", why));
    }
    if query.filter == Filter::default() {
        let why = "selects every pool; name at least one of deployment, version, cpu, memory";
        return Err(Problem::bad_parameter("The filter", why));
    }
    let cluster = query.cluster(ops_state)?;
    let filter = query.filter.clone();
    let retired = match ops_state
        .run_large(move |state| retire_pools(&state.exchange, &state.sessions, &filter, "retired"))
        .await
    {
        Ok(retired) => retired,
        Err(response) => return Ok(response),
    };
    let Some(cluster) = cluster else { return Ok(json_response(&json!({ "retired": retired }))) };
    let Gathered { answers, missing } = cluster.retire(&query.filter).await;
    let all: Vec<_> = iter::once((cluster.name().into(), retired as u64)).chain(answers).collect();
    let sum = all.iter().fold(0_u64, |sum, (_, retired)| sum.saturating_add(*retired));
    let rows: Vec<Value> =
        all.iter().map(|(broker, retired)| at_broker(broker, json!({ "retired": retired }))).collect();
    Ok(json_response(&json!({ "retired": sum, "brokers": rows, "missing": names(&missing) })))
}

fn pool_row(pool: &PoolSummary) -> Value {
    let Key { deployment, version, cpu, memory } = &pool.key;
    json!({
        "deployment": deployment, "version": version, "cpu": cpu.get(), "memory": memory.get(),
        "waiters": pool.waiters,
        "oldest_seconds": pool.oldest.as_secs_f64(), "newest_seconds": pool.newest.as_secs_f64(),
    })
}

fn waiter_row(waiter: &WaiterSummary) -> Value {
    let Key { deployment, version, cpu, memory } = &waiter.key;
    json!({
        "deployment": deployment, "version": version, "cpu": cpu.get(), "memory": memory.get(),
        "controller": &*waiter.controller, "origin": waiter.origin,
        "held_seconds": waiter.held.as_secs_f64(), "late": waiter.late, "suspect": waiter.suspect,
    })
}

/// A row that says at which broker it is.
fn at_broker(broker: &str, mut row: Value) -> Value {
    row["broker"] = broker.into();
    row
}

fn names(brokers: &[Arc<str>]) -> Vec<&str> {
    brokers.iter().map(|name| &**name).collect()
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
    from: Option<usize>,
    limit: usize,
    is_of_cluster: bool,
}

impl Query {
    fn parse(query: &str, paging: Paging) -> Result<Self, Problem> {
        let mut parsed =
            Self { filter: Filter::default(), from: None, limit: MAX_PAGE, is_of_cluster: false };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if name == "cluster" {
                let flag = value.parse();
                parsed.is_of_cluster =
                    flag.map_err(|_| Problem::bad_parameter("cluster", "is neither true nor false"))?;
                continue;
            }
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
                "from" if paging == Paging::Yes => parsed.from = Some(count("from")?),
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

    /// The cluster, if all of its brokers are asked.
    fn cluster(&self, ops_state: &OpsState) -> Result<Option<Arc<Cluster>>, Problem> {
        if !self.is_of_cluster {
            return Ok(None);
        }
        let why = "is true, but this broker is in no cluster: it was started without --nats";
        let cluster = ops_state.http_state.cluster.clone();
        cluster.map(Some).ok_or_else(|| Problem::bad_parameter("cluster", why))
    }
}

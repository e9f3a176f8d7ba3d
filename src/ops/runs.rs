//! Owns `GET /runs` and `GET /runs/{run}`: queries to the history of dispatches.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::percent_decode_str;
use tokio::sync::Semaphore;

use super::response::json;
use crate::http::{HttpResponse, HttpState, Problem};
use crate::journal::{HistoryQuery, QueryTimedOut};
use crate::logging::Throttle;
use crate::metrics::Label;
use crate::model::DispatchKind;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
/// Queries that run at once; the others wait, because each may occupy a core for seconds.
static QUERIES: Semaphore = Semaphore::const_new(4);

/// Answers a query with the matching rows, the latest first.
pub(super) async fn find(state: &Arc<HttpState>, path: &str, query: &str) -> Result<HttpResponse, Problem> {
    let query = parse_query(path, query)?;
    let run = query.run.clone();
    let journal = state.journal.clone();
    // The semaphore is never closed.
    let Ok(_permit) = QUERIES.acquire().await else { return Err(Problem::history_unreadable()) };
    // On a thread of its own: a disk may be slow, and the ops runtime has other requests to answer.
    let rows = match tokio::task::spawn_blocking(move || journal.find(&query)).await {
        Ok(Ok(rows)) => rows,
        Ok(Err(error)) if error.is::<QueryTimedOut>() => return Err(Problem::history_too_slow()),
        Ok(Err(error)) => {
            static LINES: Throttle = Throttle::new();
            if LINES.is_open() {
                let error = format!("{error:#}");
                tracing::error!(error, "the history could not be read");
            }
            return Err(Problem::history_unreadable());
        }
        Err(error) => {
            tracing::error!(%error, "reading the history panicked");
            return Err(Problem::history_unreadable());
        }
    };
    if let (Some(run), true) = (run, rows.is_empty()) {
        return Err(Problem::unknown_run(&run));
    }
    Ok(json(&serde_json::json!({ "runs": rows })))
}

fn parse_query(path: &str, query: &str) -> Result<HistoryQuery, Problem> {
    let mut parsed = HistoryQuery { limit: DEFAULT_LIMIT, ..HistoryQuery::default() };
    if let Some(run) = path.strip_prefix("/runs/").filter(|run| !run.is_empty()) {
        let run = percent_decode_str(run).decode_utf8();
        let run = run.map_err(|_| Problem::bad_parameter("The run", "is not percent-encoded UTF-8"))?;
        parsed.run = Some(run.into_owned());
    }
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            _ if value.is_empty() => {}
            "deployment" => parsed.deployment = Some(value.into_owned()),
            "outcome" => {
                if !DispatchKind::all().iter().any(|kind| kind.text() == value) {
                    return Err(Problem::bad_parameter("outcome", "is not one of hit, miss, aborted"));
                }
                parsed.outcome = Some(value.into_owned());
            }
            "since" => parsed.since = Some(parse_since(&value)?),
            "limit" => {
                let bad = || Problem::bad_parameter("limit", "is not a whole number");
                parsed.limit = value.parse::<usize>().map_err(|_| bad())?.clamp(1, MAX_LIMIT);
            }
            _ => {
                let why = "has an unknown name; known: deployment, outcome, since, limit";
                return Err(Problem::bad_parameter("The query", why));
            }
        }
    }
    Ok(parsed)
}

/// Parses a time: in RFC 3339, in milliseconds since 1970, or as the duration since then (`15m`).
fn parse_since(text: &str) -> Result<u64, Problem> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    // Times that do not fit into the history's file are refused.
    if let Some(at) = text.parse().ok().filter(|&at| i64::try_from(at).is_ok()) {
        return Ok(at);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(millis(now.saturating_sub(ago)));
    }
    let at = humantime::parse_rfc3339_weak(text).ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let why = "is neither a duration such as 15m nor a time such as 2026-01-31T12:00:00Z";
    at.map(millis).ok_or_else(|| Problem::bad_parameter("since", why))
}

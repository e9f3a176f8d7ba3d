//! Owns a run as it came from the broker.

use anyhow::Context;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap};
use hyper::http::response::Parts;
use tokio::time::{Duration, timeout};

use super::body::WorkerConnection;
use crate::commands::client::Client;

/// Names the run.
const RUN: &str = "pilotlight-run";
/// Where its reply goes; of a poll, when the worker opens its replies.
pub(super) const REPLY: &str = "pilotlight-reply";

/// The time for closing a connection by the rules of TLS.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(100);

/// One run. The payload is never shown.
pub(in crate::commands::worker) struct Run {
    /// Its name.
    pub(in crate::commands::worker) id: String,
    pub(in crate::commands::worker) content_type: String,
    pub(in crate::commands::worker) payload: Bytes,
    /// None if nobody waits for a reply.
    pub(in crate::commands::worker) reply: Option<ReplyAddress>,
    /// The head of the response that brought it. Some dialects of callers add fields of their own.
    pub(in crate::commands::worker) fields: HeaderMap,
}

/// Where a reply goes. The target has a token in it.
pub(in crate::commands::worker) struct ReplyAddress {
    pub(super) client: Client,
    pub(super) target: String,
    /// The connection of the poll, if the broker keeps it.
    pub(super) connection: Option<WorkerConnection>,
}

/// Reads the run in a response to a poll. An error if it is none: any web server answers 200.
pub(super) async fn receive(
    client: &Client,
    mut connection: WorkerConnection,
    response: Response<Incoming>,
) -> anyhow::Result<Run> {
    let (Parts { headers, .. }, body) = response.into_parts();
    let id = text(&headers, RUN)
        .filter(|id| !id.is_empty())
        .with_context(|| format!("{} is no broker of pilotlight: its answer has no {RUN}", client.url()))?
        .to_owned();
    let payload = body.collect().await.context("the run was broken off")?.to_bytes();
    let closes = text(&headers, CONNECTION.as_str()).is_some_and(|value| value.eq_ignore_ascii_case("close"));
    // The end of this connection proves to the broker that the run was received.
    let connection = if closes {
        let _ = timeout(CLOSE_TIMEOUT, connection.ended()).await;
        None
    } else {
        Some(connection)
    };
    let target = text(&headers, REPLY).filter(|target| target.starts_with('/'));
    let reply =
        target.map(|target| ReplyAddress { client: client.clone(), target: target.to_owned(), connection });
    Ok(Run {
        id,
        content_type: text(&headers, CONTENT_TYPE.as_str()).unwrap_or("application/octet-stream").to_owned(),
        payload,
        reply,
        fields: headers,
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

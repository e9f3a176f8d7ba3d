//! Owns what fuzzers reach: the readers of heads and the routes, as plain values. It exists with `--cfg fuzzing` only.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use httparse::{EMPTY_HEADER, Header};
use hyper::header::HeaderMap;
use hyper::{Method, Request};

use super::body::Source;
use super::fast_path::{self, FastParse, MAX_FIELDS};
use super::head::{HeaderFields, RequestHead};
use super::validate::{self, HeadCheck};
use super::{Action, HttpResponse, HttpState, route_now};
use crate::broker::Key;
use crate::metrics::Listener;

/// A request's head, with the parts that decide anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// As it was sent.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// What follows the first question mark.
    pub query: Option<String>,
    /// In their order.
    pub fields: Vec<(String, Vec<u8>)>,
    /// Whether another request may follow on its connection.
    pub reusable: bool,
}

/// What the quick way makes of a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quick {
    /// One plain request; its body stands in this range.
    Plain(Seen, Range<usize>),
    /// The beginning of what may become one.
    Partial,
    /// Anything else.
    Other,
}

/// Reads a buffer on the quick way.
pub fn quick(bytes: &[u8]) -> Quick {
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    match fast_path::parse(bytes, &mut fields) {
        FastParse::Complete(head, body) => Quick::Plain(seen(&head), body),
        FastParse::Partial => Quick::Partial,
        FastParse::Fallback => Quick::Other,
    }
}

fn seen(head: &RequestHead<'_>) -> Seen {
    let fields = match head.fields {
        HeaderFields::List(list) => {
            list.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect()
        }
        HeaderFields::Map(map) => {
            map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
        }
    };
    Seen {
        method: head.method.to_string(),
        path: head.path.to_owned(),
        query: head.query.map(str::to_owned),
        fields,
        reusable: head.is_reusable(),
    }
}

/// What the strict judge makes of a buffer.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// The head is not whole yet.
    Partial,
    /// The head is whole, and means the same to everyone.
    Fine,
    /// It will not be served.
    Wrong(HttpResponse),
}

/// Judges a head.
pub fn judge(bytes: &[u8], body_limit: usize) -> Verdict {
    match validate::validate_head(bytes, body_limit) {
        HeadCheck::Partial => Verdict::Partial,
        HeadCheck::Valid => Verdict::Fine,
        HeadCheck::Refused(problem) => Verdict::Wrong(problem.into()),
    }
}

/// The fields of a request, as either way in has them.
#[derive(Debug, Clone, Copy)]
pub enum Listed<'a> {
    /// Of the quick way.
    List(&'a [Header<'a>]),
    /// Of hyper.
    Map(&'a HeaderMap),
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub enum Told {
    /// It is answered.
    HttpResponse(HttpResponse),
    /// It is held.
    Held(Box<Polled>),
    /// Its connection closes without a word.
    Close,
}

/// A poll as it would be held.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is what the poll itself has by this name")]
pub struct Polled {
    pub key: Key,
    pub controller: String,
    pub origin: IpAddr,
    pub through_proxy: bool,
    pub reusable: bool,
    pub timeout: Duration,
}

/// Answers a request as the routes do, whichever way it came in. A dispatch has all of its body.
pub async fn answer(
    front: &Arc<HttpState>,
    peer: IpAddr,
    request: &Request<Bytes>,
    fields: Listed<'_>,
) -> Told {
    let head = RequestHead {
        method: request.method(),
        path: request.uri().path(),
        query: request.uri().query(),
        is_http_11: true,
        fields: match fields {
            Listed::List(list) => HeaderFields::List(list),
            Listed::Map(map) => HeaderFields::Map(map),
        },
    };
    match route_now(front, Listener::Public, peer, &head) {
        Ok(Action::Respond(reply)) => Told::HttpResponse(reply),
        Ok(Action::Close) => Told::Close,
        Ok(Action::Park(wait)) => Told::Held(Box::new(Polled {
            key: wait.key,
            controller: wait.controller.into(),
            origin: wait.client.origin(),
            through_proxy: wait.client.through_proxy,
            reusable: wait.reusable,
            timeout: wait.timeout,
        })),
        Err(route) => {
            debug_assert_eq!(head.method, Method::POST, "only POSTs dispatch");
            Told::HttpResponse(
                super::dispatch(front, route, head, Source::Whole(request.body().clone())).await,
            )
        }
    }
}

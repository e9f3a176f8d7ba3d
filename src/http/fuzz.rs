//! Owns what fuzzers reach: the head parser, the routes and the relay of replies, as plain values. It exists with `--cfg fuzzing` only.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use httparse::{EMPTY_HEADER, Header};
use hyper::header::HeaderMap;
use hyper::{Method, Request};

use super::dialect::{self, Dispatched, PollKind, PollTerms};
use super::h1::{
    self, AllFields, BodyDecoder, BodyFraming, FieldName, HeadParse, HeaderFields, RequestBody, RequestHead,
};
use super::receipts;
pub use super::replies::fuzz::{CallerSide, RunTarget, WorkerSide, parse_target, relay};
use super::response::HttpResponse;
use super::routes::{self, Action, Routed};
use super::state::HttpState;
use crate::broker::Key;
use crate::metrics::Listener;

/// A request's head, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedHead {
    /// As it was sent.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// What follows the first question mark.
    pub query: Option<String>,
    /// The values that are kept, by their names in lower case.
    pub values: Vec<(&'static str, Vec<u8>)>,
    /// The names that occur more than once, where that matters.
    pub repeated: Vec<&'static str>,
    /// The names of the signs that its fields show.
    pub signs: Vec<&'static str>,
    /// Whether another request may follow on its connection.
    pub reusable: bool,
}

/// What a buffer begins with.
#[derive(Debug)]
pub enum ParsedHead {
    /// One plain request and nothing after it; its body is at this range.
    Complete(OwnedHead, Range<usize>),
    /// A head whose end has not come yet.
    PartialHead,
    /// The head of a plain request whose body has not come completely.
    PartialBody,
    /// The head of a request whose body is read as it comes: it begins here, and this is its length, unless it is chunked.
    Streamed(OwnedHead, usize, Option<u64>),
    /// A valid head of any other request.
    NeedsHyper,
    /// The request is refused.
    Refused(HttpResponse),
}

/// Parses the head at the beginning of a buffer.
pub fn parse_head(bytes: &[u8], body_limit: usize) -> ParsedHead {
    let mut fields = HeaderFields::default();
    match h1::parse(bytes, &mut fields, routes::is_streamed, || body_limit) {
        HeadParse::Complete(head, body) => ParsedHead::Complete(owned(&head), body),
        HeadParse::PartialHead => ParsedHead::PartialHead,
        HeadParse::PartialBody => ParsedHead::PartialBody,
        HeadParse::Streamed(head, body) => ParsedHead::Streamed(owned(&head), body.at, body.length()),
        HeadParse::NeedsHyper => ParsedHead::NeedsHyper,
        HeadParse::Refused(problem) => ParsedHead::Refused(problem.into()),
    }
}

/// A body that was read in parts.
#[derive(Debug)]
pub enum ReadBody {
    /// It is complete.
    Whole {
        /// The body.
        body: Vec<u8>,
        /// The fields behind it, in the order of their names.
        trailers: Vec<(String, Vec<u8>)>,
        /// The length of the body with its framing.
        used: usize,
    },
    /// Its end has not come.
    CutOff,
    /// It is framed wrongly.
    Refused,
}

impl ReadBody {
    /// What does not depend on where the bytes are cut.
    pub fn summary(&self) -> (u8, &[u8], &[(String, Vec<u8>)], usize) {
        match self {
            Self::Whole { body, trailers, used } => (0, body, trailers, *used),
            Self::CutOff => (1, b"", &[], 0),
            Self::Refused => (2, b"", &[], 0),
        }
    }
}

/// Reads a body of this length, or in chunks, that comes in these parts.
pub fn read_body<'a>(length: Option<u64>, parts: impl IntoIterator<Item = &'a [u8]>) -> ReadBody {
    let mut decoder = BodyDecoder::new(length.map_or(BodyFraming::Chunked, BodyFraming::Length));
    let (mut body, mut used) = (Vec::new(), 0);
    for part in parts {
        if decoder.has_ended() {
            break;
        }
        let mut part = part.to_vec();
        let Ok(decoded) = decoder.decode(&mut part) else { return ReadBody::Refused };
        if decoder.is_broken() {
            return ReadBody::Refused;
        }
        used += decoded.used;
        body.extend_from_slice(&part[decoded.body]);
    }
    if !decoder.has_ended() {
        return ReadBody::CutOff;
    }
    let mut fields = [EMPTY_HEADER; 100];
    let parsed = httparse::parse_headers(decoder.trailers().bytes(), &mut fields);
    let fields =
        parsed.ok().filter(|parsed| parsed.is_complete()).map_or(&[][..], |parsed| parsed.unwrap().1);
    let mut trailers: Vec<_> =
        fields.iter().map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec())).collect();
    trailers.sort();
    ReadBody::Whole { body, trailers, used }
}

/// Whether a complete head passes the validation, which the head of a plain request skips.
pub fn is_valid_head(bytes: &[u8], body_limit: usize) -> bool {
    let mut fields = [EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut fields);
    if !request.parse(bytes).is_ok_and(|status| status.is_complete()) {
        return false;
    }
    let mut fields = HeaderFields::default();
    fields.extend(request.headers.iter().map(|field| (field.name, field.value)));
    h1::violation(&request, &fields, || body_limit).is_none()
}

fn owned(head: &RequestHead<'_>) -> OwnedHead {
    let fields = head.fields;
    OwnedHead {
        method: head.method.to_string(),
        path: head.path.to_owned(),
        query: head.query.map(str::to_owned),
        values: fields.kept().map(|(name, value)| (name.text(), value.to_vec())).collect(),
        repeated: fields
            .kept()
            .map(|(name, _)| name)
            .filter(|&name| fields.is_repeated(name))
            .map(FieldName::text)
            .collect(),
        signs: fields.signs().iter_names().map(|(name, _)| name).collect(),
        reusable: head.is_reusable(),
    }
}

/// The fields of a request, from either parser.
#[derive(Debug, Clone, Copy)]
pub enum RequestFields<'a> {
    /// Of the fast path.
    List(&'a [Header<'a>]),
    /// Of hyper.
    Map(&'a HeaderMap),
}

/// What is done with a request.
#[derive(Debug)]
pub enum Handled {
    /// It is answered.
    Responded(HttpResponse),
    /// It is held.
    Parked(Box<ParkedPoll>),
    /// Its connection is closed without a response.
    Closed,
    /// It is a worker's reply, which is relayed as it comes, or a dispatch that awaits one.
    Relayed,
}

/// A poll as it would be held.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is what the poll itself has by this name")]
pub struct ParkedPoll {
    pub key: Key,
    pub controller: String,
    pub origin: IpAddr,
    pub through_proxy: bool,
    pub kind: ParkedKind,
}

/// How a parked poll waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParkedKind {
    /// With a held request.
    Once {
        /// Whether another request may follow on its connection.
        reusable: bool,
        /// How long at most.
        timeout: Duration,
    },
    /// On a WebSocket.
    WebSocket,
    /// On a stream of events, with so many slots.
    EventStream(u16),
}

/// Handles a request as the routes do, from either parser. A dispatch has its whole body.
pub async fn handle(
    state: &HttpState,
    peer: IpAddr,
    request: &Request<Bytes>,
    fields: RequestFields<'_>,
) -> Handled {
    let fields = match fields {
        RequestFields::List(list) => {
            let mut fields = HeaderFields::default();
            fields.extend(list.iter().map(|field| (field.name, field.value)));
            fields
        }
        RequestFields::Map(map) => HeaderFields::from(map),
    };
    let head = RequestHead {
        method: request.method(),
        path: request.uri().path(),
        query: request.uri().query(),
        is_http_11: true,
        fields: &fields,
        all_fields: AllFields::Map(request.headers()),
    };
    match routes::route(state, Listener::Public, peer, &head) {
        Routed::Now(Action::Respond(response)) => Handled::Responded(response),
        Routed::Now(Action::Close) => Handled::Closed,
        Routed::Now(Action::Park(poll)) => Handled::Parked(Box::new(ParkedPoll {
            key: poll.key.as_ref().into(),
            controller: poll.controller.into(),
            origin: poll.client.origin(),
            through_proxy: poll.client.through_proxy,
            kind: match poll.kind {
                PollKind::Once(PollTerms { reusable, timeout, .. }) => ParkedKind::Once { reusable, timeout },
                PollKind::WebSocket(_) => ParkedKind::WebSocket,
                PollKind::EventStream { slots, .. } => ParkedKind::EventStream(slots),
            },
        })),
        Routed::Reply(_) => Handled::Relayed,
        Routed::PassOn(receipt) => Handled::Responded(receipts::pass_on(state, receipt).await),
        Routed::Dispatch(found, limit) => {
            debug_assert_eq!(head.method, Method::POST, "only POSTs dispatch");
            let body = RequestBody::Whole(request.body().clone());
            match dialect::dispatch(found, state, &head, body, limit).await {
                Dispatched::Answered(response) => Handled::Responded(response),
                Dispatched::HandedOver(_) => Handled::Relayed,
            }
        }
    }
}

//! Owns the fuzzing of pipelines: requests in a row, cut anywhere, are answered like the same requests alone.
//!
//! The input is a number, three bytes for each request, and two for each cut: how far to write, and what happens then.

#![no_main]

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use libfuzzer_sys::fuzz_target;
use pilotlight::auth::Authorizer;
use pilotlight::http::HttpState;
use pilotlight::http::fuzz::{Handled, RequestFields};
use pilotlight_fuzz::answer::{self, Answer};
use pilotlight_fuzz::request::{BODY_LIMIT, HELD, Kind, RUN, Request};
use pilotlight_fuzz::served::{Served, runtime};
use pilotlight_fuzz::state::{PEER, http_state};
use tokio::runtime::Runtime;

const MOST_REQUESTS: usize = 48;
/// Longer than the grace for a plain request's body, and shorter than any other timeout.
const SHORT_TIME: Duration = Duration::from_millis(150);
/// How often at most: all together are shorter than any other timeout, too.
const SHORT_TIMES: usize = 16;
/// A usual size.
const SOCKET_BYTES: usize = 104 * 1024;
/// How many responses to requests alone are cached.
const MAX_CACHED: usize = 20_000;

thread_local!(static BROKER: RefCell<Broker> = RefCell::new(Broker::new()));

fuzz_target!(|input: &[u8]| {
    BROKER.with_borrow_mut(|broker| {
        let (shapes, cuts) = Request::read_all(input, MOST_REQUESTS);
        let requests: Vec<_> = shapes.iter().map(|&shape| Request::new(shape)).collect();
        let read = broker.runtime.block_on(send(&broker.state, &requests, cuts));
        let mut read = read.as_slice();
        for (place, (request, &shape)) in requests.iter().zip(&shapes).enumerate() {
            let Some((alone, ends)) = broker.alone(shape) else { break };
            let of = format!(
                "request {place} of {}, {:?}, {} bytes",
                requests.len(),
                request.kind,
                request.bytes.len()
            );
            let Some((answer, closes)) = answer::take(&mut read, request.kind.is_head()) else {
                panic!("{of}: its response is lost; alone it is {alone:?}");
            };
            assert_eq!(answer, alone, "{of}");
            assert!(
                closes == ends || (closes && request.kind.may_close()),
                "{of}: closes is {closes}, {ends} if it is alone"
            );
            if closes {
                break;
            }
        }
        assert!(read.is_empty(), "a response without a request: {}", String::from_utf8_lossy(read));
        assert_eq!(broker.state.exchange.counts().0, 0, "a waiter without a connection");
    });
});

struct Broker {
    state: Arc<HttpState>,
    runtime: Runtime,
    /// Cached responses, by the bytes that the request was made of.
    known: HashMap<[u8; 3], Option<(Answer, bool)>>,
}

impl Broker {
    fn new() -> Self {
        Self {
            state: http_state(Authorizer::default(), Vec::new(), BODY_LIMIT),
            runtime: runtime(),
            known: HashMap::new(),
        }
    }

    /// The response to a request alone on a new connection, and whether it closes the connection. None without a response.
    fn alone(&mut self, shape: [u8; 3]) -> Option<(Answer, bool)> {
        if self.known.len() > MAX_CACHED {
            self.known.clear();
        }
        let Self { state, runtime, known } = self;
        let ask = || {
            let request = Request::new(shape);
            let read = runtime.block_on(send(state, std::slice::from_ref(&request), &[]));
            let mut rest = read.as_slice();
            let answer = answer::take(&mut rest, request.kind.is_head());
            assert!(rest.is_empty(), "two answers to {:?}: {}", request.kind, String::from_utf8_lossy(&read));
            answer
        };
        known.entry(shape).or_insert_with(ask).clone()
    }
}

/// Sends the requests on one connection, and returns all responses.
async fn send(state: &Arc<HttpState>, requests: &[Request], cuts: &[u8]) -> Vec<u8> {
    let mut served = Served::begin(state, None, SOCKET_BYTES, |_| ());
    let (cuts, _) = cuts.as_chunks::<2>();
    let mut cuts = cuts.iter().copied();
    let mut times = SHORT_TIMES;
    let mut first = 0;
    while first < requests.len() && !served.has_ended() {
        // Requests after a poll that gets a run are sent after the run.
        let served_poll = requests[first..].iter().position(|request| request.kind == Kind::ServedPoll);
        let last = served_poll.map_or(requests.len(), |poll| first + poll + 1);
        let bytes: Vec<_> =
            requests[first..last].iter().flat_map(|request| request.bytes.iter().copied()).collect();
        let mut at = 0;
        while at < bytes.len() {
            let (length, then) =
                cuts.next().map_or((usize::MAX, 0), |cut| length_of(cut, requests[first].bytes.len()));
            let end = at.saturating_add(length).min(bytes.len());
            served.write(&bytes[at..end]).await;
            at = end;
            match then {
                7 if times > 0 => {
                    times -= 1;
                    tokio::time::advance(SHORT_TIME).await;
                    served.rest().await;
                }
                6 | 7 => served.rest().await,
                turns => {
                    for _ in 0..turns {
                        served.turn().await;
                    }
                }
            }
        }
        served.rest().await;
        if served_poll.is_some() && state.exchange.counts().0 > 0 {
            post(state).await;
            served.rest().await;
        }
        first = last;
    }
    served.end().await
}

/// How many bytes are written before the next cut, and what happens then.
fn length_of([form, length]: [u8; 2], request: usize) -> (usize, u8) {
    let length = usize::from(length);
    let bytes = match form >> 6 {
        0 => length,
        1 => (request + length).saturating_sub(128),
        2 => 4096 + length - 128,
        _ => 256 * length,
    };
    (bytes, form & 7)
}

/// Posts a run for the parked poll.
async fn post(state: &Arc<HttpState>) {
    let request = hyper::Request::post(HELD).body(Bytes::from_static(RUN)).expect("a request");
    let handled = pilotlight::http::fuzz::handle(state, PEER, &request, RequestFields::List(&[])).await;
    assert!(matches!(&handled, Handled::Responded(response) if response.status == 200), "{handled:?}");
}

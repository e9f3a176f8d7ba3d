//! Owns the fuzzing of fairness: for a client that sends without pause, the server does a bounded amount of work per turn.
//!
//! The input selects whether TLS is used, and the bytes that are sent repeatedly: requests made of three input bytes each,
//! then the number of their bytes in each TLS record (the maximum if none is given), then raw bytes.

#![no_main]

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libfuzzer_sys::fuzz_target;
use pilotlight::auth::Authorizer;
use pilotlight::http::HttpState;
use pilotlight_fuzz::records::{self, TlsConfigs};
use pilotlight_fuzz::request::{BODY_LIMIT, Request};
use pilotlight_fuzz::served::{Served, Turn, runtime};
use pilotlight_fuzz::{answer, state::http_state};
use tokio::runtime::Runtime;

/// The most responses per turn: to a request that had arrived at its start, and to one that arrived later.
const MOST_ANSWERS: usize = 2;
/// The most bytes read per turn: the longest head, and the bytes that are discarded after a closing response.
const MOST_BYTES: u64 = (256 + 48) * 1024;
/// The same for records with hardly any payload: one read of 4 KiB and a few bytes for each of the 128 units of the
/// runtime's budget.
const MOST_BYTES_OF_RECORDS: u64 = 640 * 1024;
/// The number of bytes sent in all. All of them may be in the socket at once.
const STREAM_BYTES: usize = 400 * 1024;
const STREAM_BYTES_OF_RECORDS: usize = 720 * 1024;
/// The size of the socket buffer for them, with the overhead that the kernel counts.
const SOCKET_BYTES: usize = 1024 * 1024;
/// The number of turns that are checked.
const TURNS: usize = 64;
const LONGEST_RECORD: usize = 16 * 1024;
const MOST_REQUESTS: usize = 16;

thread_local!(static BROKER: RefCell<Broker> = RefCell::default());

fuzz_target!(|input: &[u8]| {
    let Some((&form, input)) = input.split_first() else { return };
    let (shapes, rest) = Request::read_all(input, MOST_REQUESTS);
    let requests = shapes.into_iter().flat_map(|shape| Request::new(shape).bytes);
    let (lengths, raw) = rest.split_at(rest.len().min(usize::from(form >> 1 & 15)));
    let requests: Vec<_> = requests.chain(raw.iter().copied()).collect();
    BROKER.with_borrow(|broker| {
        broker.runtime.block_on(async {
            if form & 1 == 0 {
                flood(&broker.state, &requests, None).await;
            } else {
                flood(&broker.state, &requests, Some((&broker.tls, lengths))).await;
            }
        });
    });
});

struct Broker {
    state: Arc<HttpState>,
    runtime: Runtime,
    tls: TlsConfigs,
}

impl Default for Broker {
    fn default() -> Self {
        let state = http_state(Authorizer::default(), Vec::new(), BODY_LIMIT);
        Self { state, runtime: runtime(), tls: TlsConfigs::default() }
    }
}

/// Sends the requests again and again, as fast as they are taken, on one connection.
async fn flood(state: &Arc<HttpState>, requests: &[u8], tls: Option<(&TlsConfigs, &[u8])>) {
    if requests.is_empty() {
        return;
    }
    let session = tls.map(|(configs, _)| configs.session());
    let is_open = Arc::new(AtomicBool::new(session.is_none()));
    let mut served = Served::begin(state, session, SOCKET_BYTES, watch(is_open.clone(), tls.is_some()));
    let mut stream = Vec::new();
    match tls {
        None => {
            while stream.len() < STREAM_BYTES {
                stream.extend_from_slice(requests);
            }
        }
        Some((configs, lengths)) => {
            let mut records = configs.handshake(&mut served).await;
            is_open.store(true, Ordering::Relaxed);
            let mut lengths = lengths.iter().cycle();
            let plain = requests.repeat(LONGEST_RECORD.div_ceil(requests.len()));
            let mut at = 0;
            while stream.len() < STREAM_BYTES_OF_RECORDS {
                let length = lengths.next().map_or(LONGEST_RECORD, |&length| length.into());
                let end = (at + length).min(plain.len());
                records.write(&plain[at..end], &mut stream);
                at = end % plain.len();
            }
        }
    }
    let mut rest = stream.as_slice();
    for _ in 0..TURNS {
        if !rest.is_empty() {
            rest = &rest[served.write_now(rest)..];
        }
        served.turn().await;
    }
    served.leave().await;
}

/// Checks each turn after the handshake.
fn watch(is_open: Arc<AtomicBool>, is_tls: bool) -> impl FnMut(Turn<'_>) + Send {
    let mut begun = Vec::new();
    move |turn| {
        if !is_open.load(Ordering::Relaxed) {
            return;
        }
        let answers = if is_tls {
            begun.extend_from_slice(turn.wrote);
            records::remove_complete(&mut begun)
        } else {
            answer::count(turn.wrote)
        };
        assert!(answers <= MOST_ANSWERS, "{answers} responses in one turn");
        let most = if is_tls { MOST_BYTES_OF_RECORDS } else { MOST_BYTES };
        assert!(turn.took <= most, "{} bytes taken in one turn", turn.took);
    }
}

//! Owns the storm's grammar: requests, most of them nearly valid, and the mutations that break them.

use fastrand::Rng;

use pilotlight_bench::requests::{dispatch_request, poll_request};

/// How many deployments there are: few, so that runs and waiters match.
const POOLS: usize = 8;
const MAX_REQUESTS: usize = 24;
/// Bytes that a mutation inserts or overwrites with.
const FRAGMENTS: [&[u8]; 32] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"\r\n\r\n",
    b"\xff",
    b"\x7f",
    b"host: c\r\n",
    b"content-length: 5\r\n",
    b"content-length: 0\r\n",
    b"content-length: -1\r\n",
    b"content-length: 99999999999999999999\r\n",
    b"transfer-encoding: chunked\r\n",
    b"transfer-encoding: identity\r\n",
    b"expect: 100-continue\r\n",
    b"connection: close\r\n",
    b"upgrade: websocket\r\nconnection: upgrade\r\n",
    b"x-forwarded-for: 1.2.3.4\r\n",
    b"content-encoding: gzip\r\n",
    b"authorization: Bearer x\r\n",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"0\r\n\r\n",
    b"FFFFFFFFFFFFFFFFF\r\n",
    b"GET ",
    b"POST /warm-start HTTP/1.1\r\n",
    b"[[[[[[[[",
    b"\"",
    b"%",
];

/// What one connection sends.
pub(super) struct ConnectionScript {
    /// Sent one after the other, with a pause between them.
    pub(super) parts: Vec<Vec<u8>>,
    /// The number of responses that are due. Known if all requests are valid, and the last asks to close.
    pub(super) expected_responses: Option<usize>,
    requests: usize,
}

impl ConnectionScript {
    /// The same seed and number make the same script.
    pub(super) fn new(seed: u64, number: u64) -> Self {
        let mut random = Rng::with_seed(seed.rotate_left(32) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let random = &mut random;
        let requests = random.usize(1..=MAX_REQUESTS);
        let is_sound = random.u8(..4) == 0;
        let mut bytes = Vec::with_capacity(1024);
        for _ in 1..requests {
            bytes.extend(if is_sound { valid_request(random, false) } else { broken_request(random) });
        }
        bytes.extend(match (is_sound, random.u8(..4)) {
            (true, _) => valid_request(random, true),
            (false, 0) => held_poll(random),
            (false, _) => broken_request(random),
        });
        let answers = is_sound.then_some(requests);
        Self { parts: split_into_parts(random, bytes), expected_responses: answers, requests }
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests as u64
    }
}

/// Usually one part, as most clients send; sometimes several.
fn split_into_parts(random: &mut Rng, mut bytes: Vec<u8>) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    if random.u8(..8) == 0 {
        for _ in 0..random.usize(1..4) {
            let rest = bytes.split_off(random.usize(..=bytes.len()));
            parts.push(std::mem::replace(&mut bytes, rest));
        }
    }
    parts.push(bytes);
    parts.retain(|part| !part.is_empty());
    parts
}

/// A request that is answered at once, whatever comes before and after it.
fn valid_request(random: &mut Rng, closes: bool) -> Vec<u8> {
    let connection = if closes { "connection: close\r\n" } else { "" };
    let head = |line: &str, more: &str| {
        format!("{line} HTTP/1.1\r\nhost: storm\r\n{connection}{more}\r\n").into_bytes()
    };
    match random.u8(..8) {
        0..3 => head("GET /connect", ""),
        3 => head("GET /nothing%20here?q=1", "accept: */*\r\n"),
        4 => head("PUT /warm-start", "content-length: 0\r\n"),
        5 => head(&format!("GET {}?timeout=soon", pool(random)), ""),
        6 => {
            // The pool's name is valid: otherwise the broker closes the connection, and later requests are lost.
            let body = "x".repeat(random.usize(..200));
            let length = format!("content-length: {}\r\n", body.len());
            let mut post = head("POST /v1/pools/storm/1/0.30000000000000004/1e0", &length);
            post.extend(body.bytes());
            post
        }
        _ => {
            let mut post = dispatch_request(random.usize(..POOLS));
            if closes {
                post = replaced(&post, b"keep-alive", b"close");
            }
            post
        }
    }
}

/// A poll, which the broker holds.
fn held_poll(random: &mut Rng) -> Vec<u8> {
    if random.bool() {
        return poll_request(random.usize(..POOLS), random.usize(..1000));
    }
    let timeout = ["", "?timeout=1ms", "?timeout=20ms", "?timeout=50s"][random.usize(..4)];
    let (path, name) = (pool(random), random.u16(..1000));
    format!("GET {path}{timeout} HTTP/1.1\r\nhost: storm\r\npilotlight-controller: c{name}\r\n\r\n")
        .into_bytes()
}

fn pool(random: &mut Rng) -> String {
    let part = ["deployment_0001", "d", "d%2fe", "%C3%A9", "%zz", ""][random.usize(..6)];
    let figure = ["0.5", "1", "1e0", "-0", "nan", "1e400", "0.30000000000000004"][random.usize(..7)];
    format!("/v1/pools/{part}/20260821.3/{figure}/0.5")
}

/// A request of any kind, in most cases with mutations.
fn broken_request(random: &mut Rng) -> Vec<u8> {
    let mut bytes = match random.u8(..16) {
        0..6 => valid_request(random, false),
        6..8 => held_poll(random),
        8..10 => chunked_request(random),
        10..13 => unusual_request(random),
        13 => native_request(random),
        14 => dispatch_request(random.usize(..POOLS)),
        _ => (0..random.usize(1..100)).map(|_| random.u8(..)).collect(),
    };
    for _ in 0..[0, 0, 1, 1, 2, 3][random.usize(..6)] {
        mutate(random, &mut bytes);
    }
    bytes
}

fn native_request(random: &mut Rng) -> Vec<u8> {
    let query = [
        "",
        "?wait=1ms",
        "?wait=10ms&redeliver=true",
        "?proof=acked",
        "?proof=received",
        "?wait=500000000000y",
    ];
    let (path, query) = (pool(random), query[random.usize(..query.len())]);
    let run = random.u16(..500);
    format!(
        "POST {path}{query} HTTP/1.1\r\nhost: storm\r\npilotlight-run: run-{run}\r\ncontent-length: 4\r\n\r\nrun!"
    )
    .into_bytes()
}

/// A POST with a chunked body, with the faults that chunks can have.
fn chunked_request(random: &mut Rng) -> Vec<u8> {
    let path = if random.bool() { "/warm-start".to_owned() } else { pool(random) };
    let coding =
        ["chunked", "Chunked", "chunked, chunked", "gzip, chunked", "chunked, identity"][random.usize(..5)];
    let mut bytes =
        format!("POST {path} HTTP/1.1\r\nhost: storm\r\ntransfer-encoding: {coding}\r\n\r\n").into_bytes();
    for _ in 0..random.usize(..4) {
        let length = random.usize(1..300);
        let announced = if random.u8(..8) == 0 { length + 1 } else { length };
        let extension = ["", "", ";a=b", ";\"", " "][random.usize(..5)];
        bytes.extend(format!("{announced:x}{extension}\r\n{}\r\n", "{".repeat(length)).bytes());
    }
    bytes.extend([b"0\r\n\r\n".as_slice(), b"0\r\nx: 1\r\n\r\n", b"0\r\n", b""][random.usize(..4)]);
    bytes
}

/// Request lines and fields that few clients send.
fn unusual_request(random: &mut Rng) -> Vec<u8> {
    let lines = [
        "OPTIONS * HTTP/1.1",
        "CONNECT storm:80 HTTP/1.1",
        "HEAD /connect HTTP/1.1",
        "GET http://storm/connect HTTP/1.1",
        "GET http://storm HTTP/1.1",
        "GET /connect HTTP/1.0",
        "GET /connect HTTP/1.2",
        "GET /connect",
        "PRI * HTTP/2.0",
        "get /warm-start HTTP/1.1",
        "GET //warm-start HTTP/1.1",
        "GET /connect#fragment HTTP/1.1",
        "POST /warm-start HTTP/1.1",
        "DELETE /v1/pools/a/b/1/1 HTTP/1.1",
    ];
    let hosts =
        ["host: storm", "host: [::1]:1", "host: ", "host: a\r\nhost: b", "x: y", "Host : a", "host: a@b"];
    let mut bytes =
        format!("{}\r\n{}\r\n", lines[random.usize(..lines.len())], hosts[random.usize(..hosts.len())]);
    if random.u8(..8) == 0 {
        bytes += &"x-many: 1\r\n".repeat(random.usize(1..130));
    }
    if random.u8(..8) == 0 {
        bytes += "x-long: ";
        bytes += &"x".repeat(random.usize(..20_000));
        bytes += "
";
    }
    (bytes + "\r\n").into_bytes()
}

fn mutate(random: &mut Rng, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let at = random.usize(..bytes.len());
    let end = (at + random.usize(1..40)).min(bytes.len());
    match random.u8(..8) {
        0 => bytes[at] ^= 1 << random.u8(..8),
        1 => bytes[at] = random.u8(..),
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        5 | 6 => {
            // After the end of a line, where a fragment is a field.
            let line = memchr::memchr(b'\n', &bytes[at..]).map_or(at, |found| at + found + 1);
            let place = if random.bool() { line } else { at };
            bytes.splice(place..place, FRAGMENTS[random.usize(..FRAGMENTS.len())].iter().copied());
        }
        _ => {
            bytes.splice(at..end, FRAGMENTS[random.usize(..FRAGMENTS.len())].iter().copied());
        }
    }
}

fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    match memchr::memmem::find(bytes, old) {
        Some(at) => [&bytes[..at], new, &bytes[at + old.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

//! Owns the ways in which a request can be sent: whole, in halves with a pause between them, byte by byte. The response must
//! be the same.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::JoinSet;

use super::{Broker, Pool};

/// Longer than a request may take to be complete on the fast path.
const BEYOND_SOON: Duration = Duration::from_millis(150);
/// Nothing more is sent on a connection that is silent for this long after all expected responses.
const QUIET: Duration = Duration::from_millis(250);
/// Expected bytes that have not arrived within this time are missing.
const PATIENCE: Duration = Duration::from_secs(6);
/// A request of up to this size is also sent byte by byte.
const SHORT: usize = 450;

/// The expected result, and the bytes to send.
///
/// The result lists the responses in their order, each as a status with its problem and its Allow, and then the state of the
/// connection: `200 then 405 method-not-allowed [GET], closed`. Problems and the state may be omitted; an omitted state may
/// differ between the ways.
pub type Row = (&'static str, Vec<u8>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// In one piece; the fast path reads it if it is plain.
    Whole,
    /// With a pause in the middle: hyper reads it.
    Halves,
    /// Byte by byte without pauses: the fast path parses it again and again.
    Bytes,
}

/// The pool of the controller that waits while rows are checked. Refused requests may name it, and must not reach it.
pub fn guarded() -> Pool {
    Pool::small("guarded")
}

/// A request without a body, from its method and target.
pub fn request(method_and_target: &str) -> Vec<u8> {
    format!("{method_and_target} HTTP/1.1\r\nhost: b\r\n\r\n").into()
}

/// A POST whose body would be delivered to the waiting controller if the broker accepted it.
pub fn aimed(fields: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let head = format!("POST /warm-start HTTP/1.1\r\nhost: b\r\n{fields}\r\n\r\n");
    [head.as_bytes(), body.as_ref()].concat()
}

/// A chunked POST of a run for the waiting controller. `write` turns the whole body into chunks.
pub fn chunked(write: impl Fn(&str) -> String) -> Vec<u8> {
    aimed("transfer-encoding: chunked", write(&guarded().body("run_row")))
}

/// The poll of a stock controller that gets no run, with these fields, and with these bytes after its head.
pub fn poll(controller: &str, fields: &str, after: impl AsRef<[u8]>) -> Vec<u8> {
    let poll = Pool::small("idle").poll(controller).replacen("\r\n\r\n", &format!("\r\n{fields}\r\n"), 1);
    [poll.as_bytes(), after.as_ref()].concat()
}

/// Checks rows, sent in every way, against one broker; then a run must still reach the controller that waited there
/// before. Returns how many requests were sent.
pub async fn check(rows: Vec<Row>) -> u64 {
    let broker = Broker::start(&["--body-limit", "64KiB"]);
    check_at(&broker, rows, false).await
}

/// The same, with a client that shuts down its side after each request.
pub async fn check_cut_off(rows: Vec<Row>) {
    let broker = Broker::start(&["--body-limit", "64KiB"]);
    check_at(&broker, rows, true).await;
}

/// The same, with a broker that the caller has started.
pub async fn check_at(broker: &Broker, rows: Vec<Row>, cut_off: bool) -> u64 {
    let mut guard = broker.held_poll(&guarded(), "guard").await;
    let mut checks = JoinSet::new();
    for row in rows {
        checks.spawn(check_row(broker.public, row, cut_off));
    }
    let checked = checks.join_all().await;
    let wrong: Vec<&str> = checked.iter().flat_map(|(_, wrong)| wrong).map(String::as_str).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(guard.is_held().await, "a row has ended the waiting controller");
    broker.wait_for_waiters(1).await;
    assert_eq!(broker.post(&guarded().body("run_after")).await.1["didWarmStart"], true);
    assert_eq!(guard.answer().await.json()["run"]["friendlyId"], "run_after");
    checked.iter().map(|(requests, _)| requests).sum()
}

/// The number of requests sent, and what is wrong with their responses.
async fn check_row(broker: SocketAddr, (expected, request): Row, cut_off: bool) -> (u64, Vec<String>) {
    let mut ways = vec![Way::Whole, Way::Halves];
    if request.len() <= SHORT {
        ways.push(Way::Bytes);
    }
    let (mut first, mut wrong, shown) = (None, Vec::new(), shown(&request));
    for &way in &ways {
        // One after the other: a controller that polls twice at once would replace itself.
        let seen = Exchange { broker, request: &request, way, cut_off, expected }.run().await;
        if !seen.fits(expected) {
            wrong.push(format!("{shown}\n  {way:?}: expected {expected}; came {}", seen.in_short(true)));
        }
        let received = seen.without_chance(expected);
        if *first.get_or_insert_with(|| received.clone()) != received {
            wrong.push(format!("{shown}\n  {way:?}, other than whole: {received}"));
        }
    }
    (ways.len() as u64, wrong)
}

fn shown(request: &[u8]) -> String {
    if request.len() <= 400 {
        return request.escape_ascii().to_string();
    }
    let (begin, end) = (&request[..200], &request[request.len() - 100..]);
    format!("{}…{}", begin.escape_ascii(), end.escape_ascii())
}

/// One request and everything that is received.
struct Exchange<'a> {
    broker: SocketAddr,
    request: &'a [u8],
    way: Way,
    cut_off: bool,
    expected: &'a str,
}

impl Exchange<'_> {
    async fn run(&self) -> Seen {
        let stream = TcpStream::connect(self.broker).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut read, write) = stream.into_split();
        let sent = AtomicBool::new(false);
        let sending = async {
            let open = self.send(write).await;
            sent.store(true, Ordering::Relaxed);
            open
        };
        let reading = async {
            let begun = Instant::now();
            let is_head = self.request.starts_with(b"HEAD ");
            let mut seen = Seen { bytes: Vec::new(), left: "open", is_head };
            loop {
                match tokio::time::timeout(QUIET, read.read_buf(&mut seen.bytes)).await {
                    Ok(Ok(1..)) => {}
                    // A reset ends the connection, too.
                    Ok(Ok(0) | Err(_)) => return Seen { left: "closed", ..seen },
                    Err(_) => {
                        let come = sent.load(Ordering::Relaxed) && seen.fits(self.expected);
                        if come || begun.elapsed() > PATIENCE {
                            return seen;
                        }
                    }
                }
            }
        };
        tokio::join!(sending, reading).1
    }

    /// Sends the request. If the broker closes the connection, the rest is not sent.
    async fn send(&self, mut write: OwnedWriteHalf) -> OwnedWriteHalf {
        let (parts, rest) = match self.way {
            Way::Whole => (vec![self.request], Duration::ZERO),
            Way::Halves => {
                let (first, second) = self.request.split_at(self.request.len() / 2);
                (vec![first, second], BEYOND_SOON)
            }
            Way::Bytes => (self.request.chunks(1).collect(), Duration::from_millis(1)),
        };
        for (number, part) in parts.iter().enumerate() {
            if number > 0 {
                tokio::time::sleep(rest).await;
            }
            if write.write_all(part).await.is_err() {
                break;
            }
        }
        if self.cut_off {
            let _ = write.shutdown().await;
        }
        write
    }
}

/// Everything that was received, and the state of the connection after it.
struct Seen {
    bytes: Vec<u8>,
    left: &'static str,
    is_head: bool,
}

impl Seen {
    fn fits(&self, expected: &str) -> bool {
        [true, false].iter().any(|&problems| {
            let whole = self.in_short(problems);
            whole == expected || whole.rsplit_once(", ").is_some_and(|(answers, _)| answers == expected)
        })
    }

    fn in_short(&self, problems: bool) -> String {
        let (mut answers, mut rest) = (Vec::new(), self.bytes.as_slice());
        while !rest.is_empty() {
            let Some((answer, after)) = self.answer(rest, problems) else {
                answers.push(format!("cut off: {}", rest.escape_ascii()));
                break;
            };
            answers.push(answer);
            rest = after;
        }
        if answers.is_empty() {
            self.left.to_owned()
        } else {
            format!("{}, {}", answers.join(" then "), self.left)
        }
    }

    /// The first response in short form, and the bytes after it.
    fn answer<'a>(&self, bytes: &'a [u8], problems: bool) -> Option<(String, &'a [u8])> {
        let end = 4 + bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let (head, rest) = bytes.split_at(end);
        let head = std::str::from_utf8(head).ok()?;
        let field = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.filter(|(field, _)| *field == name).map(|(_, value)| value).next()
        };
        let length = if self.is_head { 0 } else { field("content-length").unwrap_or("0").parse().ok()? };
        let (body, rest) = rest.split_at_checked(length)?;
        let mut short = head.strip_prefix("HTTP/1.")?.get(2..5)?.to_owned();
        if problems && field("content-type") == Some("application/problem+json") && !self.is_head {
            let problem: Value = serde_json::from_slice(body).ok()?;
            short = format!("{short} {}", problem["type"].as_str()?.rsplit(':').next()?);
        }
        if let Some(allow) = field("allow") {
            short = format!("{short} [{allow}]");
        }
        Some((short, rest))
    }

    /// Everything without random names and dates.
    fn without_chance(&self, expected: &str) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines = text.split_inclusive('\n').filter(|line| !line.starts_with("date: "));
        let named = |line: &str| line.find("run_").map_or(line.to_owned(), |at| line[..at].to_owned());
        let left = if expected.ends_with(self.left) { self.left } else { "" };
        format!("{left}: {}", lines.map(named).collect::<String>())
    }
}

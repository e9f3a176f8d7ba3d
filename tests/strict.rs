//! Owns the end-to-end tests of strict HTTP: heads, framing, methods, sizes and times, each sent whole, in parts and slowly.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use support::client::Client;
use support::ways::{Row, aimed, check, check_at, chunked, guarded, poll, request};
use support::{Broker, Pool, post};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

/// `GET /connect` with these fields and nothing else.
fn connect(fields: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET /connect HTTP/1.1\r\n", fields.as_ref(), b"\r\n\r\n"].concat()
}

/// `GET /connect` with a good Host and these fields.
fn with(fields: impl AsRef<[u8]>) -> Vec<u8> {
    connect([b"host: b\r\n", fields.as_ref()].concat())
}

/// A run without a waiter: it is answered, and not offered.
fn unclaimed() -> String {
    Pool::small("nobody").body("run_row")
}

fn refused(status: &'static str, requests: impl IntoIterator<Item = Vec<u8>>) -> Vec<Row> {
    requests.into_iter().map(|request| (status, request)).collect()
}

/// Random bytes from a seed.
fn noise(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(300).collect()
}

/// The beginning of a TLS connection, as any client of TLS 1.2 or 1.3 writes it.
fn client_hello() -> Vec<u8> {
    let mut hello = b"\x03\x03".to_vec();
    hello.extend_from_slice(&noise(7)[..32]);
    hello.extend_from_slice(b"\0\0\x04\x13\x01\x13\x02\x01\0\0\x07\0\x2b\0\x03\x02\x03\x04");
    let length = u8::try_from(hello.len()).unwrap();
    [&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length], hello.as_slice()].concat()
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let mut rows = refused("400, closed", (0..8).map(noise));
    rows.extend(refused(
        "400, closed",
        [
            client_hello(),
            b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec(),
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n".to_vec(),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec(),
            b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
            b"\0".to_vec(),
            b"{\"dequeuedMessage\":{}}\r\n".to_vec(),
        ],
    ));
    check(rows).await;
}

#[tokio::test]
async fn other_versions_of_http_are_refused() {
    let mut rows = vec![
        ("400, closed", b"GET /connect\r\n\r\n".to_vec()),
        ("200, closed", b"GET /connect HTTP/1.0\r\n\r\n".to_vec()),
    ];
    let versions = ["1.2", "2.0", "3.0", "0.9", "1.10", "01.1", "1", "1.1x", ""];
    rows.extend(refused(
        "400, closed",
        versions.map(|version| format!("GET /connect HTTP/{version}\r\nhost: b\r\n\r\n").into()),
    ));
    rows.push(("400, closed", b"GET /connect http/1.1\r\nhost: b\r\n\r\n".to_vec()));
    check(rows).await;
}

#[tokio::test]
async fn http_2_is_closed() {
    let broker = Broker::start(&[]);
    for rest in [Duration::ZERO, Duration::from_millis(150)] {
        let mut client = broker.client().await;
        client.send("PRI * HTTP/2.0\r\n\r").await;
        tokio::time::sleep(rest).await;
        client.send("\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        // A client of HTTP/2 reads frames, so an explanation in HTTP/1.1 is optional.
        let received = client.rest().await;
        assert!(received.is_empty() || received.starts_with(b"HTTP/1.1 400 "), "{}", received.escape_ascii());
    }
}

#[tokio::test]
async fn a_target_in_absolute_form_is_its_path() {
    let get =
        |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes();
    check(vec![
        ("200, open", get("http://b/connect", "b")),
        // The target's authority counts, and the Host is ignored (RFC 9112, 3.2.2).
        ("200, open", get("http://other:80/connect", "b")),
        ("404 no-such-route, open", get("http://b/connect/warm-start", "b")),
        ("404 no-such-route, open", get("http://b", "b")),
        ("400, closed", get("http://", "b")),
        ("400, closed", get("http:///connect", "b")),
        ("400, closed", get("", "b")),
    ])
    .await;
}

#[tokio::test]
async fn a_head_that_parsers_read_differently_is_refused() {
    let mut rows = refused(
        "400, closed",
        [
            with("x: a\rb"),
            with("x: a\r"),
            with("x\ry: a"),
            with("x: a\ry: b"),
            with("x: a\0b"),
            with("x\0y: a"),
            with("x: a\x01b"),
            with("x: a\x7fb"),
            with("x: a\r\n folded"),
            with("x: a\r\n\tfolded"),
            with("x : a"),
            with("x\t: a"),
            with(": a"),
            with(" : a"),
            with("x"),
            with("x\u{e9}: a"),
            with(b"x\xff: a"),
            with("x(y): a"),
            connect(" host: b"),
            request("GET /con nect"),
            request("GET /connect\0"),
            request("GET /connect\x01"),
            request("GET\t/connect"),
            request("GET"),
            request("GE\u{e9}T /connect"),
        ],
    );
    // The value of a field that is not used may be anything that every parser ends at the same byte.
    rows.push(("200, open", with(b"x: \xe9 \xff")));
    rows.push(("200, open", with("x:\t a \t")));
    rows.push(("200, open", with("x:")));
    check(rows).await;
}

#[tokio::test]
async fn methods_that_are_not_there_are_refused_and_the_right_ones_named() {
    let pools = "/v1/pools/a/1/1/1";
    let mut rows = Vec::new();
    for method in ["BREW", "get", "Post", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "head", "X-Y!z"] {
        rows.push(("405 [GET, HEAD, POST], open", request(&format!("{method} /warm-start"))));
        rows.push(("405 [GET, HEAD, POST], open", request(&format!("{method} {pools}"))));
        rows.push(("405 [GET, HEAD], open", request(&format!("{method} /connect"))));
    }
    rows.push(("405 method-not-allowed [GET, HEAD], open", post("/connect", "{}").into()));
    rows.push(("405 method-not-allowed [GET, HEAD, POST], open", request("PRI /warm-start")));
    rows.push(("400, closed", request(&format!("{} /connect", "M".repeat(40) + "("))));
    check(rows).await;
}

#[tokio::test]
async fn a_target_has_at_most_2048_bytes() {
    let target = |begin: &str, length: usize| format!("{begin}{}", "x".repeat(length - begin.len()));
    let get = |begin, length| request(&format!("GET {}", target(begin, length)));
    check(vec![
        ("404 no-such-route, open", get("/", 2048)),
        ("414 target-too-long, open", get("/", 2049)),
        ("200, open", get("/connect?", 2048)),
        ("414 target-too-long, open", get("/connect?", 2049)),
        ("414 target-too-long, open", get("/warm-start?", 2049)),
        ("414 target-too-long", post(&target("/warm-start?", 2049), &guarded().body("run_row")).into()),
        ("414 target-too-long", post(&target(&format!("{}?", guarded().path()), 2049), "x").into()),
        ("414 target-too-long, open", request(&format!("PUT {}", target("/", 2049)))),
        ("414 target-too-long, open", get("/", 12_000)),
        ("431, closed", get("/", 70_000)),
    ])
    .await;
}

#[tokio::test]
async fn a_head_has_at_most_100_fields() {
    let fields = |count: usize| with("x: 1\r\n".repeat(count - 1).trim_end());
    check(vec![("200, open", fields(100)), ("431, closed", fields(101)), ("431, closed", fields(1000))])
        .await;
}

#[tokio::test]
async fn a_head_has_at_most_16_kib() {
    let of = |length: usize| with(format!("x: {}", "x".repeat(length - with("x: ").len())));
    check(vec![
        ("200, open", of(16 * 1024)),
        ("431, closed", of(16 * 1024 + 1)),
        ("431, closed", of(30_000)),
        ("431, closed", of(1_000_000)),
    ])
    .await;
}

#[tokio::test]
async fn a_length_that_is_no_plain_number_is_refused() {
    let body = guarded().body("run_row");
    let mut rows = Vec::new();
    for length in [
        "-1",
        "-0",
        "",
        "0x5",
        "5 5",
        "1e3",
        "5,",
        "5;",
        "\u{665}",
        "99999999999999999999",
        "18446744073709551616",
    ] {
        rows.push(("400, closed", aimed(&format!("content-length: {length}"), &body)));
        rows.push(("400, closed", with(format!("content-length: {length}"))));
    }
    rows.push((
        "400, closed",
        aimed(&format!("content-length: {0}\r\ncontent-length: +{0}", body.len()), &body),
    ));
    rows.push(("400, closed", aimed(&format!("content-length: {}\r\ncontent-length: 0", body.len()), &body)));
    rows.push(("413 body-too-large, closed", aimed("content-length: 9223372036854775808", &body)));
    rows.push(("413 body-too-large, closed", aimed("content-length: 18446744073709551613", &body)));
    rows.push(("200, open", aimed(&format!("content-length: 0{}", unclaimed().len()), unclaimed())));
    check(rows).await;
}

#[tokio::test]
async fn a_coding_that_does_not_end_in_chunked_is_refused() {
    let whole = |body: &str| format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let body = whole(&guarded().body("run_row"));
    let mut rows = Vec::new();
    for coding in
        ["identity", "gzip", "chunked, gzip", "chunked, identity", "", "xchunked", "chunked;q=1", "chunked,"]
    {
        rows.push(("400, closed", aimed(&format!("transfer-encoding: {coding}"), &body)));
    }
    rows.push(("400, closed", aimed("transfer-encoding: chunked\r\ntransfer-encoding: identity", &body)));
    rows.push(("400, closed", with("transfer-encoding: identity")));
    let old = String::from_utf8(aimed("transfer-encoding: chunked", &body)).unwrap();
    rows.push(("400, closed", old.replacen("HTTP/1.1", "HTTP/1.0", 1).into()));
    rows.push(("200, open", aimed("transfer-encoding: chunked", whole(&unclaimed()))));
    rows.push(("200, open", aimed("Transfer-Encoding: Chunked", whole(&unclaimed()))));
    check(rows).await;
}

#[tokio::test]
async fn chunks_that_are_framed_wrongly_are_refused() {
    let sized = |size: &'static str| chunked(move |body| format!("{size}\r\n{body}\r\n0\r\n\r\n"));
    let length = guarded().body("run_row").len();
    let with = |after: &str| chunked(|body| format!("{length:x}{after}\r\n{body}\r\n0\r\n\r\n"));
    let ended = |end: &str| chunked(|body| format!("{length:x}\r\n{body}{end}"));
    let mut rows = refused(
        "400 bad-body, closed",
        ["FFFFFFFFFFFFFFFFF", "10000000000000000", "-5", "+5", "0x5", " 5", "\t5", "5 5", "g", "", ";a=1"]
            .map(sized),
    );
    rows.extend(refused(
        "400 bad-body, closed",
        [
            with("\n"),
            with(";a\nb"),
            with(&format!(";{}", "x".repeat(16 * 1024))),
            ended("0\r\n\r\n"),
            ended("\n0\r\n\r\n"),
            ended("x\r\n0\r\n\r\n"),
            ended("\r\n0\n\n"),
            ended(&format!("\r\n0\r\n{}\r\n", "x: 1\r\n".repeat(200))),
            ended(&format!("\r\n0\r\nx: {}\r\n\r\n", "x".repeat(17_000))),
            chunked(|body| {
                let crumb = |byte| format!("1;{}\r\n{}\r\n", "x".repeat(20), char::from(byte));
                body.bytes().map(crumb).collect::<Vec<_>>().concat() + "0\r\n\r\n"
            }),
        ],
    ));
    check(rows).await;
}

#[tokio::test]
async fn chunks_that_are_framed_well_are_read() {
    let body = unclaimed();
    let (first, second) = body.split_at(600);
    let head = "transfer-encoding: chunked";
    let of = |chunks: String| aimed(head, chunks);
    check(vec![
        (
            "200, open",
            of(format!("{:x}\r\n{first}\r\n{:X}\r\n{second}\r\n0\r\n\r\n", first.len(), second.len())),
        ),
        ("200, open", of(format!("0000{:x};a=\"b\"\r\n{body}\r\n000;c\r\n\r\n", body.len()))),
        ("200, open", of(format!("{:x}\r\n{body}\r\n0\r\nx: 1\r\ny: 2\r\n\r\n", body.len()))),
        ("400 bad-body, open", of("0\r\n\r\n".to_owned())),
    ])
    .await;
}

#[tokio::test]
async fn a_message_framed_twice_is_the_last_on_its_connection() {
    let smuggled = String::from_utf8(request("GET /connect")).unwrap();
    let chunks = format!("0\r\n\r\n{smuggled}");
    let broker = Broker::start(&[]);
    for fields in [
        format!("content-length: {}\r\ntransfer-encoding: chunked", chunks.len()),
        format!("transfer-encoding: chunked\r\ncontent-length: {}", chunks.len()),
        "content-length: 4\r\ntransfer-encoding: chunked".to_owned(),
    ] {
        let mut client = broker.client().await;
        client.send(aimed(&fields, &chunks)).await;
        let answers = String::from_utf8_lossy(client.rest().await).into_owned();
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{fields}: {answers}");
    }
}

fn sized(length: usize) -> (String, String) {
    (format!("content-length: {length}\r\n"), "x".repeat(length))
}

fn in_chunks(length: usize) -> (String, String) {
    let body = "x".repeat(length);
    ("transfer-encoding: chunked\r\n".to_owned(), format!("{length:x}\r\n{body}\r\n0\r\n\r\n"))
}

#[tokio::test]
async fn a_polls_body_is_thrown_away_up_to_1_kib_and_beyond_it_the_poll() {
    let of = |name: &str, (fields, body): (String, String)| poll(name, &fields, body);
    let next = request("GET /connect");
    let bad = |name: &str, body: &str| poll(name, "transfer-encoding: chunked\r\n", body);
    check(vec![
        ("open", of("a", sized(1))),
        ("open", of("b", sized(1024))),
        ("closed", of("c", sized(1025))),
        ("closed", of("d", sized(60_000))),
        ("open", of("e", in_chunks(1))),
        ("open", of("f", in_chunks(1024))),
        ("closed", of("g", in_chunks(1025))),
        ("closed", bad("h", "x\r\n\r\n")),
        ("closed", bad("i", "5\r\nhello0\r\n\r\n")),
        ("open", poll("j", &sized(next.len()).0, &next)),
        ("400 bad-key", of("k", ("content-length: 2\r\nx-trigger-machine-cpu: 1\r\n".into(), "xx".into()))),
    ])
    .await;
}

#[tokio::test]
async fn a_gets_body_is_never_the_next_request() {
    let next = request("GET /nothing");
    let get = |target: &str, body: &[u8]| {
        let head = format!("GET {target} HTTP/1.1\r\nhost: b\r\ncontent-length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    };
    check(vec![
        ("200", get("/connect", &next)),
        ("404 no-such-route", get("/else", &next)),
        ("400 bad-key", get("/warm-start", &next)),
        ("400 bad-key", get("/v1/pools/a/1/x/1", &next)),
        (
            "405 [GET, HEAD]",
            [b"PUT /connect HTTP/1.1\r\nhost: b\r\ncontent-length: 4\r\n\r\n", &next[..4]].concat(),
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_follows_a_held_poll_ends_it() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("nobody");
    let strays = ["\r\n", "\n", "G", "GET /connect HTTP/1.1\r\nhost: b\r\n\r\n", "\0"];
    for (number, stray) in strays.iter().enumerate() {
        let mut later = broker.held_poll(&pool, "later").await;
        later.send(stray).await;
        assert!(later.is_closed_silently().await, "{stray:?}");
        broker.wait_for_waiters(0).await;
        let counted = broker.metric("pilotlight_connections_rejected_total{reason=\"pipelined\"}").await;
        assert_eq!(counted, number as u64 + 1, "{stray:?}");
    }
    let run = post("/warm-start", &guarded().body("run_row"));
    let mut rows: Vec<Row> = Vec::new();
    for (number, stray) in strays.iter().enumerate() {
        rows.push(("closed", poll(&format!("c{number}"), "", stray)));
    }
    rows.push(("closed", poll("post", "", run)));
    rows.push(("closed", poll("poll", "", pool.poll("poll"))));
    rows.push(("closed", poll("body", "content-length: 2\r\n", "xx\r\n")));
    check_at(&broker, rows, false).await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let run = || post("/warm-start", &unclaimed()).into_bytes();
    let native = post("/v1/pools/nobody/1/1/1", "x").into_bytes();
    check(vec![
        ("200 then 200, open", [run(), run()].concat()),
        ("200 then 200 then 200, open", [run(), native, request("GET /connect")].concat()),
        ("404 then 200, open", [request("GET /else"), request("GET /connect")].concat()),
        ("200 then 400, closed", [run(), b"\0\0\r\n\r\n".to_vec()].concat()),
        ("200 then 400 bad-body then 200, open", [run(), post("/warm-start", "{}").into(), run()].concat()),
        ("200, closed", [with("connection: close"), run()].concat()),
        ("200, open", [run(), poll("one", "", "")].concat()),
        ("200, open", [request("GET /connect"), b"\r\n\r\n".to_vec()].concat()),
    ])
    .await;
}

/// Sends the beginning of a request, then more after each pause, and returns after how long and how the connection ends.
async fn drip(broker: &Broker, begin: &[u8], drop: &[u8], pause: Duration) -> (Duration, String) {
    let begun = Instant::now();
    let stream = Client::connect(broker.public).await.stream;
    let (mut read, mut write) = stream.into_split();
    let dripping = async {
        let mut sent = write.write_all(begin).await;
        while sent.is_ok() {
            tokio::time::sleep(pause).await;
            sent = write.write_all(drop).await;
        }
        std::future::pending::<()>().await;
    };
    let mut seen = Vec::new();
    let reading = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut seen);
    tokio::select! {
        () = dripping => {}
        _ = tokio::time::timeout(Duration::from_secs(12), reading) => {}
    }
    (begun.elapsed(), String::from_utf8_lossy(&seen).lines().next().unwrap_or_default().to_owned())
}

/// A request that takes too long: its beginning, the bytes that follow and at which interval, the expected response, and the
/// seconds until it.
type Slow<'a> = (&'a [u8], &'a [u8], u64, &'a str, u64);

async fn check_slow(rows: Vec<Slow<'static>>) {
    let broker = std::sync::Arc::new(Broker::start(&[]));
    let mut guard = broker.held_poll(&guarded(), "guard").await;
    let mut drips = JoinSet::new();
    for (begin, drop, pause, answer, seconds) in rows {
        let broker = broker.clone();
        drips.spawn(async move {
            let (took, came) = drip(&broker, begin, drop, Duration::from_millis(pause)).await;
            let (shown, dripped) = (begin.escape_ascii(), drop.escape_ascii());
            let ok = came == answer && took.as_millis().abs_diff(1000 * u128::from(seconds)) < 900;
            (!ok).then(|| format!("\n{shown} + {dripped} each {pause} ms: {came:?} after {took:?}"))
        });
    }
    let wrong: String = drips.join_all().await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(broker.post(&guarded().body("run_after")).await.1["didWarmStart"], true);
    assert_eq!(guard.answer().await.status, 200);
}

const LATE: &str = "HTTP/1.1 408 Request Timeout";
const NEVER: u64 = 60_000;
const BODY: &[u8] = b"POST /warm-start HTTP/1.1\r\nhost: b\r\ncontent-length: 5000\r\n\r\n";
const LARGE_BODY: &[u8] = b"POST /v1/pools/a/1/1/1 HTTP/1.1\r\nhost: b\r\ncontent-length: 50000\r\n\r\n";
const CHUNKS: &[u8] = b"POST /warm-start HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn a_head_takes_5_seconds_and_a_body_10_at_most() {
    check_slow(vec![
        (b"", b"", NEVER, "", 5),
        (b"\r\n", b"\r\n", 400, "", 5),
        (b"GET /connect HTTP/1.1\r\n", b"", NEVER, "", 5),
        (b"GET /connect HTTP/1.1\r\nhost: b\r\nx: ", b"x", 400, "", 5),
        (BODY, b"", NEVER, LATE, 10),
        (BODY, b"x", 400, LATE, 10),
        (LARGE_BODY, b"x", 50, LATE, 10),
        (CHUNKS, b"", NEVER, LATE, 10),
        (CHUNKS, b"1\r\nx\r\n", 50, LATE, 10),
        (CHUNKS, b"0", 50, LATE, 10),
    ])
    .await;
}

#[tokio::test]
async fn a_request_without_exactly_one_valid_host_is_refused() {
    let mut rows = Vec::new();
    let run = guarded().body("run_row");
    let hosts = [
        "",
        "host:\r\n",
        "host: b\r\nhost: b\r\n",
        "host: b\r\nHost: c\r\n",
        "host: a b\r\n",
        "host: a@b\r\n",
        "host: a/b\r\n",
        "host: b:x\r\n",
        "host: b:-1\r\n",
        "host: b:99999\r\n",
        "host: http://b\r\n",
        "host: b?c\r\n",
        "host: b#c\r\n",
        "host: [::1\r\n",
        "host: ::1\r\n",
        "host: \u{e9}\r\n",
    ];
    for host in hosts {
        rows.push(("400", format!("GET /connect HTTP/1.1\r\n{host}\r\n").into()));
        rows.push((
            "400",
            format!("POST /warm-start HTTP/1.1\r\n{host}content-length: {}\r\n\r\n{run}", run.len()).into(),
        ));
    }
    rows.push(("400", b"GET http://b/connect HTTP/1.1\r\n\r\n".to_vec()));
    check(rows).await;
}

#[tokio::test]
async fn a_message_framed_twice_is_refused() {
    let body = guarded().body("run_row");
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let (length, coding) = (format!("content-length: {}", chunks.len()), "transfer-encoding: chunked");
    check(vec![
        ("400", aimed(&format!("{length}\r\n{coding}"), &chunks)),
        ("400", aimed(&format!("{coding}\r\n{length}"), &chunks)),
        ("400", aimed(&format!("{coding}\r\ncontent-length: x"), &chunks)),
        ("400", with(format!("content-length: 5\r\n{coding}\r\n\r\n0\r\n\r\n"))),
    ])
    .await;
}

#[tokio::test]
async fn a_coding_other_than_chunked_once_is_refused() {
    let body = guarded().body("run_row");
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    check(vec![
        ("400", aimed("transfer-encoding: chunked, chunked", &chunks)),
        ("400", aimed("transfer-encoding: chunked\r\ntransfer-encoding: chunked", &chunks)),
        ("400", aimed("transfer-encoding: identity\r\ntransfer-encoding: chunked", &chunks)),
        // RFC 9112, 6.1: an unknown coding.
        ("501", aimed("transfer-encoding: gzip, chunked", &chunks)),
        ("501", aimed("transfer-encoding: gzip\r\ntransfer-encoding: chunked", &chunks)),
    ])
    .await;
}

#[tokio::test]
async fn methods_without_a_path_are_refused_as_methods() {
    check(vec![
        ("405 [GET, HEAD, POST]", request("CONNECT broker:7070")),
        ("405 [GET, HEAD, POST]", request("CONNECT 10.0.0.1:443")),
        ("405 [GET, HEAD, POST]", request("OPTIONS *")),
    ])
    .await;
}

#[tokio::test]
async fn the_authority_of_a_target_counts() {
    check(vec![("414", request(&format!("GET http://{}/connect", "b".repeat(2048))))]).await;
}

#[tokio::test]
async fn what_hyper_hides_is_refused_as_well() {
    check(vec![
        ("414", request(&format!("GET /connect#{}", "x".repeat(2048)))),
        // This is not an overflow but hyper's own limit, which hyper answers with 431.
        ("413 body-too-large, closed", aimed("content-length: 18446744073709551615", "")),
    ])
    .await;
}

#[tokio::test]
async fn a_gets_body_of_1_kib_is_drained_however_it_comes() {
    let (fields, body) = sized(10);
    let next = request("GET /nothing");
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: b\r\n{fields}\r\n{body}").into_bytes();
    check(vec![
        ("200 then 404, open", [get("/connect"), next.clone()].concat()),
        ("404 then 404, open", [get("/else"), next].concat()),
    ])
    .await;
}

#[tokio::test]
async fn a_request_that_drips_is_ended_as_well() {
    check_slow(vec![
        (b"", b"G", 4000, "", 5),
        (b"GET /connect HTTP/1.1\r\nhost: b\r\nx: ", b"x", 50, "", 5),
        (b"GET /connect HTTP/1.1\r\nhost: b\r\ntransfer-encoding: x", b"x", 50, "", 5),
        (b"\r\n", b"\r\n", 50, "", 5),
        (BODY, b"x", 50, LATE, 10),
    ])
    .await;
}

#[tokio::test]
async fn what_the_parser_refuses_is_counted() {
    let broker = Broker::start(&[]);
    let poll = Pool::small("idle").poll("one").replacen("cpu: 0.5", "cpu: \x01", 1);
    check_at(&broker, vec![("400, closed", poll.into())], false).await;
    let metrics = broker.operate("GET", "/metrics").await.1;
    let refusals = [
        "pilotlight_connections_rejected_total",
        "pilotlight_polls_total{end=\"refused\"}",
        "pilotlight_http_requests_total{code_class=\"4xx\"",
    ];
    let counted = metrics.lines().filter(|line| refusals.iter().any(|name| line.starts_with(name)));
    assert!(counted.clone().any(|line| !line.ends_with(" 0")), "{}", counted.collect::<Vec<_>>().join("\n"));
}

#[tokio::test]
async fn an_idle_connection_lives_as_long_whichever_path_has_read_from_it() {
    let broker = Broker::start(&[]);
    let (mut quick, mut slow) = (broker.client().await, broker.client().await);
    assert_eq!(quick.ask(request("GET /connect")).await.status, 200);
    assert_eq!(slow.ask(with("te: trailers")).await.status, 200);
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(quick.ask(request("GET /connect")).await.status, 200);
    assert_eq!(slow.ask(request("GET /connect")).await.status, 200);
}

//! Owns the end-to-end tests of strict keys and bodies: a refused request claims no waiter, however it is sent.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use support::ways::{Row, aimed, check, check_at, check_cut_off, chunked, guarded, poll};
use support::{Broker, Pool, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A run without a waiter: it is answered, and not offered.
fn unclaimed() -> String {
    Pool::small("nobody").body("run_row")
}

/// The four parts of the key as a stock controller sends them.
const KEY: [&str; 4] = [
    "x-trigger-deployment-id",
    "x-trigger-deployment-version",
    "x-trigger-machine-cpu",
    "x-trigger-machine-memory",
];

/// A poll of an empty pool, with other fields for one part of its key.
fn keyed(part: &str, controller: &str, fields: impl AsRef<[u8]>) -> Vec<u8> {
    let poll = String::from_utf8(poll(controller, "", "")).unwrap();
    let (before, after) = poll.split_once(part).unwrap();
    let (_, after) = after.split_once("\r\n").unwrap();
    [before.as_bytes(), fields.as_ref(), after.as_bytes()].concat()
}

/// Values that are invalid for cpu and memory.
const NO_FIGURES: [&str; 21] = [
    "NaN",
    "nan",
    "inf",
    "Infinity",
    "-inf",
    "-1",
    "-0.1",
    "1e7",
    "1000000.1",
    "1e400",
    "0x10",
    "1e",
    ".",
    "-",
    "e5",
    "--1",
    "0.5.0",
    "0 .5",
    "1,5",
    "1_000",
    "0.5f",
];

/// Unusual values that are valid.
const FIGURES: [&str; 8] = ["1000000", "0", "-0", ".5", "5.", "1E-7", "00.5", "0.30000000000000004"];

#[tokio::test]
async fn a_poll_with_a_broken_key_is_refused_and_counted() {
    let broker = Broker::start(&[]);
    let mut rows: Vec<Row> = Vec::new();
    let refused = "400 bad-key, open";
    let (long, byte) =
        ("x".repeat(257), |part: &str, byte: &[u8]| [part.as_bytes(), b": d", byte, b"d\r\n"].concat());
    for part in KEY {
        let upper = part.to_uppercase();
        rows.push((refused, keyed(part, "a", "")));
        rows.push((refused, keyed(part, "a", format!("{part}:\r\n"))));
        rows.push((refused, keyed(part, "a", format!("{part}:  \t \r\n"))));
        rows.push((refused, keyed(part, "a", format!("{part}: 1\r\n{part}: 1\r\n"))));
        rows.push((refused, keyed(part, "a", format!("{part}: 1\r\nx: y\r\n{upper}: 2\r\n"))));
        rows.push((refused, keyed(part, "a", format!("{part}: {long}\r\n"))));
        for bad in [b"\t".as_slice(), b"\xe9", b"\xc3\xa9", b"\xff\xfe", "\u{200b}".as_bytes()] {
            rows.push((refused, keyed(part, "a", byte(part, bad))));
        }
    }
    for part in &KEY[2..] {
        for figure in NO_FIGURES {
            rows.push((refused, keyed(part, "a", format!("{part}: {figure}\r\n"))));
        }
    }
    for token in
        ["eyJ.", "eyJhbGciOiJIUzI1NiJ9.e30.", "eyJhbGciOiJub25lIn0.e30.x.y", "eyJhbGciOiJub25lIn0.!!.x"]
    {
        rows.push((refused, keyed(KEY[0], "a", format!("{}: {token}\r\n", KEY[0]))));
    }
    for name in ["x-trigger-workload-controller-id", "x-trigger-worker-instance-name"] {
        rows.push((refused, keyed(name, "a", format!("{name}: {long}\r\n"))));
        rows.push((refused, keyed(name, "a", format!("{name}: a\r\n{name}: a\r\n"))));
        rows.push((refused, keyed(name, "a", byte(name, b"\xe9"))));
    }
    let sent = check_at(&broker, rows, false).await;
    assert_eq!(broker.metric("pilotlight_polls_total{end=\"refused\"}").await, sent);
}

#[tokio::test]
async fn a_control_byte_in_a_key_is_refused_with_its_head() {
    let mut rows: Vec<Row> = Vec::new();
    for part in KEY {
        for byte in [0, 1, 0x0b, 0x1b, 0x7f] {
            let field = [part.as_bytes(), b": 1", &[byte], b"\r\n"].concat();
            rows.push(("400, closed", keyed(part, "a", field)));
        }
    }
    check(rows).await;
}

#[tokio::test]
async fn a_key_at_its_bounds_is_held() {
    let mut rows: Vec<Row> = Vec::new();
    let mut held = |part: &str, value: &str| {
        let controller = format!("c{}", rows.len());
        rows.push(("open", keyed(part, &controller, format!("{part}: {value}\r\n"))));
    };
    for part in &KEY[..2] {
        held(part, &"x".repeat(256));
        held(part, "a b, c");
        held(part, "~!@#$%^&*()_+{}|:\"<>?");
    }
    for part in &KEY[2..] {
        for figure in FIGURES {
            held(part, figure);
        }
        held(part, "\t 0.5 \t");
    }
    held("x-trigger-workload-controller-id", "");
    held("x-trigger-worker-instance-name", "");
    check(rows).await;
}

fn get(target: &str, fields: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nhost: b\r\n{fields}\r\n").into()
}

#[tokio::test]
async fn a_path_with_a_broken_key_is_refused_on_both_methods() {
    let mut rows: Vec<Row> = Vec::new();
    let mut both = |expected, path: &str| {
        rows.push((expected, get(path, "")));
        rows.push((expected, post(path, "x").into()));
    };
    let long = "x".repeat(257);
    let bad = [
        "",
        "%00",
        "a%00",
        "%0a",
        "%0d%0a",
        "%09",
        "%1b",
        "%7f",
        "%e9",
        "%c3%a9",
        "%ff",
        "%c0%80",
        &long,
        &"%41".repeat(257),
    ];
    for bad in bad {
        both("400 bad-key, open", &format!("/v1/pools/{bad}/1/1/1"));
        both("400 bad-key, open", &format!("/v1/pools/a/{bad}/1/1"));
        both("400 bad-key, open", &format!("/v1/pools/a/1/{bad}/1"));
        both("400 bad-key, open", &format!("/v1/pools/a/1/1/{bad}"));
    }
    for figure in NO_FIGURES {
        let figure = figure.replace(' ', "%20");
        both("400 bad-key, open", &format!("/v1/pools/a/1/{figure}/1"));
        both("400 bad-key, open", &format!("/v1/pools/a/1/1/{figure}"));
    }
    for path in [
        "",
        "a",
        "a/1/1",
        "a/1/1/1/",
        "a//1/1/1",
        "/a/1/1/1",
        "a/1/1/1/1",
        "../../connect",
        "a/../b/1/1",
        "a%2F1%2F1%2F1",
    ] {
        both("400 bad-key, open", &format!("/v1/pools/{path}"));
    }
    for path in [
        "//v1/pools/a/1/1/1",
        "/v1//pools/a/1/1/1",
        "/V1/pools/a/1/1/1",
        "/v1/pools",
        "/v1%2Fpools/a/1/1/1",
        "/x/../connect",
        "/%63onnect",
        "/connect/",
        "//connect",
        "/warm-start/",
    ] {
        both("404 no-such-route, open", path);
    }
    check(rows).await;
}

#[tokio::test]
async fn a_paths_segments_are_what_they_stand_for() {
    let broker = Broker::start(&[]);
    let long = "%41".repeat(256);
    for (segment, deployment) in [
        ("a%2Fb", "a/b"),
        ("a%2fb", "a/b"),
        ("%2541", "%41"),
        ("a%20b", "a b"),
        ("a+b", "a+b"),
        ("%61", "a"),
        ("a%3Fb", "a?b"),
        ("..", ".."),
        ("%2e%2e", ".."),
        ("a;b=c", "a;b=c"),
        (&long, &"A".repeat(256)),
    ] {
        let mut stock = broker.held_poll(&Pool::new(deployment, "1", "1", "2"), "stock").await;
        let target = format!("/v1/pools/{segment}/1/1.0/2e0");
        let answer = broker.client().await.ask(post(&target, "not a message")).await;
        assert_eq!(answer.json()["reason"], "not_a_message", "{segment} is not {deployment}");
        assert!(stock.is_held().await);
        drop(stock);
        broker.wait_for_waiters(0).await;
    }
}

#[tokio::test]
async fn names_in_native_headers_are_short_printable_text() {
    let mut rows: Vec<Row> = Vec::new();
    let long = "x".repeat(257);
    let path = "/v1/pools/a/1/1/1";
    for (name, is_run) in [("pilotlight-controller", false), ("pilotlight-run", true)] {
        for value in ["", long.as_str(), "a\tb", "\u{e9}"] {
            let field = format!("{name}: {value}\r\n");
            let run = format!("POST {path} HTTP/1.1\r\nhost: b\r\n{field}content-length: 1\r\n\r\nx").into();
            rows.push(("400 bad-parameter, open", if is_run { run } else { get(path, &field) }));
        }
    }
    check(rows).await;
}

/// A POST of a body as it is.
fn posted(body: impl AsRef<[u8]>) -> Vec<u8> {
    aimed(&format!("content-length: {}", body.as_ref().len()), body)
}

/// The waiting controller's run with one change to its message.
fn changed(from: &str, to: &str) -> Vec<u8> {
    let message = guarded().message("run_row").to_string();
    assert!(message.contains(from), "{from} in {message}");
    posted(format!("{{\"dequeuedMessage\":{}}}", message.replacen(from, to, 1)))
}

#[tokio::test]
async fn text_that_is_not_json_in_utf_8_is_refused() {
    let body = guarded().body("run_row");
    let with = |end: &[u8]| posted([body.as_bytes(), end].concat());
    let utf_16: Vec<u8> = body.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut requests = vec![
        posted(&utf_16),
        posted([b"\xff\xfe", utf_16.as_slice()].concat()),
        posted([b"\xef\xbb\xbf", body.as_bytes()].concat()),
    ];
    for end in
        [b"\0".as_slice(), b"x", b"{}", b",", b"//", b"/**/", b"\xc2\xa0", b"\x0c", b"\xef\xbb\xbf", b"\xff"]
    {
        requests.push(with(end));
    }
    // Bytes inside of text: overlong, a surrogate, beyond Unicode, cut off, a control byte.
    for bytes in
        [b"\xc0\xaf".as_slice(), b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x01", b"\n", b"\0"]
    {
        let body = body.replacen("localhost", "\u{1}", 1).into_bytes();
        let at = body.iter().position(|&byte| byte == 1).unwrap();
        requests.push(posted([&body[..at], bytes, &body[at + 1..]].concat()));
    }
    for (from, to) in [
        ("\"runtime\":", "runtime:"),
        ("\"node-22\"", "'node-22'"),
        ("\"isTest\":false", "\"isTest\":False"),
        ("\"completedWaitpoints\":[]", "\"completedWaitpoints\":[,]"),
        ("\"attemptNumber\":1", "\"attemptNumber\":01"),
        ("\"attemptNumber\":1", "\"attemptNumber\":+1"),
        ("\"attemptNumber\":1", "\"attemptNumber\":0x1"),
        ("\"attemptNumber\":1", "\"attemptNumber\":NaN"),
        ("\"attemptNumber\":1", "\"attemptNumber\":Infinity"),
        ("\"attemptNumber\":1", "\"attemptNumber\":1."),
        ("\"attemptNumber\":1", "\"attemptNumber\":.1"),
        ("\"attemptNumber\":1", "\"attemptNumber\":1 // one\n"),
        ("run_row", "\\ud800"),
        ("run_row", "\\x41"),
        ("run_row", "\\u00"),
    ] {
        requests.push(changed(from, to));
    }
    check(requests.into_iter().map(|request| ("400 bad-body, open", request)).collect()).await;
}

#[tokio::test]
async fn a_body_is_nested_128_deep_at_most() {
    let nested = |extra: String, pool: &Pool| {
        let message = pool.message("run_row").to_string();
        format!("{{\"dequeuedMessage\":{}}}", message.replacen('{', &format!("{{\"extra\":{extra},"), 1))
    };
    let arrays = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let objects = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    let nobody = Pool::small("nobody");
    // The body itself has two levels.
    let mut rows = vec![
        ("200, open", posted(nested(arrays(126), &nobody))),
        ("200, open", posted(nested(objects(126), &nobody))),
        ("200, open", posted(nested(format!("\"{}\"", "[{".repeat(20_000)), &nobody))),
    ];
    for extra in [arrays(127), objects(127), arrays(10_000), objects(9_000), arrays(25_000)] {
        rows.push(("400 bad-body, open", posted(nested(extra, &guarded()))));
    }
    rows.push(("400 bad-body, open", posted("[".repeat(60_000))));
    rows.push(("400 bad-body, open", posted("{\"dequeuedMessage\":".repeat(3_000))));
    // A native payload may be anything, but a stock controller gets only messages.
    rows.push(("200, open", post(&guarded().path(), &arrays(30_000)).into()));
    check(rows).await;
    let broker = Broker::start(&[]);
    let rows = [arrays(100_000), objects(100_000)]
        .map(|extra| ("400 bad-body, open", posted(nested(extra, &guarded()))));
    check_at(&broker, rows.into(), false).await;
}

#[tokio::test]
async fn a_matched_field_occurs_once() {
    let mut rows: Vec<Row> = Vec::new();
    for (field, again) in [
        ("\"cpu\":0.5", "\"cpu\":0.5"),
        ("\"cpu\":0.5", "\"\\u0063pu\":2"),
        ("\"memory\":0.5", "\"memory\":2"),
        ("\"version\":\"20260821.3\"", "\"version\":\"20260821.3\""),
        ("\"version\":\"20260821.3\"", "\"vers\\u0069on\":\"other\""),
        ("\"friendlyId\":\"guarded\"", "\"friendlyId\":\"guarded\""),
        ("\"friendlyId\":\"guarded\"", "\"friendlyId\":\"nobody\""),
        ("\"friendlyId\":\"guarded\"", "\"friendly\\u0049d\":\"nobody\""),
        ("\"friendlyId\":\"run_row\"", "\"friendlyId\":\"run_2\""),
        ("\"run\":{", "\"run\":{},\"run\":{"),
        ("\"deployment\":{", "\"deployment\":{},\"deployment\":{"),
        ("\"backgroundWorker\":{", "\"backgroundWorker\":null,\"backgroundWorker\":{"),
        ("\"machine\":{", "\"machine\":{},\"machine\":{"),
    ] {
        let to = if field.ends_with('{') { again.to_owned() } else { format!("{field},{again}") };
        rows.push(("400 bad-body, open", changed(field, &to)));
    }
    let message = guarded().message("run_row");
    rows.push((
        "400 bad-body, open",
        posted(format!("{{\"dequeuedMessage\":{message},\"dequeuedMessage\":{message}}}")),
    ));
    rows.push((
        "400 bad-body, open",
        posted(format!("{{\"dequeuedMessage\":{message},\"dequeued\\u004dessage\":{message}}}")),
    ));
    check(rows).await;
}

#[tokio::test]
async fn a_field_of_the_wrong_type_is_refused() {
    let mut rows: Vec<Row> = Vec::new();
    for (field, values) in [
        ("\"cpu\":0.5", ["null", "true", "[0.5]", "{}", "\"0.5\"", "1e400", "-1e400", "1e7"].as_slice()),
        ("\"memory\":0.5", &["null", "\"0.5\"", "1e400", "-1", "1000001", "-0.0001"]),
        ("\"centsPerMs\":0.0000338", &["1e400", "null", "\"0\""]),
        ("\"attemptNumber\":1", &["1e400", "null", "\"1\""]),
        ("\"workerQueueLength\":3", &["1e999", "null", "[]"]),
        ("\"version\":\"20260821.3\"", &["null", "20260821.3", "\"\"", "\"a\\u0000b\"", "\"\\u00e9\"", "[]"]),
        ("\"friendlyId\":\"guarded\"", &["null", "1", "{}", "[\"guarded\"]", "\"a\\nb\"", "\"\\u00e9\""]),
        ("\"friendlyId\":\"run_row\"", &["null", "1", "\"\"", "\"a\\tb\"", "\"\\u00e9\""]),
        ("\"completedWaitpoints\":[]", &["null", "{}", "[null]", "[{}]"]),
        ("\"placementTags\":[]", &["null", "[1]"]),
    ] {
        let name = field.split_inclusive(':').next().unwrap();
        for value in values {
            rows.push(("400 bad-body, open", changed(field, &format!("{name}{value}"))));
        }
        let long = "x".repeat(257);
        if field.ends_with('"') {
            rows.push(("400 bad-body, open", changed(field, &format!("{name}\"{long}\""))));
        }
    }
    for body in
        ["null", "true", "1", "\"x\"", "[]", "[{}]", "{\"dequeuedMessage\":[]}", "{\"DequeuedMessage\":{}}"]
    {
        rows.push(("400 bad-body, open", posted(body)));
    }
    check(rows).await;
}

#[tokio::test]
async fn fields_that_are_not_matched_may_be_anything() {
    let with = |extra: &str| {
        let message = Pool::small("nobody").message("run_row").to_string();
        posted(format!("{{\"dequeuedMessage\":{}}}", message.replacen('{', &format!("{{{extra},"), 1)))
    };
    check(vec![
        ("200, open", with("\"extra\":1e400")),
        ("200, open", with("\"extra\":\"\\ud800\"")),
        ("200, open", with("\"extra\":1,\"extra\":2")),
        ("200, open", with("\"\":null,\"cpu\":\"x\",\"friendlyId\":7")),
    ])
    .await;
}

#[tokio::test]
async fn an_encoded_body_is_refused_and_the_content_type_is_not_read() {
    let body = guarded().body("run_row");
    let nobody = unclaimed();
    let mut rows: Vec<Row> = Vec::new();
    for coding in ["gzip", "deflate", "br", "zstd", "identity", "gzip, identity", ""] {
        let length = body.len();
        rows.push((
            "415 encoded-body",
            aimed(&format!("content-encoding: {coding}\r\ncontent-length: {length}"), &body),
        ));
    }
    rows.push((
        "415 encoded-body",
        aimed("content-encoding: gzip\r\ntransfer-encoding: chunked", "0\r\n\r\n"),
    ));
    // Stock clients always send the type of JSON; the bytes themselves are parsed.
    for kind in [
        "application/json; charset=utf-8",
        "text/plain",
        "application/x-www-form-urlencoded",
        "",
        "\u{e9}",
        "a\r\ncontent-type: b",
    ] {
        rows.push((
            "200, open",
            aimed(&format!("content-type: {kind}\r\ncontent-length: {}", nobody.len()), &nobody),
        ));
    }
    check(rows).await;
}

#[tokio::test]
async fn a_body_has_at_most_its_limit() {
    let of = |pool: &Pool, length: usize| {
        let body = pool.body("run_row");
        let spaces = " ".repeat(length - body.len());
        body + &spaces
    };
    let over = of(&guarded(), 64 * 1024 + 1);
    let path = guarded().path();
    check(vec![
        ("200, open", posted(of(&Pool::small("nobody"), 64 * 1024))),
        ("413 body-too-large, closed", posted(&over)),
        ("413 body-too-large, closed", chunked(|_| format!("{:x}\r\n{over}\r\n0\r\n\r\n", over.len()))),
        (
            "413 body-too-large, closed",
            chunked(|_| {
                "100\r\n".to_owned() + &"x".repeat(256) + &format!("\r\n1\r\n{}", "x\r\n1\r\n".repeat(70_000))
            }),
        ),
        ("413 body-too-large, closed", post(&path, &over).into()),
        ("413 body-too-large, closed", posted(of(&guarded(), 3_000_000))),
        ("413 body-too-large, closed", aimed("content-length: 99999999999", "")),
    ])
    .await;
}

#[tokio::test]
async fn a_body_that_is_expected_is_asked_for() {
    let broker = Broker::start(&[]);
    let body = unclaimed();
    let length = format!("content-length: {}", body.len());
    for field in ["expect: 100-continue", "Expect: 100-Continue"] {
        let mut client = broker.client().await;
        client.send(aimed(&format!("{length}\r\n{field}"), "")).await;
        let mut asked = vec![0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
        client.stream.read_exact(&mut asked).await.unwrap();
        assert_eq!(asked, b"HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(client.ask(&body).await.status, 200);
    }
    let old = format!("POST /warm-start HTTP/1.0\r\n{length}\r\nexpect: 100-continue\r\n\r\n{body}");
    check(vec![
        ("100 then 200, open", aimed(&format!("{length}\r\nexpect: 100-continue"), &body)),
        ("200, closed", old.into()),
        ("400 bad-body, open", aimed("content-length: 0\r\nexpect: 100-continue", "")),
        // A server may ignore unknown expectations (RFC 9110, 10.1.1).
        ("200, open", aimed(&format!("{length}\r\nexpect: 200-ok"), &body)),
    ])
    .await;
}

#[tokio::test]
async fn a_body_that_would_be_refused_is_not_asked_for() {
    let expecting = |fields: &str| aimed(&format!("{fields}\r\nexpect: 100-continue"), "");
    let native = |fields: &str| {
        format!("POST {} HTTP/1.1\r\nhost: b\r\n{fields}\r\nexpect: 100-continue\r\n\r\n", guarded().path())
            .into_bytes()
    };
    check(vec![
        ("413 body-too-large, closed", expecting("content-length: 65537")),
        ("413 body-too-large, closed", native("content-length: 65537")),
        ("415 encoded-body, closed", expecting("content-length: 5\r\ncontent-encoding: gzip")),
        ("415 encoded-body, closed", native("content-length: 5\r\ncontent-encoding: gzip")),
        (
            "405 method-not-allowed [GET, HEAD], closed",
            b"POST /connect HTTP/1.1\r\nhost: b\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n"
                .to_vec(),
        ),
        ("400, closed", expecting("content-length: -1")),
    ])
    .await;
}

#[tokio::test]
async fn a_body_that_ends_early_is_refused() {
    let body = guarded().body("run_row");
    let longer = format!("content-length: {}", body.len() + 10);
    let chunks = |end: &str| chunked(|body| format!("{:x}\r\n{body}{end}", body.len()));
    // The end comes late enough for hyper to read the body.
    let broker = Broker::start(&[]);
    for request in [aimed(&longer, &body), aimed("content-length: 5", ""), chunks("\r\n0\r\n"), chunks("")] {
        let mut client = broker.client().await;
        client.send(&request).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.answer().await.problem(), "bad-body");
    }
    check_cut_off(vec![
        ("400 bad-body, closed", chunks("\r\n0\r\n")),
        ("400 bad-body, closed", chunks("\r\n")),
        ("400 bad-body, closed", chunks("")),
        ("400 bad-body, closed", chunked(|body| format!("ffff\r\n{body}"))),
        ("closed", b"POST /warm-start HTTP/1.1\r\nhost: b".to_vec()),
    ])
    .await;
}

#[tokio::test]
async fn a_body_that_nobody_wants_is_not_asked_for() {
    let native = |target: &str, fields: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nhost: b\r\ncontent-length: 5\r\n{fields}expect: 100-continue\r\n\r\n"
        )
        .into_bytes()
    };
    check(vec![
        ("400 bad-key, closed", native("/v1/pools/a/1/x/1", "")),
        ("400 bad-key, closed", native("/v1/pools/a/1/1", "")),
        ("400 bad-parameter, closed", native("/v1/pools/a/1/1/1?wait=soon", "")),
        (
            "400 bad-parameter, closed",
            native("/v1/pools/a/1/1/1", "pilotlight-run: a\r\npilotlight-run: b\r\n"),
        ),
        ("closed", poll("a", "content-length: 2000\r\nexpect: 100-continue\r\n", "")),
    ])
    .await;
}

#[tokio::test]
async fn a_body_that_ends_early_is_refused_on_the_fast_path_too() {
    let body = guarded().body("run_row");
    check_cut_off(vec![
        ("400 bad-body, closed", aimed(&format!("content-length: {}", body.len() + 10), &body)),
        ("400 bad-body, closed", aimed("content-length: 5", "")),
    ])
    .await;
}

#[tokio::test]
async fn what_is_refused_for_its_size_is_drained_a_little() {
    let broker = Broker::start(&["--body-limit", "64KiB"]);
    let mut client = broker.client().await;
    client.send(aimed("content-length: 80000", "x".repeat(60_000))).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.stream.write_all(&vec![b'x'; 20_000]).await.unwrap();
    let mut seen = Vec::new();
    client.stream.read_to_end(&mut seen).await.unwrap();
    assert!(seen.starts_with(b"HTTP/1.1 413 "));
}

#[tokio::test]
async fn a_segment_that_is_encoded_wrongly_is_refused() {
    let mut rows: Vec<Row> = Vec::new();
    for bad in ["%", "%%", "a%", "%4", "%zz", "%4g", "%u0041", "%-1"] {
        rows.push(("400", get(&format!("/v1/pools/{bad}/1/1/1"), "")));
        rows.push(("400", get(&format!("/v1/pools/a/{bad}/1/1"), "")));
        rows.push(("400", post(&format!("/v1/pools/{bad}/1/1/1"), "x").into()));
    }
    check(rows).await;
}

//! Owns the fuzzing of heads: the fast path agrees with every other parser, wherever the bytes are cut.

#![no_main]

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use pilotlight::http::fuzz::{OwnedHead, ParsedHead, is_valid_head, parse_head};
use pilotlight_fuzz::head::{self as naive_head, NaiveHead};
use std::ops::Range;

const BODY_LIMIT: usize = 4 << 20;
/// The number of cuts tried in a long input; in a short one, all are tried.
const CUTS: usize = 48;

/// Fields whose first value is kept.
const FIRST_KEPT: [&str; 13] = [
    "host",
    "content-length",
    "content-type",
    "authorization",
    "traceparent",
    "x-trigger-workload-controller-id",
    "x-trigger-deployment-id",
    "x-trigger-deployment-version",
    "x-trigger-machine-cpu",
    "x-trigger-machine-memory",
    "x-trigger-worker-instance-name",
    "pilotlight-controller",
    "pilotlight-run",
];
/// Fields whose last value is kept.
const LAST_KEPT: [&str; 2] = ["x-forwarded-for", "forwarded"];
/// Fields that only proxies add.
const PROXY_NAMES: [&str; 12] = [
    "via",
    "forwarded",
    "x-forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-ray",
    "fastly-client-ip",
    "cdn-loop",
    "l5d-client-id",
];

fuzz_target!(|input: &[u8]| {
    let whole = parse_head(input, BODY_LIMIT);
    match &whole {
        ParsedHead::Complete(head, body) => {
            check_plain(input, head, body.clone());
            check_valid(input);
            assert!(is_valid_head(input, BODY_LIMIT), "plain, but not valid");
        }
        ParsedHead::PartialBody => {
            check_valid(input);
            assert!(is_valid_head(input, BODY_LIMIT), "plain, but not valid");
        }
        ParsedHead::Streamed(head, at, length) => {
            check_streamed(input, head, *at, *length);
            check_valid(input);
            assert!(is_valid_head(input, BODY_LIMIT), "streamed, but not valid");
        }
        ParsedHead::NeedsHyper => check_valid(input),
        ParsedHead::Refused(response) => {
            let status = response.status.as_u16();
            assert!(response.close && matches!(status, 400 | 413 | 414 | 431 | 501), "{response:?}");
        }
        ParsedHead::PartialHead => {}
    }
    let step = (input.len() / CUTS).max(1);
    for cut in (0..input.len()).step_by(step) {
        check_cut(input, cut, &whole);
    }
});

/// A plain request is the same to the naive model and to hyper.
fn check_plain(input: &[u8], head: &OwnedHead, body: Range<usize>) {
    let naive = naive_head::read(input).expect("plain, but not made of lines");
    assert_eq!((naive.method, naive.version), (head.method.as_str(), "HTTP/1.1"));
    check_fields(&naive, head);
    assert_eq!(body, naive.end..input.len());
    let uri = Uri::try_from(naive.target).expect("plain, but no URI to hyper");
    assert_eq!((uri.path(), uri.query()), (head.path.as_str(), head.query.as_deref()), "{}", naive.target);
    for (name, value) in &naive.fields {
        HeaderName::from_bytes(name.as_bytes()).expect("plain, but hyper refuses a name");
        HeaderValue::from_bytes(value).expect("plain, but hyper refuses a value");
    }
    assert!(naive.only("host").is_some());
    match naive.method {
        "GET" => assert!(body.is_empty() && naive.values("content-length").next().is_none()),
        _ => {
            assert_eq!(naive.only("content-length").and_then(|length| length.parse().ok()), Some(body.len()))
        }
    }
    for name in ["transfer-encoding", "expect", "upgrade", "trailer", "te", "http2-settings"] {
        assert!(naive.values(name).next().is_none(), "plain, with {name}");
    }
}

/// A request whose body is read as it comes is the same to the naive model, which knows one length or one coding.
fn check_streamed(input: &[u8], head: &OwnedHead, at: usize, length: Option<u64>) {
    let naive = naive_head::read(input).expect("streamed, but not made of lines");
    assert_eq!((naive.method, naive.version, naive.end), ("POST", "HTTP/1.1", at));
    assert_eq!(head.method, "POST");
    check_fields(&naive, head);
    let uri = Uri::try_from(naive.target).expect("streamed, but no URI to hyper");
    assert_eq!((uri.path(), uri.query()), (head.path.as_str(), head.query.as_deref()), "{}", naive.target);
    assert!(uri.path().starts_with("/v1/runs/"), "only replies stream");
    assert!(naive.only("host").is_some());
    let lengths: Vec<_> = naive.values("content-length").collect();
    let codings: Vec<_> = naive.values("transfer-encoding").collect();
    match (length, &lengths[..], &codings[..]) {
        (None, [], [coding]) => assert!(coding.eq_ignore_ascii_case(b"chunked"), "{}", coding.escape_ascii()),
        (Some(0), [], []) => {}
        (Some(length), [given], []) => assert_eq!(str::from_utf8(given).map(str::parse), Ok(Ok(length))),
        framing => panic!("{framing:?}"),
    }
}

/// The slots of the fields have what a search by name finds.
fn check_fields(naive: &NaiveHead<'_>, head: &OwnedHead) {
    let kept: Vec<(&str, &[u8])> = FIRST_KEPT
        .iter()
        .filter_map(|name| Some((*name, naive.values(name).next()?)))
        .chain(LAST_KEPT.iter().filter_map(|name| Some((*name, naive.values(name).last()?))))
        .collect();
    let mut values: Vec<_> = head.values.iter().map(|(name, value)| (*name, value.as_slice())).collect();
    values.sort_by_key(|(name, _)| LAST_KEPT.contains(name));
    assert_eq!(kept, values);
    let is_repeated = |name: &&str| naive.values(name).count() > 1;
    let repeated: Vec<&str> = FIRST_KEPT.into_iter().filter(is_repeated).collect();
    assert_eq!(repeated, head.repeated);
    let has = |names: &[&str]| names.iter().any(|name| naive.values(name).next().is_some());
    let lists = |name: &str, separators: &[char], word: &str| {
        naive.values(name).any(|value| {
            let value = String::from_utf8_lossy(value).to_ascii_lowercase();
            value.split(separators).any(|part| part.trim_matches(|c: char| c.is_ascii_whitespace()) == word)
        })
    };
    let is_prefixed = |name: &str| {
        let name = name.to_ascii_lowercase();
        ["x-forwarded-", "x-envoy-", "x-original-forwarded-"].iter().any(|prefix| name.starts_with(prefix))
    };
    let is_balanced = naive.values("x-amzn-trace-id").any(|value| {
        String::from_utf8_lossy(value)
            .split(';')
            .any(|part| part.trim_start_matches([' ', '\t']).starts_with("Self="))
    });
    let is_proxied =
        has(&PROXY_NAMES) || naive.fields.iter().any(|(name, _)| is_prefixed(name)) || is_balanced;
    let signs = [
        ("BROWSER", has(&["origin", "sec-fetch-site"])),
        ("FETCH_MODE", has(&["sec-fetch-mode"])),
        ("NAVIGATION", lists("sec-fetch-mode", &[',', ';'], "navigate")),
        ("ACCEPTS_HTML", lists("accept", &[',', ';'], "text/html")),
        ("PROXY", is_proxied),
        ("CLOSE", lists("connection", &[','], "close")),
        ("CONTENT_ENCODING", has(&["content-encoding"])),
        ("WEBSOCKET", lists("upgrade", &[','], "websocket")),
        ("UPGRADE", lists("connection", &[','], "upgrade")),
        ("WEBSOCKET_13", naive.values("sec-websocket-version").any(|value| value == b"13")),
        ("PILOTLIGHT_V1", lists("sec-websocket-protocol", &[','], "pilotlight.v1")),
        ("ACCEPTS_EVENTS", lists("accept", &[',', ';'], "text/event-stream")),
    ];
    let shown: Vec<&str> = signs.iter().filter(|(_, is_shown)| *is_shown).map(|(sign, _)| *sign).collect();
    assert_eq!(shown, head.signs);
    assert_eq!(head.reusable, !shown.contains(&"CLOSE"));
}

/// A valid head has one Host and one framing, as far as the naive model shows.
fn check_valid(input: &[u8]) {
    let Some(naive) = naive_head::read(input) else { panic!("valid, but not made of lines") };
    let hosts = naive.values("host").count();
    assert!(hosts == 1 || (hosts == 0 && naive.version == "HTTP/1.0"), "valid, with {hosts} hosts");
    let (lengths, codings) =
        (naive.values("content-length").count(), naive.values("transfer-encoding").count());
    assert!(codings == 0 || (lengths == 0 && naive.version == "HTTP/1.1"), "valid, framed twice");
}

/// The result for a prefix agrees with the result for the whole.
fn check_cut(input: &[u8], cut: usize, whole: &ParsedHead) {
    match (parse_head(&input[..cut], BODY_LIMIT), whole) {
        (ParsedHead::PartialHead, _)
        | (
            ParsedHead::PartialBody,
            ParsedHead::PartialBody | ParsedHead::Complete(..) | ParsedHead::NeedsHyper,
        )
        // More bytes follow a plain request, or a request that is not plain.
        | (ParsedHead::Complete(..) | ParsedHead::NeedsHyper, ParsedHead::NeedsHyper) => {}
        (ParsedHead::Streamed(early, at, length), ParsedHead::Streamed(late, whole_at, whole_length)) => {
            assert_eq!((&early, at, length), (late, *whole_at, *whole_length));
        }
        (ParsedHead::Refused(early), ParsedHead::Refused(late)) => assert_eq!(early.status, late.status),
        (early, late) => panic!("{early:?} after {cut} bytes, {late:?} after all"),
    }
}

//! Owns the fuzzing of heads: the fast path agrees with every other parser, wherever the bytes are cut.

#![no_main]

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use pilotlight::http::fuzz::{OwnedHead, ParsedHead, is_valid_head, parse_head};
use pilotlight_fuzz::head as naive_head;
use std::ops::Range;

const BODY_LIMIT: usize = 4 << 20;
/// The number of cuts tried in a long input; in a short one, all are tried.
const CUTS: usize = 48;

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
    let fields: Vec<_> = head.fields.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    assert_eq!(naive.fields, fields);
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
    for name in ["transfer-encoding", "expect", "upgrade", "trailer"] {
        assert!(naive.values(name).next().is_none(), "plain, with {name}");
    }
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
        (ParsedHead::Refused(early), ParsedHead::Refused(late)) => assert_eq!(early.status, late.status),
        (early, late) => panic!("{early:?} after {cut} bytes, {late:?} after all"),
    }
}

//! Owns the fuzzing of heads: what the quick way takes is what everybody else would read, wherever the bytes were cut.

#![no_main]

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use pilotlight::http::fuzz::{Quick, Seen, Verdict, judge, quick};
use pilotlight_fuzz::head;
use std::ops::Range;

const BODY_LIMIT: usize = 4 << 20;
/// So many cuts are tried of a long input; of a short one, all.
const CUTS: usize = 48;

fuzz_target!(|input: &[u8]| {
    let whole = quick(input);
    let judged = judge(input, BODY_LIMIT);
    if let Quick::Plain(seen, body) = &whole {
        check_plain(input, seen, body.clone());
        assert!(matches!(judged, Verdict::Fine), "plain, but judged {judged:?}");
    }
    match &judged {
        Verdict::Fine => check_fine(input),
        Verdict::Wrong(reply) => {
            let status = reply.status.as_u16();
            assert!(reply.close && matches!(status, 400 | 413 | 414 | 431 | 501), "{reply:?}");
        }
        Verdict::Partial => assert!(!matches!(whole, Quick::Plain(..))),
    }
    let step = (input.len() / CUTS).max(1);
    for cut in (0..input.len()).step_by(step) {
        check_cut(input, cut, &whole, &judged);
    }
});

/// What is plain means the same to a naive reader and to hyper.
fn check_plain(input: &[u8], seen: &Seen, body: Range<usize>) {
    let naive = head::read(input).expect("plain, but not made of lines");
    assert_eq!((naive.method, naive.version), (seen.method.as_str(), "HTTP/1.1"));
    let fields: Vec<_> = seen.fields.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    assert_eq!(naive.fields, fields);
    assert_eq!(body, naive.end..input.len());
    let uri = Uri::try_from(naive.target).expect("plain, but no URI to hyper");
    assert_eq!((uri.path(), uri.query()), (seen.path.as_str(), seen.query.as_deref()), "{}", naive.target);
    for (name, value) in &naive.fields {
        HeaderName::from_bytes(name.as_bytes()).expect("plain, but no name to hyper");
        HeaderValue::from_bytes(value).expect("plain, but no value to hyper");
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

/// What is fine has one host and is framed once, as far as a naive reader can say.
fn check_fine(input: &[u8]) {
    let Some(naive) = head::read(input) else { panic!("fine, but not made of lines") };
    let hosts = naive.values("host").count();
    assert!(hosts == 1 || (hosts == 0 && naive.version == "HTTP/1.0"), "fine, with {hosts} hosts");
    let (lengths, codings) =
        (naive.values("content-length").count(), naive.values("transfer-encoding").count());
    assert!(codings == 0 || (lengths == 0 && naive.version == "HTTP/1.1"), "fine, framed twice");
}

/// What a prefix is found to be, the whole is as well.
fn check_cut(input: &[u8], cut: usize, whole: &Quick, judged: &Verdict) {
    let prefix = &input[..cut];
    match quick(prefix) {
        Quick::Partial => {}
        Quick::Plain(..) => assert_eq!(whole, &Quick::Other, "more follows a plain request"),
        Quick::Other => assert_eq!(whole, &Quick::Other, "other after {cut} bytes"),
    }
    match (judge(prefix, BODY_LIMIT), judged) {
        (Verdict::Partial, _) | (Verdict::Fine, Verdict::Fine) => {}
        (Verdict::Wrong(early), Verdict::Wrong(late)) => assert_eq!(early.status, late.status),
        (early, late) => panic!("{early:?} after {cut} bytes, {late:?} after all"),
    }
}

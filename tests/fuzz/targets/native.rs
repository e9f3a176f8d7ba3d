//! Owns the fuzzing of the broker's own dialect: a choice, the target behind `/v1/pools/`, fields, an empty line, a body.

#![no_main]

use std::fmt::Write;
use std::sync::LazyLock;

use hyper::{Method, Uri};
use libfuzzer_sys::fuzz_target;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pilotlight::broker::Key;
use pilotlight::http::fuzz::{Handled, ParkedKind};
use pilotlight_fuzz::state::{BrokerSet, TestRequest};

static BROKERS: LazyLock<BrokerSet> = LazyLock::new(BrokerSet::default);

fuzz_target!(|input: &[u8]| {
    let Some((&choice, rest)) = input.split_first() else { return };
    let bytes = [b"GET /v1/pools/", rest].concat();
    let end = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
    let rest = bytes.get(end + 1..).unwrap_or_default();
    let Some(uri) = bytes[4..end].try_into().ok().filter(|uri: &Uri| uri.authority().is_none()) else {
        return;
    };
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let Ok(httparse::Status::Complete((head, fields))) = httparse::parse_headers(rest, &mut fields) else {
        return;
    };
    let method = if choice & 0x80 == 0 { Method::GET } else { Method::POST };
    let request = TestRequest { broker: choice & 0x7f, method, uri, fields, body: &rest[head..] };
    match BROKERS.handle(&request) {
        Handled::Parked(poll) => {
            assert_eq!(request.method, Method::GET);
            match poll.kind {
                ParkedKind::Once { timeout, .. } => {
                    assert!(timeout.as_secs() <= 50, "longer than the cap: {timeout:?}");
                }
                ParkedKind::WebSocket => {}
                ParkedKind::EventStream(slots) => assert!((1..=256).contains(&slots), "{slots} slots"),
            }
            check_key(&request, &poll.key);
        }
        Handled::Responded(response) => {
            let status = response.status.as_u16();
            assert!(
                matches!(status, 200 | 400 | 401 | 403 | 404 | 405 | 413 | 414 | 415 | 426 | 503),
                "{response:?}"
            );
            assert!(
                status != 200 || request.method == Method::POST,
                "a poll is answered only with a run: {response:?}"
            );
        }
        Handled::Closed => {}
        Handled::Relayed => unreachable!("nobody waits for a run"),
    }
});

/// A parsed key, written and parsed again, is the same.
fn check_key(request: &TestRequest<'_>, key: &Key) {
    let mut path = "/v1/pools".to_owned();
    let Key { deployment, version, cpu, memory } = key;
    for part in [&**deployment, &**version, &cpu.to_string(), &memory.to_string()] {
        assert!(
            !part.is_empty() && part.len() <= 256 && part.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        );
        let _ = write!(path, "/{}", utf8_percent_encode(part, NON_ALPHANUMERIC));
    }
    let uri = Uri::try_from(path).expect("an encoded key is a path");
    let again =
        TestRequest { broker: request.broker, method: Method::GET, uri, fields: request.fields, body: b"" };
    match BROKERS.handle(&again) {
        Handled::Parked(poll) => assert_eq!(&poll.key, key),
        other => panic!("{key:?} became {other:?}"),
    }
}

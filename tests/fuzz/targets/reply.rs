//! Owns the fuzzing of replies: two choices, the target behind `/v1/runs/`, a worker's fields, an empty line, its body.

#![no_main]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock};

use httparse::{EMPTY_HEADER, Header, Status};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{StatusCode, Uri};
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode_str;
use pilotlight::broker::check_part;
use pilotlight::http::fuzz::{CallerSide, RunTarget, WorkerSide, parse_target, relay};
use pilotlight::reply::ReplyToken;
use pilotlight::transport::{Connection, run_path};
use pilotlight_fuzz::served::runtime;
use pilotlight_fuzz::state::PEER;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// A caller's connection, which a head is written for, with the runtime of its socket.
static CALLER: LazyLock<(Arc<Connection>, Runtime)> = LazyLock::new(|| {
    let runtime = runtime();
    let (socket, _) = UnixStream::pair().expect("a pair of sockets");
    socket.set_nonblocking(true).expect("a socket that does not block");
    let socket = OwnedFd::from(socket);
    let stream = {
        let _entered = runtime.enter();
        TcpStream::from_std(socket.into()).expect("a socket on a runtime")
    };
    (Arc::new(Connection::new(stream, PEER, None, Arc::default())), runtime)
});

fuzz_target!(|input: &[u8]| {
    let &[choice, size, ref rest @ ..] = input else { return };
    let end = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
    let (target, rest) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
    let target = String::from_utf8_lossy(target);
    check_token(&target);
    let uri = Uri::try_from(format!("/v1/runs/{target}")).ok().filter(|uri| uri.authority().is_none());
    let parsed = uri.and_then(|uri| check_target(&uri));
    let mut fields = [EMPTY_HEADER; 40];
    let Ok(Status::Complete((head, fields))) = httparse::parse_headers(rest, &mut fields) else { return };
    let run = parsed.and_then(|target| target.run).unwrap_or_else(|| "run".to_owned());
    check_relay(choice, size, &run, fields, &rest[head..]);
});

/// A token is 32 or 64 digits in lower case, and is shown as it was given.
fn check_token(text: &str) {
    for text in [text, text.rsplit('=').next().unwrap_or_default()] {
        let is_digit = |c| matches!(c, '0'..='9' | 'a'..='f');
        let has_form = matches!(text.len(), 32 | 64) && text.chars().all(is_digit);
        let token = ReplyToken::parse(text);
        assert_eq!(token.is_some(), has_form, "{text}");
        let Some(token) = token else { continue };
        assert_eq!(token.to_string(), text);
        assert_eq!(token.broker.is_some(), text.len() == 64);
        for resource in ["reply", "error"] {
            let again = Uri::try_from(run_path(b"a/b %?", resource, token)).expect("a path");
            let target = check_target(&again).expect("what a worker is given is a target");
            assert_eq!((target.run.as_deref(), target.resource), (Some("a/b %?"), resource));
            assert_eq!(target.token.as_deref(), Some(text));
        }
    }
}

/// A target is read as the naive model reads it: segments, and parameters split at their separators.
fn check_target(uri: &Uri) -> Option<RunTarget> {
    let parsed = parse_target(uri.path(), uri.query());
    let segments: Vec<&str> = uri.path().split('/').collect();
    let ["", "v1", "runs", run, resource @ ("ack" | "ready" | "reply" | "error")] = segments[..] else {
        assert_eq!(parsed, None, "{uri}");
        return None;
    };
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let (mut token, mut is_passed_on, mut is_refused) = (None, false, false);
    for part in uri.query().unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let (name, value) = (decode(name), decode(value));
        let is_flag = matches!(&*value, "true" | "false");
        match &*name {
            "token" => is_refused |= token.replace(value).is_some(),
            "passed_on" if is_flag => is_passed_on = value == "true",
            "ready" if is_flag && resource == "ack" => {}
            _ => is_refused = true,
        }
    }
    let Some(parsed) = parsed else {
        assert!(is_refused, "{uri}");
        return None;
    };
    assert!(!is_refused, "{uri}");
    let run = String::from_utf8(percent_decode_str(run).collect()).ok();
    let run = run.filter(|run| check_part(run).is_ok());
    assert_eq!((&run, &*resource), (&parsed.run, parsed.resource), "{uri}");
    assert_eq!((&token, is_passed_on), (&parsed.token, parsed.is_passed_on), "{uri}");
    Some(parsed)
}

/// The caller is sent one head, which says what the worker has said and no more, and the worker's bytes.
fn check_relay(choice: u8, size: u8, run: &str, fields: &[Header<'_>], body: &[u8]) {
    let is = |bit: u8| choice & (1 << bit) != 0;
    let mut map = HeaderMap::new();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).expect("a valid name");
        map.append(name, HeaderValue::from_bytes(field.value).expect("a valid value"));
    }
    let values = |name: &str| -> Vec<&[u8]> {
        fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value).collect()
    };
    let printable = |name| {
        let value = values(name).first().map(|value| String::from_utf8_lossy(value).into_owned());
        value.filter(|value| check_part(value).is_ok())
    };
    let (controller, metadata) = (printable("pilotlight-controller"), printable("pilotlight-metadata"));
    let (is_error, is_http_11, closes) = (is(0), is(1), !is(1) || is(2));
    let length = is(3).then_some(body.len() as u64);
    let mut pieces: Vec<&[u8]> = body.chunks(usize::from(size) + 1).collect();
    if is(4) || pieces.is_empty() {
        pieces.push(b"");
    }
    let connection = CALLER.0.clone();
    let keep_alive = connection.keep_alive_seconds();
    let (controller, metadata) = (controller.as_deref(), metadata.as_deref());
    let caller = CallerSide { connection, is_http_11, closes, run, controller, metadata };
    let worker = WorkerSide { fields: &map, length, is_error, pieces: &pieces };
    let relayed = relay(worker, &caller);
    let status = if is_error { Some(502) } else { naive_status(&values("pilotlight-status")) };
    assert_eq!(relayed.is_some(), status.is_some());
    let (Some((head, sent)), Some(status)) = (relayed, status) else { return };

    let (length, keep_alive) = (body.len().to_string(), format!("timeout={keep_alive}"));
    let outcome = if is_error { "worker_error" } else { "replied" };
    let encodings = values("content-encoding");
    let all_encodings = encodings.join(&b", "[..]);
    let expected = [
        ("content-type", values("content-type").first().copied()),
        ("content-encoding", (!encodings.is_empty()).then_some(all_encodings.trim_ascii())),
        ("pilotlight-run", Some(run.trim_matches(' ').as_bytes())),
        ("pilotlight-controller", controller.map(str::as_bytes)),
        ("pilotlight-metadata", metadata.map(str::as_bytes)),
        ("pilotlight-outcome", Some(outcome.as_bytes())),
        ("pilotlight-proof", (!is_error).then_some(b"replied")),
        ("x-accel-buffering", Some(b"no")),
        ("content-length", is(3).then_some(length.as_bytes())),
        ("transfer-encoding", (!is(3) && is_http_11).then_some(b"chunked")),
        ("keep-alive", (!closes).then_some(keep_alive.as_bytes())),
        ("connection", closes.then_some(b"close")),
    ];
    let expected: Vec<_> = expected.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let mut fields = [EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut fields);
    assert_eq!(response.parse(&head), Ok(Status::Complete(head.len())), "{}", head.escape_ascii());
    assert_eq!((response.version, response.code), (Some(1), Some(status)));
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    assert_eq!(response.reason, Some(reason.unwrap_or_default()));
    let mut shown: Vec<_> = response.headers.iter().map(|field| (field.name, field.value)).collect();
    assert_eq!(shown.pop().map(|(name, _)| name), Some("date"));
    assert_eq!(shown, expected);
    assert_eq!(if is(3) || !is_http_11 { sent } else { unchunked(&sent) }, body);
}

/// 200 to 599 in three digits, but for those that have no body.
fn naive_status(given: &[&[u8]]) -> Option<u16> {
    let [given] = given else { return given.is_empty().then_some(200) };
    let is_number = given.len() == 3 && given.iter().all(u8::is_ascii_digit);
    let status = std::str::from_utf8(given).ok().filter(|_| is_number)?.parse().ok()?;
    (matches!(status, 200..=599) && !matches!(status, 204 | 205 | 304)).then_some(status)
}

/// The body that chunks make, which end where the bytes do.
fn unchunked(mut sent: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let Ok(Status::Complete((head, size))) = httparse::parse_chunk_size(sent) else {
            panic!("no chunk: {}", sent.escape_ascii());
        };
        let (data, rest) = sent[head..].split_at(usize::try_from(size).expect("a short chunk"));
        body.extend_from_slice(data);
        sent = rest.strip_prefix(b"\r\n").expect("a chunk has an end");
        if size == 0 {
            assert_eq!(sent, b"", "nothing follows the last chunk");
            return body;
        }
    }
}

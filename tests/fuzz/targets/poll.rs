//! Owns the fuzzing of polls: the first byte chooses the broker and the route, the rest are the fields.

#![no_main]

use std::sync::LazyLock;

use hyper::{Method, Uri};
use libfuzzer_sys::fuzz_target;
use pilotlight::http::fuzz::{Polled, Told};
use pilotlight_fuzz::front::{Asked, Made};
use pilotlight_fuzz::head::{self, Naive};

static ASKED: LazyLock<Asked> = LazyLock::new(Asked::default);

const KEY: [&str; 4] = [
    "x-trigger-deployment-id",
    "x-trigger-deployment-version",
    "x-trigger-machine-cpu",
    "x-trigger-machine-memory",
];

fuzz_target!(|input: &[u8]| {
    let Some((&choice, lines)) = input.split_first() else { return };
    let bytes = [b"GET /warm-start HTTP/1.1\r\nhost: b\r\n", lines, b"\r\n\r\n"].concat();
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut fields);
    if !request.parse(&bytes).is_ok_and(|status| status.is_complete()) {
        return;
    }
    let naive = head::read(&bytes).expect("parsed, but not made of lines");
    let target = if choice & 0x80 == 0 { "/warm-start" } else { "/connect" };
    let (method, uri) = (Method::GET, Uri::from_static(target));
    let made = Made { front: choice & 0x7f, method, uri, fields: request.headers, body: b"" };
    match ASKED.ask(&made) {
        Told::Held(polled) => check_held(&naive, &polled),
        Told::HttpResponse(reply) => {
            let status = reply.status.as_u16();
            assert!(matches!(status, 200 | 400 | 401 | 403), "a stock controller would end: {reply:?}");
            assert_eq!(status == 200, target == "/connect" && status == 200);
        }
        Told::Close => {}
    }
});

/// Whoever is held said who it is, once, in bounds.
fn check_held(naive: &Naive<'_>, polled: &Polled) {
    let [deployment, version, cpu, memory] =
        KEY.map(|name| naive.only(name).unwrap_or_else(|| panic!("held without one {name}")));
    let number = |text: &str| text.parse::<f64>().expect("held with a number that is none");
    assert_eq!(polled.key.cpu.get().to_bits(), (number(cpu) + 0.0).to_bits());
    assert_eq!(polled.key.memory.get().to_bits(), (number(memory) + 0.0).to_bits());
    for number in [polled.key.cpu.get(), polled.key.memory.get()] {
        assert!((0.0..=1e6).contains(&number) && !number.is_sign_negative(), "{number}");
    }
    assert_eq!(&*polled.key.version, version);
    let is_token = deployment.starts_with("eyJ") && deployment.contains('.');
    assert!(is_token || *polled.key.deployment == *deployment, "another deployment than it said");
    for part in [&*polled.key.deployment, &*polled.key.version] {
        assert!(
            (1..=256).contains(&part.len()) && part.bytes().all(|byte| matches!(byte, b' '..=b'~')),
            "{part:?}"
        );
    }
    assert!(
        polled.controller.len() <= 256 && polled.controller.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    );
}

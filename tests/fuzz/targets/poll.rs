//! Owns the fuzzing of polls: the first byte chooses the broker and the route, the rest are the fields.

#![no_main]

use std::sync::LazyLock;

use hyper::{Method, Uri};
use libfuzzer_sys::fuzz_target;
use pilotlight::http::fuzz::{Handled, ParkedPoll};
use pilotlight_fuzz::head::{self, NaiveHead};
use pilotlight_fuzz::state::{BrokerSet, TestRequest};

static BROKERS: LazyLock<BrokerSet> = LazyLock::new(BrokerSet::default);

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
    let mut parsed = httparse::Request::new(&mut fields);
    if !parsed.parse(&bytes).is_ok_and(|status| status.is_complete()) {
        return;
    }
    let naive = head::read(&bytes).expect("parsed, but not made of lines");
    let target = if choice & 0x80 == 0 { "/warm-start" } else { "/connect" };
    let (method, uri) = (Method::GET, Uri::from_static(target));
    let request = TestRequest { broker: choice & 0x7f, method, uri, fields: parsed.headers, body: b"" };
    match BROKERS.handle(&request) {
        Handled::Parked(poll) => check_parked(&naive, &poll),
        Handled::Responded(response) => {
            let status = response.status.as_u16();
            assert!(matches!(status, 200 | 400 | 401 | 403), "a stock controller would exit: {response:?}");
            assert_eq!(status == 200, target == "/connect" && status == 200);
        }
        Handled::Closed => {}
        Handled::Relayed => unreachable!("a poll is no reply"),
    }
});

/// A parked poll has named its key once, within its bounds.
fn check_parked(naive: &NaiveHead<'_>, poll: &ParkedPoll) {
    let [deployment, version, cpu, memory] =
        KEY.map(|name| naive.only(name).unwrap_or_else(|| panic!("parked without one {name}")));
    let number = |text: &str| text.parse::<f64>().expect("parked with an invalid number");
    assert_eq!(poll.key.cpu.get().to_bits(), (number(cpu) + 0.0).to_bits());
    assert_eq!(poll.key.memory.get().to_bits(), (number(memory) + 0.0).to_bits());
    for number in [poll.key.cpu.get(), poll.key.memory.get()] {
        assert!((0.0..=1e6).contains(&number) && !number.is_sign_negative(), "{number}");
    }
    assert_eq!(&*poll.key.version, version);
    let is_token = deployment.starts_with("eyJ") && deployment.contains('.');
    assert!(is_token || *poll.key.deployment == *deployment, "parked for another deployment");
    for part in [&*poll.key.deployment, &*poll.key.version] {
        assert!(
            (1..=256).contains(&part.len()) && part.bytes().all(|byte| matches!(byte, b' '..=b'~')),
            "{part:?}"
        );
    }
    assert!(poll.controller.len() <= 256 && poll.controller.bytes().all(|byte| matches!(byte, b' '..=b'~')));
}

//! Owns the tests of the codec: random events, the largest ones, and bytes that are no event.

use std::time::Duration;

use fastrand::Rng;

use super::*;
use crate::journal::record::PackedStrs;
use crate::journal::tests::{encode, encode_reply};
use crate::journal::trace_parent::TraceParent;
use crate::model::{DispatchOutcome, MissReason, ReplyOutcome};

const AT: u64 = 1_700_000_000_000;
const TEXTS: [&str; 5] = ["", "run_cm1a2b3c4d5e6f7g8h9i0j1k2", "20260821.3", "größe", "\u{1f6a2}"];

fn any<T: Copy>(values: &[T], rng: &mut Rng) -> T {
    values[rng.usize(..values.len())]
}

/// Usually a short text, now and then the longest that a name may be.
fn any_text(rng: &mut Rng) -> String {
    if rng.u8(..) < 16 { "x".repeat(256) } else { any(&TEXTS, rng).to_owned() }
}

fn any_duration(rng: &mut Rng) -> Duration {
    Duration::from_nanos(rng.u64(..) >> rng.u32(..64))
}

fn any_offer(rng: &mut Rng) -> OfferRecord {
    OfferRecord {
        controller: any_text(rng).into(),
        broker: rng.bool().then(|| any_text(rng).into()),
        verdict: any(Verdict::ALL, rng),
        since: any_duration(rng),
        took: any_duration(rng),
    }
}

fn any_dispatch(offers: usize, rng: &mut Rng) -> DispatchRecord {
    let texts = [any_text(rng), any_text(rng), any_text(rng)];
    let outcomes = [DispatchOutcome::Hit, DispatchOutcome::Refused, DispatchOutcome::Aborted];
    let trace = TraceParent { trace_id: rng.u128(..).to_ne_bytes(), span_id: [7; 8], flags: rng.u8(..) };
    DispatchRecord {
        at: AT,
        names: PackedStrs::new([&texts[0], &texts[1], &texts[2]]),
        cpu: rng.f64(),
        memory: rng.f64() * 1e9,
        outcome: if rng.bool() {
            any(&outcomes, rng)
        } else {
            DispatchOutcome::Miss(any(MissReason::ALL, rng))
        },
        proof: rng.bool().then(|| any(Proof::ALL, rng)),
        earlier_offers: 0,
        offers: (0..offers).map(|_| any_offer(rng)).collect(),
        took: any_duration(rng),
        trace: rng.bool().then_some(trace),
    }
}

fn any_reply(rng: &mut Rng) -> ReplyRecord {
    let texts = [any_text(rng), any_text(rng), any_text(rng)];
    let trace = TraceParent { trace_id: rng.u128(..).to_ne_bytes(), span_id: [7; 8], flags: rng.u8(..) };
    ReplyRecord {
        at: AT,
        names: PackedStrs::new([&texts[0], &texts[1], &texts[2]]),
        cpu: rng.f64(),
        memory: rng.f64() * 1e9,
        outcome: any(ReplyOutcome::ALL, rng),
        status: rng.bool().then(|| rng.u16(200..600)),
        first_byte: rng.bool().then(|| any_duration(rng)),
        took: any_duration(rng),
        bytes: rng.u64(..),
        trace: rng.bool().then_some(trace),
    }
}

fn any_event(rng: &mut Rng) -> Event {
    let (at, controller) = (rng.u64(..), any_text(rng).into());
    let number = |rng: &mut Rng| rng.bool().then(|| Number::new(rng.f64()).unwrap());
    match rng.u8(..4) {
        kind @ 0..=1 => {
            let names = PackedStrs::new([any(&TEXTS, rng), any(&TEXTS, rng)]);
            let ended = PollPhase::Ended { end: any(PollEnd::ALL, rng), held: any_duration(rng) };
            let phase = if kind == 0 { PollPhase::Parked } else { ended };
            Event::Poll(PollEvent { at, controller, names, cpu: rng.f64(), memory: rng.f64(), phase })
        }
        2 => Event::Drain(DrainEvent { at, waiters: rng.usize(..) }),
        _ => {
            let filter = Filter {
                deployment: rng.bool().then(|| any_text(rng)),
                version: rng.bool().then(|| any_text(rng)),
                cpu: number(rng),
                memory: number(rng),
            };
            Event::Retire(RetireEvent { at, filter, retired: rng.usize(..) >> rng.u32(..64) })
        }
    }
}

/// The event in these bytes; none if they are no event.
fn decoded(bytes: &[u8]) -> Option<String> {
    Some(match decode(AT, bytes)? {
        Recorded::Dispatch(dispatch) => format!("{:?}", dispatch.decode()?),
        Recorded::Reply(reply) => format!("{:?}", reply.decode()?),
        Recorded::Event(event) => format!("{event:?}"),
    })
}

#[test]
fn what_is_decoded_is_what_was_recorded() {
    let mut rng = Rng::with_seed(15);
    for round in 0..2_000 {
        let dispatch = any_dispatch(round % 5, &mut rng);
        let bytes = encode(&dispatch);
        assert_eq!(decoded(&bytes), Some(format!("{dispatch:?}")));

        let reply = any_reply(&mut rng);
        assert_eq!(decoded(&encode_reply(&reply)), Some(format!("{reply:?}")));

        let other = any_event(&mut rng);
        let expected = Some(format!("{other:?}"));
        let mut bytes = Vec::new();
        put_event(other, &mut bytes);
        assert_eq!(decoded(&bytes), expected);
    }
}

#[test]
fn of_very_many_offers_the_last_are_kept_and_the_others_counted() {
    let mut rng = Rng::with_seed(15);
    for earlier in [0, 1, 5_000] {
        let mut dispatch = any_dispatch(MAX_OFFERS + earlier, &mut rng);
        let bytes = encode(&dispatch);
        dispatch.offers.drain(..earlier);
        dispatch.earlier_offers = earlier;
        assert_eq!(decoded(&bytes), Some(format!("{dispatch:?}")));
        assert!(bytes.len() < MAX_OFFERS * 600, "{}", bytes.len());
    }
}

#[test]
fn bytes_that_end_early_are_no_event() {
    let mut rng = Rng::with_seed(15);
    for _ in 0..50 {
        for bytes in [encode(&any_dispatch(2, &mut rng)), encode_reply(&any_reply(&mut rng))] {
            for end in 0..bytes.len() {
                assert!(decoded(&bytes[..end]).is_none(), "{end} of {}", bytes.len());
            }
        }
    }
}

fn usual_names() -> PackedStrs<3> {
    PackedStrs::new([TEXTS[1], "deployment_cm1a2b3c4d5e6f7g8h", TEXTS[2]])
}

#[test]
fn a_usual_dispatch_takes_about_150_bytes() {
    let mut dispatch = any_dispatch(0, &mut Rng::with_seed(15));
    dispatch.names = usual_names();
    let since = Duration::from_micros(40);
    let controller = "warm-7f9c6d5b8-x2k4q".into();
    dispatch.offers =
        vec![OfferRecord { controller, broker: None, verdict: Verdict::Written, since, took: since }];
    dispatch.trace = None;
    assert_eq!(encode(&dispatch).len(), 139);
}

#[test]
fn a_usual_reply_takes_about_120_bytes() {
    let mut reply = any_reply(&mut Rng::with_seed(15));
    reply.names = usual_names();
    reply.trace = None;
    assert_eq!(encode_reply(&reply).len(), 117);
}

//! Owns the tests of the proof: single cases, and every order of acknowledgement, FIN, reset and bytes from the peer.

use super::*;

const T_ACK: u64 = 250;
const T_READ: u64 = 500;
/// When everything has to be acknowledged.
const DEADLINE: u64 = 10_000;
const TOTAL: usize = 2000;

/// What happens to the socket at a millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Ack,
    Fin,
    Reset,
    Data,
}

fn timeouts(start: Instant) -> ProofTimeouts {
    ProofTimeouts {
        ack: Duration::from_millis(T_ACK),
        read: Duration::from_millis(T_READ),
        taken_by: start + Duration::from_millis(DEADLINE),
    }
}

/// Plays the events, probing when the tracker asks for it. Returns the verdict and its millisecond.
fn play(required: Proof, events: &[(u64, Event)]) -> (Verdict, u64) {
    play_with(required, false, events)
}

fn play_with(required: Proof, through_proxy: bool, events: &[(u64, Event)]) -> (Verdict, u64) {
    let start = Instant::now();
    let mut tracker = ProofTracker::new(required, timeouts(start), through_proxy, TOTAL, start);
    let mut at = 0;
    for _ in 0..10_000 {
        let happened = |event| events.iter().any(|&(when, what)| when <= at && what == event);
        let read = match () {
            () if happened(Event::Reset) => ReadState::Error,
            () if happened(Event::Fin) => ReadState::Eof,
            () if happened(Event::Data) => ReadState::Data,
            () => ReadState::Idle,
        };
        let unacked = if happened(Event::Ack) { 0 } else { TOTAL };
        let state = SocketState { sent: TOTAL, unacked, read };
        let now = start + Duration::from_millis(at);
        let (later, readable_wakes) = match tracker.observe(state, now) {
            ProofStep::Done(verdict) => return (verdict, at),
            ProofStep::WaitReadable(later) => (later, true),
            ProofStep::WaitTimer(later) => (later, false),
        };
        assert!(later > now, "the next probe must lie ahead: {events:?} at {at}");
        let timer = u64::try_from((later - start).as_millis()).unwrap();
        let event = events
            .iter()
            .filter(|(when, what)| *when > at && *what != Event::Ack)
            .map(|(when, _)| *when)
            .min();
        at = event.filter(|_| readable_wakes).map_or(timer, |event| event.min(timer));
    }
    panic!("no verdict for {events:?}");
}

fn check(required: Proof, events: &[(u64, Event)], expected: Verdict, before: u64) {
    let (verdict, at) = play(required, events);
    assert_eq!(verdict, expected, "{events:?} at {at} ms");
    assert!(at <= before, "{events:?}: {verdict:?} only at {at} ms, not by {before}");
}

#[test]
fn an_eof_with_everything_acked_is_received() {
    check(Proof::Received, &[(0, Event::Ack), (3, Event::Fin)], Verdict::Received, 3);
    check(Proof::Received, &[(40, Event::Ack), (40, Event::Fin)], Verdict::Received, 40);
    check(Proof::Received, &[(0, Event::Ack), (400, Event::Fin)], Verdict::Received, 400);
}

#[test]
fn an_eof_with_bytes_unacked_is_no_receipt() {
    check(Proof::Received, &[(0, Event::Fin), (1, Event::Reset)], Verdict::Lost, 2);
    check(Proof::Received, &[(0, Event::Fin), (50, Event::Ack)], Verdict::Acked, 100);
    check(Proof::Received, &[(0, Event::Fin)], Verdict::Unacked, 200);
    check(Proof::Acked, &[(0, Event::Fin), (50, Event::Ack)], Verdict::Acked, 100);
}

#[test]
fn a_reset_is_lost_even_if_everything_was_acked() {
    check(Proof::Received, &[(0, Event::Ack), (7, Event::Reset)], Verdict::Lost, 7);
    check(Proof::Acked, &[(7, Event::Reset)], Verdict::Lost, 7);
}

#[test]
fn a_silent_peer_is_unacked_and_a_stopped_process_frozen() {
    check(Proof::Received, &[], Verdict::Unacked, T_ACK);
    check(Proof::Acked, &[], Verdict::Unacked, T_ACK);
    check(Proof::Received, &[(0, Event::Ack)], Verdict::Frozen, T_READ);
    check(Proof::Received, &[(0, Event::Ack), (10, Event::Data)], Verdict::Frozen, T_READ);
}

#[test]
fn acked_needs_no_eof() {
    check(Proof::Acked, &[(0, Event::Ack)], Verdict::Acked, 0);
    check(Proof::Acked, &[(43, Event::Ack)], Verdict::Acked, 90);
    check(Proof::Acked, &[(5, Event::Data), (5, Event::Ack)], Verdict::Acked, 8);
}

#[test]
fn a_proxys_reset_with_everything_acked_is_its_receipt() {
    assert_eq!(
        play_with(Proof::Received, true, &[(0, Event::Ack), (2, Event::Reset)]),
        (Verdict::Received, 2)
    );
    assert_eq!(play_with(Proof::Received, true, &[(2, Event::Reset)]), (Verdict::Lost, 2));
    assert_eq!(play_with(Proof::Received, true, &[(0, Event::Ack)]).0, Verdict::Frozen);
}

/// Plays a transfer. `progress` says how many bytes are sent, and how many of them acknowledged, by a millisecond. Returns the
/// verdict and its millisecond.
fn transfer(required: Proof, total: usize, progress: impl Fn(u64) -> (usize, usize)) -> (Verdict, u64) {
    let start = Instant::now();
    let mut tracker = ProofTracker::new(required, timeouts(start), false, total, start);
    let mut at = 0;
    loop {
        let (sent, acked) = progress(at);
        let state = SocketState { sent, unacked: sent - acked, read: ReadState::Idle };
        match tracker.observe(state, start + Duration::from_millis(at)) {
            ProofStep::Done(verdict) => return (verdict, at),
            ProofStep::WaitReadable(later) | ProofStep::WaitTimer(later) => {
                at = u64::try_from((later - start).as_millis()).unwrap();
            }
        }
        assert!(at < 2 * DEADLINE, "no verdict");
    }
}

#[test]
fn a_slow_link_that_makes_progress_is_not_silent() {
    let bytes = |at: u64| usize::try_from(at).unwrap() * 1000;
    // 1 MB/s, all in our kernel at once: acknowledged after 1.5 s, and never read.
    let acked = |at| (1_500_000, bytes(at).min(1_500_000));
    assert!(matches!(transfer(Proof::Received, 1_500_000, acked), (Verdict::Frozen, 2000..2100)));
    assert!(matches!(transfer(Proof::Acked, 1_500_000, acked), (Verdict::Acked, 1500..1600)));
    // The same, but our kernel takes it in parts.
    let taken = |at| ((bytes(at) + 200_000).min(1_500_000), bytes(at).min(1_500_000));
    assert!(matches!(transfer(Proof::Written, 1_500_000, taken), (Verdict::Written, 1300..1400)));
    assert!(matches!(transfer(Proof::Acked, 1_500_000, taken), (Verdict::Acked, 1500..1600)));
}

#[test]
fn a_link_that_falls_silent_or_crawls_is_given_up() {
    let bytes = |at: u64| usize::try_from(at).unwrap() * 1000;
    let stops = |at| (1_500_000, bytes(at).min(700_000));
    assert!(matches!(transfer(Proof::Received, 1_500_000, stops), (Verdict::Unacked, 1200..1300)));
    let stops_reading = |at| ((bytes(at) + 200_000).min(900_000), bytes(at).min(700_000));
    assert!(matches!(transfer(Proof::Received, 1_500_000, stops_reading), (Verdict::Frozen, 1200..1300)));
    assert!(matches!(transfer(Proof::Written, 1_500_000, |_| (700_000, 0)), (Verdict::Unacked, 250..300)));
    let crawls = |at: u64| (1_500_000, 1 + usize::try_from(at / 100).unwrap());
    for required in [Proof::Acked, Proof::Received] {
        assert!(matches!(transfer(required, 1_500_000, crawls), (Verdict::Slow, 400..700)));
    }
}

#[test]
fn the_verdict_at_the_deadline_says_what_was_acked() {
    let start = Instant::now();
    let mut tracker = ProofTracker::new(Proof::Received, timeouts(start), false, 2000, start);
    let mut verdict_at = |unacked, at| {
        let now = start + Duration::from_millis(at);
        tracker.observe(SocketState { sent: 2000, unacked, read: ReadState::Idle }, now);
        tracker.verdict_at_deadline()
    };
    assert_eq!(verdict_at(2000, 50), Verdict::Unacked);
    assert_eq!(verdict_at(1000, 100), Verdict::Slow);
    assert_eq!(verdict_at(0, 150), Verdict::Frozen);
}

#[test]
fn the_ack_timeout_follows_the_round_trip() {
    let now = Instant::now();
    let ack = |millis| ProofTimeouts::new(Duration::from_millis(millis), Duration::ZERO, now).ack.as_millis();
    assert_eq!((ack(0), ack(50), ack(1000)), (250, 400, 1000));
}

/// Every order of the four events, with gaps on both sides of each timeout.
#[test]
fn every_order_ends_in_time_with_a_correct_verdict() {
    let gaps = [0, 1, 30, 190, 210, 260, 600];
    let mut orders = vec![vec![]];
    for event in [Event::Ack, Event::Fin, Event::Reset, Event::Data] {
        let longer = orders.iter().flat_map(|order: &Vec<Event>| {
            (0..=order.len()).map(|place| {
                let mut order = order.clone();
                order.insert(place, event);
                order
            })
        });
        let longer: Vec<_> = longer.collect();
        orders.extend(longer);
    }
    let mut played = 0;
    for order in &orders {
        for choice in 0..gaps.len().pow(u32::try_from(order.len()).unwrap()) {
            let (mut at, mut digits) = (0, choice);
            let events: Vec<(u64, Event)> = order
                .iter()
                .map(|&event| {
                    at += gaps[digits % gaps.len()];
                    digits /= gaps.len();
                    (at, event)
                })
                .collect();
            for required in [Proof::Acked, Proof::Received] {
                assert_correct(required, &events);
                played += 1;
            }
        }
    }
    assert!(played > 100_000, "{played}");
}

fn assert_correct(required: Proof, events: &[(u64, Event)]) {
    let (verdict, at) = play(required, events);
    let first = |event| events.iter().find(|(_, what)| *what == event).map(|(when, _)| *when);
    let by_then = |event| first(event).is_some_and(|when| when <= at);
    let context = format!("{required:?} {events:?}: {verdict:?} at {at} ms");
    assert!(at <= T_ACK + T_READ + 200, "{context}");
    match verdict {
        Verdict::Received => {
            assert!(by_then(Event::Fin) && by_then(Event::Ack) && !by_then(Event::Reset), "{context}");
        }
        Verdict::Acked => {
            assert!(by_then(Event::Ack) && !by_then(Event::Reset), "{context}");
            assert!(required == Proof::Acked || by_then(Event::Fin), "{context}");
        }
        Verdict::Lost => assert!(by_then(Event::Reset), "{context}"),
        Verdict::Unacked => assert!(!by_then(Event::Ack) && at >= 200, "{context}"),
        Verdict::Frozen => assert!(by_then(Event::Ack) && !by_then(Event::Fin) && at >= T_READ, "{context}"),
        Verdict::Written
        | Verdict::Hop
        | Verdict::Gone
        | Verdict::Slow
        | Verdict::Stale
        | Verdict::Silent
        | Verdict::Busy => panic!("{context}"),
    }
}

//! Owns the proof's stories, and every order of acknowledgement, end, reset and time.

use super::*;

const T_ACK: u64 = 250;
const T_FIN: u64 = 500;

/// What the socket does at some millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Ack,
    Fin,
    Reset,
    Talk,
}

/// Plays events in their order and returns the verdict with its millisecond, looking when told to look.
fn play(wanted: Proof, events: &[(u64, Event)]) -> (Verdict, u64) {
    play_with(wanted, false, events)
}

fn play_with(wanted: Proof, hop: bool, events: &[(u64, Event)]) -> (Verdict, u64) {
    let start = Instant::now();
    let patience = Patience { ack: Duration::from_millis(T_ACK), fin: Duration::from_millis(T_FIN) };
    let mut proving = Proving::new(wanted, patience, hop, start);
    let mut at = 0;
    for _ in 0..10_000 {
        let happened = |event| events.iter().any(|&(when, what)| when <= at && what == event);
        let end = match () {
            () if happened(Event::Reset) => End::Broken,
            () if happened(Event::Fin) => End::Closed,
            () if happened(Event::Talk) => End::Talking,
            () => End::Open,
        };
        let sight = Sight { unacked: if happened(Event::Ack) { 0 } else { 2000 }, end };
        let now = start + Duration::from_millis(at);
        let (later, readable_wakes) = match proving.see(sight, now) {
            Step::Done(verdict) => return (verdict, at),
            Step::LookAgain(later) => (later, true),
            Step::LookLater(later) => (later, false),
        };
        assert!(later > now, "a look must lie ahead: {events:?} at {at}");
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

fn check(wanted: Proof, events: &[(u64, Event)], expected: Verdict, before: u64) {
    let (verdict, at) = play(wanted, events);
    assert_eq!(verdict, expected, "{events:?} at {at} ms");
    assert!(at <= before, "{events:?}: {verdict:?} only at {at} ms, not by {before}");
}

#[test]
fn a_clean_end_with_everything_acked_is_received() {
    check(Proof::Received, &[(0, Event::Ack), (3, Event::Fin)], Verdict::Received, 3);
    check(Proof::Received, &[(40, Event::Ack), (40, Event::Fin)], Verdict::Received, 40);
    check(Proof::Received, &[(0, Event::Ack), (400, Event::Fin)], Verdict::Received, 400);
}

#[test]
fn an_end_with_bytes_unacked_is_no_receipt() {
    check(Proof::Received, &[(0, Event::Fin), (1, Event::Reset)], Verdict::Lost, 2);
    check(Proof::Received, &[(0, Event::Fin), (50, Event::Ack)], Verdict::Acked, 100);
    check(Proof::Received, &[(0, Event::Fin)], Verdict::Unacked, 200);
    check(Proof::Acked, &[(0, Event::Fin), (50, Event::Ack)], Verdict::Acked, 100);
}

#[test]
fn a_reset_is_a_loss_whatever_was_acked() {
    check(Proof::Received, &[(0, Event::Ack), (7, Event::Reset)], Verdict::Lost, 7);
    check(Proof::Acked, &[(7, Event::Reset)], Verdict::Lost, 7);
}

#[test]
fn a_silent_peer_is_unacked_and_a_stopped_one_frozen() {
    check(Proof::Received, &[], Verdict::Unacked, T_ACK);
    check(Proof::Acked, &[], Verdict::Unacked, T_ACK);
    check(Proof::Received, &[(0, Event::Ack)], Verdict::Frozen, T_FIN);
    check(Proof::Received, &[(0, Event::Ack), (10, Event::Talk)], Verdict::Frozen, T_FIN);
}

#[test]
fn acked_needs_no_end() {
    check(Proof::Acked, &[(0, Event::Ack)], Verdict::Acked, 0);
    check(Proof::Acked, &[(43, Event::Ack)], Verdict::Acked, 90);
    check(Proof::Acked, &[(5, Event::Talk), (5, Event::Ack)], Verdict::Acked, 8);
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

#[test]
fn a_slow_link_that_makes_progress_is_not_silent() {
    let start = Instant::now();
    let patience = Patience { ack: Duration::from_millis(T_ACK), fin: Duration::from_millis(T_FIN) };
    let mut proving = Proving::new(Proof::Received, patience, false, start);
    let mut see =
        |unacked, at| proving.see(Sight { unacked, end: End::Open }, start + Duration::from_millis(at));
    for step in 0..4 {
        assert!(matches!(see(800 - 100 * usize::try_from(step).unwrap(), 200 * step), Step::LookAgain(_)));
    }
    assert!(matches!(see(100, 800), Step::LookAgain(_)));
    assert_eq!(see(1, 1000), Step::Done(Verdict::Unacked), "but not for ever");
}

#[test]
fn patience_follows_the_round_trip() {
    let ack = |millis| Patience::new(Duration::from_millis(millis), Duration::ZERO).ack.as_millis();
    assert_eq!((ack(0), ack(50), ack(1000)), (250, 400, 1000));
}

/// Every order of the four events, with every gap that matters between them.
#[test]
fn every_order_ends_in_time_with_a_true_verdict() {
    let gaps = [0, 1, 30, 190, 210, 260, 600];
    let mut orders = vec![vec![]];
    for event in [Event::Ack, Event::Fin, Event::Reset, Event::Talk] {
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
            let (mut at, mut rest) = (0, choice);
            let events: Vec<(u64, Event)> = order
                .iter()
                .map(|&event| {
                    at += gaps[rest % gaps.len()];
                    rest /= gaps.len();
                    (at, event)
                })
                .collect();
            for wanted in [Proof::Acked, Proof::Received] {
                judge(wanted, &events);
                played += 1;
            }
        }
    }
    assert!(played > 100_000, "{played}");
}

fn judge(wanted: Proof, events: &[(u64, Event)]) {
    let (verdict, at) = play(wanted, events);
    let first = |event| events.iter().find(|(_, what)| *what == event).map(|(when, _)| *when);
    let by_then = |event| first(event).is_some_and(|when| when <= at);
    let story = format!("{wanted:?} {events:?}: {verdict:?} at {at} ms");
    assert!(at <= T_ACK + T_FIN + 200, "{story}");
    match verdict {
        Verdict::Received => {
            assert!(by_then(Event::Fin) && by_then(Event::Ack) && !by_then(Event::Reset), "{story}");
        }
        Verdict::Acked => {
            assert!(by_then(Event::Ack) && !by_then(Event::Reset), "{story}");
            assert!(wanted == Proof::Acked || by_then(Event::Fin), "{story}");
        }
        Verdict::Lost => assert!(by_then(Event::Reset), "{story}"),
        Verdict::Unacked => assert!(!by_then(Event::Ack) && at >= 200, "{story}"),
        Verdict::Frozen => assert!(by_then(Event::Ack) && !by_then(Event::Fin) && at >= T_FIN, "{story}"),
        Verdict::Written | Verdict::Hop | Verdict::Gone => panic!("{story}"),
    }
}

//! Owns the races for one waiter: match, departure, expiry, drain, retirement and replacement; exactly one wins.

use std::sync::{Arc, Mutex};

use pilotlight::broker::{AcceptedPayload, Filter};
use pilotlight::exchange::SuspectSweep;
use shuttle::thread;

use super::world::{Seat, World, explore_worlds, machine};

/// Who wants the waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rival {
    Claim,
    Leave,
    Expire,
    Drain,
    Retire,
    Replace,
}

use Rival::{Claim, Drain, Expire, Leave, Replace, Retire};

impl Rival {
    /// Tries, and returns whom it got.
    fn act(self, world: &World, hold: &Mutex<Option<Seat>>) -> Vec<usize> {
        match self {
            Claim => world.claim(true).into_iter().collect(),
            Leave => {
                let seat = hold.lock().unwrap().take().unwrap();
                world.leave(seat).into_iter().collect()
            }
            Expire => world.expire(),
            Drain => world.drain(),
            Retire => world.retire(),
            Replace => {
                // Whom it replaces is in the ledger of fates.
                world.keep(world.park("controller", AcceptedPayload::Message));
                Vec::new()
            }
        }
    }
}

/// All at once after one waiter, with somebody who looks at the whole core meanwhile. Returns whom each got.
fn race(world: &Arc<World>, rivals: &[Rival]) -> Vec<(Rival, Vec<usize>)> {
    let hold = Arc::new(Mutex::new(world.park_due("controller")));
    let threads: Vec<_> = rivals
        .iter()
        .map(|&rival| {
            let (world, hold) = (world.clone(), hold.clone());
            thread::spawn(move || (rival, rival.act(&world, &hold)))
        })
        .collect();
    world.audit();
    let won = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    world.keep(hold.lock().unwrap().take());
    won
}

fn exactly_one_wins(rivals: &'static [Rival]) {
    explore_worlds(move |world| {
        let won = race(world, rivals);
        let winners = won.iter().filter(|(_, got)| got.contains(&0)).count();
        assert_eq!(winners, 1, "I4: who took the waiter: {won:?}");
    });
}

#[test]
fn claim_against_claim() {
    exactly_one_wins(&[Claim, Claim]);
}

#[test]
fn claim_against_leave() {
    exactly_one_wins(&[Claim, Leave]);
}

#[test]
fn claim_against_expiry() {
    exactly_one_wins(&[Claim, Expire]);
}

#[test]
fn claim_against_drain() {
    exactly_one_wins(&[Claim, Drain]);
}

#[test]
fn claim_against_retire() {
    exactly_one_wins(&[Claim, Retire]);
}

#[test]
fn leave_against_expiry_drain_and_retire() {
    exactly_one_wins(&[Leave, Expire, Drain, Retire]);
}

/// The claim gets the older or the newer, and never both or neither.
#[test]
fn claim_against_newest_wins() {
    explore_worlds(|world| {
        let won = race(world, &[Claim, Replace]);
        assert_eq!(won[0].1.len(), 1, "I11: somebody stood at every moment: {won:?}");
        assert!(world.exchange.counts().0 <= 1, "I4: one controller stands once");
    });
}

#[test]
fn leave_against_newest_wins() {
    explore_worlds(|world| {
        race(world, &[Leave, Replace]);
        assert_eq!(
            world.exchange.counts(),
            (1, 1),
            "I5: a departure takes its own waiter, never the newer one"
        );
    });
}

#[test]
fn everyone_against_everyone() {
    explore_worlds(|world| {
        race(world, &[Claim, Leave, Expire, Drain, Retire, Replace, Claim]);
    });
}

#[test]
fn two_claims_get_two_different_waiters() {
    explore_worlds(|world| {
        world.keep(world.park("", AcceptedPayload::Message));
        world.keep(world.park("", AcceptedPayload::Anything));
        let other = thread::spawn({
            let world = world.clone();
            move || world.claim(true)
        });
        let mine = world.claim(true);
        let theirs = other.join().unwrap();
        assert!(mine.is_some() && theirs.is_some(), "I11: both had a waiter: {mine:?}, {theirs:?}");
        assert_ne!(mine, theirs, "I1: one waiter was offered two runs");
    });
}

/// One place left, two who come; and a controller that comes twice at once stands once.
#[test]
fn the_last_place_and_the_same_controller_are_given_once() {
    explore_worlds(|world| {
        world.keep(world.park("", AcceptedPayload::Message));
        world.keep(world.park("", AcceptedPayload::Message));
        let come = |controller: &'static str| {
            let world = world.clone();
            thread::spawn(move || world.keep(world.park(controller, AcceptedPayload::Message)))
        };
        let threads = [come("a"), come("a"), come("b")];
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(world.exchange.counts(), (3, 1), "I4: three places, each taken once");
    });
}

/// Whoever parks after a retirement began stays.
#[test]
fn a_retirement_ends_at_its_mark() {
    explore_worlds(|world| {
        world.keep(world.park("", AcceptedPayload::Message));
        let retire = thread::spawn({
            let world = world.clone();
            move || world.retire()
        });
        world.keep(world.park("", AcceptedPayload::Message));
        let retired = retire.join().unwrap();
        world.keep(world.park("", AcceptedPayload::Message));
        assert!(retired.contains(&0) && !retired.contains(&2), "I5: {retired:?}");
        assert_eq!(world.exchange.counts().0, 3 - retired.len(), "I8");
    });
}

/// A machine becomes suspect while the last suspect is cleared: that there is one must not be forgotten.
#[test]
fn a_suspicion_during_a_review_is_not_overlooked() {
    explore_worlds(|world| {
        let alive = world.park("", AcceptedPayload::Message).unwrap().keep(world);
        let failing = world.park("", AcceptedPayload::Message).unwrap().keep(world);
        world.exchange.suspect(machine(alive));
        let review = thread::spawn({
            let world = world.clone();
            move || {
                let review = &mut SuspectSweep::default();
                let shows_life = |name: &usize, _| *name == alive;
                // It asks, and clears who has answered when it looks again.
                for _ in 0..2 {
                    world.exchange.sweep_suspects(review, |token| token.name, |_| {}, shows_life);
                }
            }
        });
        world.exchange.suspect(machine(failing));
        review.join().unwrap();
        let suspects = || {
            let waiters = world.exchange.waiters(&Filter::default(), 0, 10).rows;
            waiters.iter().map(|waiter| waiter.suspect).collect::<Vec<_>>()
        };
        assert_eq!(suspects(), [false, true]);
        world.exchange.trust(machine(failing));
        assert_eq!(suspects(), [false, false], "it proved a run, and is suspect no more");
    });
}

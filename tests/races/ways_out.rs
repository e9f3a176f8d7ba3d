//! Owns the races for one waiter: of match, departure, expiry, drain, retirement and replacement, exactly one wins.

use std::sync::{Arc, Mutex};

use pilotlight::broker::{AcceptedPayload, Filter};
use pilotlight::exchange::SuspectSweep;
use shuttle::thread;

use super::world::{Parked, World, explore_worlds, host};

/// A way to remove the waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rival {
    Claim,
    Leave,
    Expire,
    Drain,
    DrainWhileMatching,
    Retire,
    Replace,
}

use Rival::{Claim, Drain, DrainWhileMatching, Expire, Leave, Replace, Retire};

impl Rival {
    /// Tries to remove waiters, and returns their numbers.
    fn act(self, world: &World, parked: &Mutex<Option<Parked>>) -> Vec<usize> {
        match self {
            Claim => world.claim().into_iter().collect(),
            Leave => {
                let parked = parked.lock().unwrap().take().unwrap();
                world.leave(parked).into_iter().collect()
            }
            Expire => world.expire(),
            Drain => world.drain(),
            DrainWhileMatching => world.drain_while_matching(),
            Retire => world.retire(),
            Replace => {
                // The world records the replaced waiter.
                world.keep(world.park("controller", AcceptedPayload::TriggerMessage));
                Vec::new()
            }
        }
    }
}

/// Runs all rivals at once against one waiter, with an audit in between. Returns the waiters that each removed.
fn race(world: &Arc<World>, rivals: &[Rival]) -> Vec<(Rival, Vec<usize>)> {
    let parked = Arc::new(Mutex::new(world.park_due("controller")));
    let threads: Vec<_> = rivals
        .iter()
        .map(|&rival| {
            let (world, parked) = (world.clone(), parked.clone());
            thread::spawn(move || (rival, rival.act(&world, &parked)))
        })
        .collect();
    world.audit();
    let removed = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    world.keep(parked.lock().unwrap().take());
    removed
}

fn exactly_one_wins(rivals: &'static [Rival]) {
    explore_worlds(move |world| {
        let removed = race(world, rivals);
        let winners = removed.iter().filter(|(_, waiters)| waiters.contains(&0)).count();
        assert_eq!(winners, 1, "I4: one rival removes the waiter: {removed:?}");
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
fn claim_against_a_drain_that_goes_on_matching() {
    exactly_one_wins(&[Claim, DrainWhileMatching]);
}

#[test]
fn claim_against_retire() {
    exactly_one_wins(&[Claim, Retire]);
}

#[test]
fn leave_against_expiry_drain_and_retire() {
    exactly_one_wins(&[Leave, Expire, Drain, Retire]);
}

/// The claim gets either the older or the newer waiter.
#[test]
fn claim_against_replacement() {
    explore_worlds(|world| {
        let removed = race(world, &[Claim, Replace]);
        assert_eq!(removed[0].1.len(), 1, "I11: a waiter was parked at every moment: {removed:?}");
        assert!(world.exchange.counts().0 <= 1, "I4: a controller has one waiter in a pool");
    });
}

#[test]
fn leave_against_replacement() {
    explore_worlds(|world| {
        race(world, &[Leave, Replace]);
        assert_eq!(world.exchange.counts(), (1, 1), "I5: a departure removes its own waiter only");
    });
}

#[test]
fn every_way_against_every_other() {
    explore_worlds(|world| {
        race(world, &[Claim, Leave, Expire, Drain, Retire, Replace, Claim]);
    });
}

#[test]
fn two_claims_get_two_different_waiters() {
    explore_worlds(|world| {
        world.keep(world.park("", AcceptedPayload::TriggerMessage));
        world.keep(world.park("", AcceptedPayload::Any));
        let other = thread::spawn({
            let world = world.clone();
            move || world.claim()
        });
        let first = world.claim();
        let second = other.join().unwrap();
        assert!(
            first.is_some() && second.is_some(),
            "I11: there was a waiter for both: {first:?}, {second:?}"
        );
        assert_ne!(first, second, "I1: one waiter was offered two runs");
    });
}

/// One more waiter fits into the pool, and two controllers poll, one of them twice at once.
#[test]
fn the_last_place_of_a_pool_is_given_once() {
    explore_worlds(|world| {
        world.keep(world.park("", AcceptedPayload::TriggerMessage));
        world.keep(world.park("", AcceptedPayload::TriggerMessage));
        let poll = |controller: &'static str| {
            let world = world.clone();
            thread::spawn(move || world.keep(world.park(controller, AcceptedPayload::TriggerMessage)))
        };
        let threads = [poll("a"), poll("a"), poll("b")];
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(world.exchange.counts(), (3, 1), "I4: three places, each given once");
    });
}

/// A waiter that parks after a retirement began stays.
#[test]
fn a_retirement_ends_at_its_watermark() {
    explore_worlds(|world| {
        world.keep(world.park("", AcceptedPayload::TriggerMessage));
        let retire = thread::spawn({
            let world = world.clone();
            move || world.retire()
        });
        world.keep(world.park("", AcceptedPayload::TriggerMessage));
        let retired = retire.join().unwrap();
        world.keep(world.park("", AcceptedPayload::TriggerMessage));
        assert!(retired.contains(&0) && !retired.contains(&2), "I5: {retired:?}");
        assert_eq!(world.exchange.counts().0, 3 - retired.len(), "I8");
    });
}

/// A host becomes suspect while the last suspicion is cleared: the flag for "any suspect" must stay set.
#[test]
fn a_suspicion_during_a_sweep_is_kept() {
    explore_worlds(|world| {
        let alive = world.park("", AcceptedPayload::TriggerMessage).unwrap().keep(world);
        let failing = world.park("", AcceptedPayload::TriggerMessage).unwrap().keep(world);
        world.exchange.suspect(host(alive));
        let sweep = thread::spawn({
            let world = world.clone();
            move || {
                let sweep = &mut SuspectSweep::default();
                let shows_life = |number: &usize, _| *number == alive;
                // The first round probes; the second clears the hosts that have shown life.
                for _ in 0..2 {
                    world.exchange.sweep_suspects(sweep, |token| token.number, |_| {}, shows_life);
                }
            }
        });
        world.exchange.suspect(host(failing));
        sweep.join().unwrap();
        let suspects = || {
            let waiters = world.exchange.waiters(&Filter::default(), 0, 10).rows;
            waiters.iter().map(|waiter| waiter.suspect).collect::<Vec<_>>()
        };
        assert_eq!(suspects(), [false, true]);
        world.exchange.trust(host(failing));
        assert_eq!(suspects(), [false, false], "it proved a run, and is trusted again");
    });
}

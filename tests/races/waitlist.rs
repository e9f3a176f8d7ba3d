//! Owns the races of the waitlist: a waiter that parks notifies one run that it accepts, and no run waits for ever.
//!
//! A lost notification shows as a deadlock. Tokio's `Notify` is trusted: each of its calls is one step, between which other
//! threads run.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use pilotlight::broker::PayloadKind::{self, Opaque, TriggerMessage};
use pilotlight::broker::{AcceptedPayload, Claim, ClaimRequest};
use pilotlight::model::MissReason;
use pilotlight::model::PollEnd;
use shuttle::future::block_on;
use shuttle::sync::Barrier;
use shuttle::thread;

use super::world::{World, explore_worlds, key};

/// Claims and waits as a dispatch does, without a time limit.
async fn claim_or_wait(world: &World, payload_kind: PayloadKind) -> Result<usize, MissReason> {
    let key = key();
    let request = ClaimRequest { key: key.as_ref(), payload_kind };
    let entry = world.exchange.join_waitlist(&request);
    loop {
        match world.exchange.claim(&request, world.exchange.now()) {
            Claim::Matched(removed) => return Ok(world.record_removed(PollEnd::Matched, &removed)),
            Claim::Miss(MissReason::Draining) => return Err(MissReason::Draining),
            Claim::Miss(_) => entry.notified().await,
        }
    }
}

fn spawn_run(world: &Arc<World>, kind: PayloadKind) -> thread::JoinHandle<Result<usize, MissReason>> {
    let world = world.clone();
    thread::spawn(move || block_on(claim_or_wait(&world, kind)))
}

fn spawn_poll(world: &Arc<World>, accepts: AcceptedPayload) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || world.keep(world.park("", accepts)))
}

#[test]
fn a_waiting_run_gets_the_waiter_that_parks() {
    explore_worlds(|world| {
        let run = spawn_run(world, TriggerMessage);
        world.keep(world.park("", AcceptedPayload::TriggerMessage));
        assert_eq!(run.join().unwrap(), Ok(0));
    });
}

/// Two notifications may become one: a run that has its waiter notifies the next run before it begins to deliver.
#[test]
fn each_of_two_runs_gets_one_of_two_waiters() {
    explore_worlds(|world| {
        let both_matched = Arc::new(Barrier::new(2));
        let run = || {
            let (world, both_matched) = (world.clone(), both_matched.clone());
            thread::spawn(move || {
                let waiter = block_on(claim_or_wait(&world, TriggerMessage)).unwrap();
                // A delivery takes time, and the other run must not depend on its end.
                both_matched.wait();
                waiter
            })
        };
        let runs = [run(), run()];
        let polls =
            [spawn_poll(world, AcceptedPayload::TriggerMessage), spawn_poll(world, AcceptedPayload::Any)];
        for poll in polls {
            poll.join().unwrap();
        }
        let [first, second] = runs.map(|run| run.join().unwrap());
        assert_ne!(first, second, "I1");
    });
}

/// A stock controller does not accept an opaque payload: its notification must reach a run that it accepts.
#[test]
fn a_notification_is_not_spent_on_a_run_that_is_not_accepted() {
    explore_worlds(|world| {
        let opaque = spawn_run(world, Opaque);
        let message = spawn_run(world, TriggerMessage);
        let poll = spawn_poll(world, AcceptedPayload::TriggerMessage);
        assert_eq!(message.join().unwrap(), Ok(0), "I9");
        poll.join().unwrap();
        world.drain();
        let ended = opaque.join().unwrap();
        assert_eq!(ended, Err(MissReason::Draining), "I9: no stock controller got the opaque payload");
    });
}

/// A run may be given up at the moment of its notification: the next run gets it.
#[test]
fn a_run_that_is_given_up_passes_its_notification_on() {
    explore_worlds(|world| {
        let given_up = thread::spawn({
            let world = world.clone();
            move || {
                let mut polls_left = 2;
                let mut run = pin!(claim_or_wait(&world, TriggerMessage));
                block_on(poll_fn(|cx| match run.as_mut().poll(cx) {
                    Poll::Ready(result) => Poll::Ready(Some(result)),
                    Poll::Pending if polls_left == 0 => Poll::Ready(None),
                    Poll::Pending => {
                        polls_left -= 1;
                        thread::yield_now();
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                }))
            }
        });
        let other = spawn_run(world, TriggerMessage);
        let poll = spawn_poll(world, AcceptedPayload::TriggerMessage);
        let result = given_up.join().unwrap();
        poll.join().unwrap();
        if result.is_some() {
            world.keep(world.park("", AcceptedPayload::TriggerMessage));
        }
        assert!(other.join().unwrap().is_ok());
    });
}

/// A run outside the waitlist may claim the waiter first; the run in the waitlist gets the next waiter.
#[test]
fn a_claim_from_outside_the_waitlist_only_delays_a_waiting_run() {
    explore_worlds(|world| {
        let run = spawn_run(world, TriggerMessage);
        let polls = [AcceptedPayload::TriggerMessage; 2].map(|accepts| spawn_poll(world, accepts));
        let outside = world.claim();
        for poll in polls {
            poll.join().unwrap();
        }
        let waiting = run.join().unwrap();
        assert!(waiting.is_ok() && waiting.ok() != outside, "I1, I11: {waiting:?} beside {outside:?}");
    });
}

#[test]
fn a_drain_notifies_every_waiting_run() {
    explore_worlds(|world| {
        let runs =
            [TriggerMessage, TriggerMessage, TriggerMessage, Opaque].map(|kind| spawn_run(world, kind));
        let poll = spawn_poll(world, AcceptedPayload::TriggerMessage);
        world.drain();
        let results: Vec<_> = runs.into_iter().map(|run| run.join().unwrap()).collect();
        poll.join().unwrap();
        assert!(results.iter().flatten().count() <= 1, "I1: one waiter parked: {results:?}");
    });
}

/// A run that waits during such a drain gets a waiter that comes late, or is notified when no claim matches any more.
#[test]
fn a_drain_that_goes_on_matching_notifies_every_waiting_run_at_its_end() {
    explore_worlds(|world| {
        world.exchange.begin_drain();
        let runs = [TriggerMessage, Opaque].map(|kind| spawn_run(world, kind));
        let poll = spawn_poll(world, AcceptedPayload::TriggerMessage);
        poll.join().unwrap();
        world.exchange.stop_matching();
        let [message, opaque] = runs.map(|run| run.join().unwrap());
        assert!(matches!(message, Ok(0) | Err(MissReason::Draining)), "{message:?}");
        assert_eq!(opaque, Err(MissReason::Draining), "I9");
    });
}

//! Owns the races of runs that hope: whoever parks wakes one that it fits, in every order, and nobody sleeps for ever.
//!
//! A lost wake shows as a deadlock. Tokio's `Notify` is trusted: each of its calls is one step, between which others run.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use pilotlight::broker::{AcceptedPayload, Claim, ClaimRequest};
use pilotlight::model::MissReason;
use pilotlight::model::PollEnd;
use shuttle::future::block_on;
use shuttle::sync::Barrier;
use shuttle::thread;

use super::world::{World, explore_worlds, key};

/// Looks and hopes as `http::dispatch` does, without an end to its patience.
async fn hope(world: &World, is_message: bool) -> Result<usize, MissReason> {
    let key = key();
    let ask = ClaimRequest { key: key.as_ref(), is_message };
    let hope = world.exchange.join_waitlist(&ask);
    loop {
        match world.exchange.claim(&ask) {
            Claim::Matched(taken) => return Ok(world.ended(PollEnd::Matched, &taken)),
            Claim::Miss(MissReason::Draining) => return Err(MissReason::Draining),
            Claim::Miss(_) => hope.notified().await,
        }
    }
}

fn hoper(world: &Arc<World>, is_message: bool) -> thread::JoinHandle<Result<usize, MissReason>> {
    let world = world.clone();
    thread::spawn(move || block_on(hope(&world, is_message)))
}

fn parker(world: &Arc<World>, accepts: AcceptedPayload) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || world.keep(world.park("", accepts)))
}

#[test]
fn a_run_that_hopes_gets_whoever_parks() {
    explore_worlds(|world| {
        let run = hoper(world, true);
        world.keep(world.park("", AcceptedPayload::Message));
        assert_eq!(run.join().unwrap(), Ok(0));
    });
}

/// Two wakes may become one: the run that is served wakes the next, before it begins to deliver.
#[test]
fn each_of_two_runs_gets_one_of_two_who_park() {
    explore_worlds(|world| {
        let both_served = Arc::new(Barrier::new(2));
        let run = || {
            let (world, both_served) = (world.clone(), both_served.clone());
            thread::spawn(move || {
                let served = block_on(hope(&world, true)).unwrap();
                // A delivery takes its time; the other run must not need its end.
                both_served.wait();
                served
            })
        };
        let runs = [run(), run()];
        let parkers = [parker(world, AcceptedPayload::Message), parker(world, AcceptedPayload::Anything)];
        for parker in parkers {
            parker.join().unwrap();
        }
        let [mine, theirs] = runs.map(|run| run.join().unwrap());
        assert_ne!(mine, theirs, "I1");
    });
}

/// A stock controller is of no use to a payload that is no message: its wake must reach the run that it fits.
#[test]
fn a_wake_is_not_spent_on_a_run_that_does_not_fit() {
    explore_worlds(|world| {
        let other = hoper(world, false);
        let message = hoper(world, true);
        let parker = parker(world, AcceptedPayload::Message);
        assert_eq!(message.join().unwrap(), Ok(0), "I9");
        parker.join().unwrap();
        world.drain();
        assert_eq!(other.join().unwrap(), Err(MissReason::Draining), "I9: nobody took a message's place");
    });
}

/// The one that is woken may leave at that moment: the wake goes on to the next.
#[test]
fn a_run_that_gives_up_passes_its_wake_on() {
    explore_worlds(|world| {
        let fickle = thread::spawn({
            let world = world.clone();
            move || {
                let mut patience = 2;
                let mut hope = pin!(hope(&world, true));
                block_on(poll_fn(|cx| match hope.as_mut().poll(cx) {
                    Poll::Ready(served) => Poll::Ready(Some(served)),
                    Poll::Pending if patience == 0 => Poll::Ready(None),
                    Poll::Pending => {
                        patience -= 1;
                        thread::yield_now();
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                }))
            }
        });
        let patient = hoper(world, true);
        let first = parker(world, AcceptedPayload::Message);
        let served = fickle.join().unwrap();
        first.join().unwrap();
        if served.is_some() {
            world.keep(world.park("", AcceptedPayload::Message));
        }
        assert!(patient.join().unwrap().is_ok());
    });
}

/// A run that does not hope may be quicker; the one that hopes is served by the next who parks.
#[test]
fn a_quicker_run_costs_a_hope_nothing_but_time() {
    explore_worlds(|world| {
        let run = hoper(world, true);
        let parkers = [parker(world, AcceptedPayload::Message), parker(world, AcceptedPayload::Message)];
        let quick = world.claim(true);
        for parker in parkers {
            parker.join().unwrap();
        }
        let served = run.join().unwrap();
        assert!(served.is_ok() && served.ok() != quick, "I1, I11: {served:?} beside {quick:?}");
    });
}

#[test]
fn a_drain_wakes_every_run_that_hopes() {
    explore_worlds(|world| {
        let runs = [true, true, true, false].map(|is_message| hoper(world, is_message));
        let parker = parker(world, AcceptedPayload::Message);
        world.drain();
        let served: Vec<_> = runs.into_iter().map(|run| run.join().unwrap()).collect();
        parker.join().unwrap();
        assert!(served.iter().flatten().count() <= 1, "I1: one came, and served {served:?}");
    });
}

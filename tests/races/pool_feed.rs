//! Owns the races of the feed of changed pools: no change stays in it without waking the one that takes its rows.
//!
//! A lost wake shows as a deadlock.

use std::sync::Arc;

use pilotlight::broker::AcceptedPayload;
use shuttle::future::block_on;
use shuttle::thread;

use super::world::{World, explore_worlds, key};

/// Takes rows whenever it is woken, until the pool has so many waiters, and returns then.
fn spawn_announcer(world: &Arc<World>, waiters: u32) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || {
        let mut announced = 0;
        while announced != waiters {
            block_on(world.exchange.pools_changed());
            let rows = world.exchange.take_changed_pools(10);
            announced = rows.last().map_or(announced, |row| row.waiters[0]);
        }
    })
}

#[test]
fn an_announcer_learns_of_every_waiter_that_comes() {
    explore_worlds(|world| {
        world.exchange.watch_pools();
        let announcer = spawn_announcer(world, 2);
        let poll = thread::spawn({
            let world = world.clone();
            move || world.keep(world.park("", AcceptedPayload::Any))
        });
        world.keep(world.park("", AcceptedPayload::Any));
        poll.join().unwrap();
        announcer.join().unwrap();
        assert_eq!(world.exchange.claimable(key().as_ref()), [2, 2]);
    });
}

#[test]
fn an_announcer_learns_that_the_last_waiter_is_gone() {
    explore_worlds(|world| {
        world.exchange.watch_pools();
        let parked = world.park("", AcceptedPayload::TriggerMessage).unwrap();
        spawn_announcer(world, 1).join().unwrap();
        let claim = thread::spawn({
            let world = world.clone();
            move || world.claim()
        });
        let left = world.leave(parked);
        let claimed = claim.join().unwrap();
        assert!(left.is_some() != claimed.is_some());
        block_on(world.exchange.pools_changed());
        let rows = world.exchange.take_changed_pools(10);
        assert_eq!(rows.iter().map(|row| row.waiters).collect::<Vec<_>>(), [[0, 0]]);
    });
}

//! Owns the places: how a waiter gets one and the one way out of it, with every index kept in step.

use std::net::IpAddr;

use ahash::RandomState;

use super::list::Link;
use super::pool::{Pool, WaiterClass};
use super::{Broker, Key, KeyRef, MonotonicTime, ParkRequest, RemovedWaiter, Waiter, WaiterId};

impl<W> Broker<W> {
    pub(super) fn find_pool(&self, hash: u64, key: KeyRef<'_>) -> Option<u32> {
        self.by_key.part(hash).find(hash, |&pool| self.pools[pool].key.as_ref() == key).copied()
    }

    pub(super) fn open_pool(&mut self, hash: u64, key: Key) -> u32 {
        self.misses.pool_opened(&self.hasher, key.as_ref());
        let pool = self.pools.insert(Pool::new(hash, key));
        let Self { pools, by_key, .. } = self;
        by_key.part_mut(hash).insert_unique(hash, pool, |&pool| pools[pool].hash);
        pool
    }

    fn close_pool(&mut self, pool: u32) {
        let Pool { hash, key, .. } = self.pools.remove(pool);
        if let Ok(entry) = self.by_key.part_mut(hash).find_entry(hash, |&other| other == pool) {
            entry.remove();
        }
        self.misses.pool_closed(&self.hasher, key.as_ref());
    }

    pub(super) fn insert(&mut self, pool: u32, ticket: ParkRequest<W>, now: MonotonicTime) -> WaiterId {
        self.parked += 1;
        let at = self.waiters.insert(Waiter {
            serial: self.parked,
            pool,
            class: WaiterClass::Trusted(ticket.accepts),
            controller: ticket.controller,
            origin: ticket.origin,
            host: ticket.host,
            since: now,
            offer_until: ticket.offer_until,
            deadline: ticket.deadline.max(now),
            links: [Link::UNLINKED; 2],
            waiter: ticket.waiter,
        });
        self.pools[pool].insert(&mut self.waiters, at);
        self.timers.insert(&mut self.waiters, at);
        WaiterId { slot: at, serial: self.parked }
    }

    /// The one way out: every chain, table and count is left here, and nowhere else.
    pub(super) fn remove(&mut self, at: u32) -> RemovedWaiter<W> {
        self.timers.remove(&mut self.waiters, at);
        self.forget_controller(at);
        let pool = self.waiters[at].pool;
        self.pools[pool].remove(&mut self.waiters, at);
        let Waiter { serial, waiter, controller, host: machine, since, .. } = self.waiters.remove(at);
        if self.pools[pool].is_empty() {
            self.close_pool(pool);
        }
        if let Some(drain) = &mut self.draining {
            drain.waiting -= usize::from(serial <= drain.before.0);
        }
        self.removed += 1;
        self.assert_conserved();
        RemovedWaiter { waiter, controller, host: machine, held: self.now.since(since) }
    }

    pub(super) fn find_controller(&self, pool: u32, controller: &str, origin: IpAddr) -> Option<u32> {
        if controller.is_empty() {
            return None;
        }
        let same = |&at: &u32| {
            let w = &self.waiters[at];
            w.pool == pool && *w.controller == *controller && w.origin == origin
        };
        let hash = self.hasher.hash_one((pool, controller, origin));
        self.by_controller.part(hash).find(hash, same).copied()
    }

    pub(super) fn remember_controller(&mut self, at: u32) {
        let Self { waiters, hasher, by_controller, .. } = self;
        let hash_of = |&at: &u32| controller_hash(hasher, &waiters[at]);
        if !waiters[at].controller.is_empty() {
            let hash = hash_of(&at);
            by_controller.part_mut(hash).insert_unique(hash, at, hash_of);
        }
    }

    fn forget_controller(&mut self, at: u32) {
        if self.waiters[at].controller.is_empty() {
            return;
        }
        let hash = controller_hash(&self.hasher, &self.waiters[at]);
        if let Ok(entry) = self.by_controller.part_mut(hash).find_entry(hash, |&other| other == at) {
            entry.remove();
        }
    }
}

fn controller_hash<W>(hasher: &RandomState, waiter: &Waiter<W>) -> u64 {
    hasher.hash_one((waiter.pool, &*waiter.controller, waiter.origin))
}

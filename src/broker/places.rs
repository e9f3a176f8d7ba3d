//! Owns the places: how a waiter gets one and the one way out of it, with every index kept in step.

use std::net::IpAddr;

use ahash::RandomState;

use super::chain::Link;
use super::pool::{Pool, Shelf};
use super::{Broker, Key, KeyRef, Moment, Taken, Ticket, Waiter, WaiterId};

impl<W> Broker<W> {
    pub(super) fn find_pool(&self, hash: u64, key: KeyRef<'_>) -> Option<u32> {
        self.by_key.find(hash, |&pool| self.pools[pool as usize].key.as_ref() == key).copied()
    }

    pub(super) fn open_pool(&mut self, hash: u64, key: Key) -> u32 {
        self.kin.opened(&self.hasher, key.as_ref());
        let pool = index(self.pools.insert(Pool::new(hash, key)));
        self.by_key.insert_unique(hash, pool, |&pool| self.pools[pool as usize].hash);
        pool
    }

    fn close_pool(&mut self, pool: u32) {
        let Pool { hash, key, .. } = self.pools.remove(pool as usize);
        if let Ok(entry) = self.by_key.find_entry(hash, |&other| other == pool) {
            entry.remove();
        }
        self.kin.closed(&self.hasher, key.as_ref());
    }

    pub(super) fn seat(&mut self, pool: u32, ticket: Ticket<W>, now: Moment) -> WaiterId {
        self.parked += 1;
        let at = index(self.waiters.insert(Waiter {
            serial: self.parked,
            pool,
            shelf: Shelf::of(ticket.accepts),
            controller: ticket.controller,
            origin: ticket.origin,
            machine: ticket.machine,
            since: now,
            offer_until: ticket.offer_until,
            deadline: ticket.deadline.max(now),
            links: [Link::LOOSE; 2],
            waiter: ticket.waiter,
        }));
        self.pools[pool as usize].join(&mut self.waiters, at);
        self.wheel.insert(&mut self.waiters, at);
        WaiterId { slot: at, serial: self.parked }
    }

    /// The one way out: every chain, table and count is left here, and nowhere else.
    pub(super) fn take(&mut self, at: u32) -> Taken<W> {
        self.wheel.remove(&mut self.waiters, at);
        self.forget_controller(at);
        let pool = self.waiters[at as usize].pool;
        self.pools[pool as usize].part(&mut self.waiters, at);
        let Waiter { waiter, controller, machine, since, .. } = self.waiters.remove(at as usize);
        if self.pools[pool as usize].len() == 0 {
            self.close_pool(pool);
        }
        self.taken += 1;
        self.assert_conserved();
        Taken { waiter, controller, machine, held: self.now.since(since) }
    }

    pub(super) fn find_controller(&self, pool: u32, controller: &str, origin: IpAddr) -> Option<u32> {
        if controller.is_empty() {
            return None;
        }
        let same = |&at: &u32| {
            let w = &self.waiters[at as usize];
            w.pool == pool && *w.controller == *controller && w.origin == origin
        };
        self.by_controller.find(self.hasher.hash_one((pool, controller, origin)), same).copied()
    }

    pub(super) fn remember_controller(&mut self, at: u32) {
        let Self { waiters, hasher, by_controller, .. } = self;
        let hash_of = |&at: &u32| controller_hash(hasher, &waiters[at as usize]);
        if !waiters[at as usize].controller.is_empty() {
            by_controller.insert_unique(hash_of(&at), at, hash_of);
        }
    }

    fn forget_controller(&mut self, at: u32) {
        let hash = controller_hash(&self.hasher, &self.waiters[at as usize]);
        if let Ok(entry) = self.by_controller.find_entry(hash, |&other| other == at) {
            entry.remove();
        }
    }
}

fn controller_hash<W>(hasher: &RandomState, waiter: &Waiter<W>) -> u64 {
    hasher.hash_one((waiter.pool, &*waiter.controller, waiter.origin))
}

#[expect(clippy::cast_possible_truncation, reason = "file descriptors run out long before 32 bits do")]
pub(super) fn index(at: usize) -> u32 {
    at as u32
}

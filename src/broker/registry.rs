//! Owns the registry: all waiters and pools with every index over them. Waiters are inserted and removed here only.

use std::net::IpAddr;

use ahash::RandomState;

use super::chunks::Chunks;
use super::list::Link;
use super::miss::MissIndex;
use super::pool::Pool;
use super::timer_wheel::TimerWheel;
use super::waiter::{WaiterClass, WaiterEntry};
use super::{KeyRef, MonotonicTime, ParkRequest, RemovedWaiter, Sharded, WaiterId, Watermark};

/// The parts of the index of controllers: at 100,000 waiters, a part that grows moves about 100 entries.
const CONTROLLER_PARTS: usize = 1024;
/// The parts of the indexes of pools.
const POOL_PARTS: usize = 256;

pub(super) struct Registry<W> {
    pub(super) hasher: RandomState,
    pub(super) waiters: Chunks<WaiterEntry<W>>,
    pub(super) pools: Chunks<Pool>,
    pub(super) by_key: Sharded<u32>,
    pub(super) by_controller: Sharded<u32>,
    pub(super) misses: MissIndex,
    pub(super) timers: TimerWheel,
    /// How many waiters were ever inserted; the serial of the latest.
    parked: u64,
    /// How many waiters were ever removed.
    removed: u64,
}

impl<W> Registry<W> {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            waiters: Chunks::new(),
            pools: Chunks::new(),
            by_key: Sharded::new(POOL_PARTS),
            by_controller: Sharded::new(CONTROLLER_PARTS),
            misses: MissIndex::new(POOL_PARTS),
            timers: TimerWheel::new(),
            parked: 0,
            removed: 0,
        }
    }

    pub(super) fn watermark(&self) -> Watermark {
        Watermark(self.parked)
    }

    pub(super) fn find_pool(&self, hash: u64, key: KeyRef<'_>) -> Option<u32> {
        self.by_key.part(hash).find(hash, |&pool| self.pools[pool].key.as_ref() == key).copied()
    }

    pub(super) fn open_pool(&mut self, hash: u64, key: KeyRef<'_>) -> u32 {
        self.misses.pool_opened(&self.hasher, key);
        let pool = self.pools.insert(Pool::new(hash, key.into()));
        let Self { pools, by_key, .. } = self;
        by_key.part_mut(hash).insert_unique(hash, pool, |&pool| pools[pool].hash);
        pool
    }

    pub(super) fn insert(&mut self, pool: u32, request: ParkRequest<'_, W>, now: MonotonicTime) -> WaiterId {
        self.parked += 1;
        let slot = self.waiters.insert(WaiterEntry {
            serial: self.parked,
            pool,
            class: WaiterClass::Trusted(request.accepts),
            controller: request.controller,
            address: request.host.address,
            host_name: request.host.name,
            since: now,
            offer_until: request.offer_until,
            deadline: request.deadline.max(now),
            links: [Link::UNLINKED; 2],
            waiter: request.waiter,
        });
        self.pools[pool].insert(&mut self.waiters, slot);
        self.timers.insert(&mut self.waiters, slot);
        WaiterId { slot, serial: self.parked }
    }

    /// Removes a waiter from every list, index and count. The only way out; also returns the waiter's serial.
    pub(super) fn remove(&mut self, slot: u32, now: MonotonicTime) -> (u64, RemovedWaiter<W>) {
        self.timers.remove(&mut self.waiters, slot);
        self.unindex_controller(slot);
        let pool = self.waiters[slot].pool;
        self.pools[pool].remove(&mut self.waiters, slot);
        let entry = self.waiters.remove(slot);
        let host = entry.host();
        let WaiterEntry { serial, waiter, controller, since, .. } = entry;
        if self.pools[pool].is_empty() {
            self.close_pool(pool);
        }
        self.removed += 1;
        self.assert_conserved();
        (serial, RemovedWaiter { waiter, controller, host, held: now.since(since) })
    }

    pub(super) fn find_controller(&self, pool: u32, controller: &str, address: IpAddr) -> Option<u32> {
        if controller.is_empty() {
            return None;
        }
        let is_same = |&slot: &u32| {
            let waiter = &self.waiters[slot];
            waiter.pool == pool && *waiter.controller == *controller && waiter.address == address
        };
        let hash = self.hasher.hash_one((pool, controller, address));
        self.by_controller.part(hash).find(hash, is_same).copied()
    }

    pub(super) fn index_controller(&mut self, slot: u32) {
        let Self { waiters, hasher, by_controller, .. } = self;
        let hash_of = |&slot: &u32| controller_hash(hasher, &waiters[slot]);
        if !waiters[slot].controller.is_empty() {
            let hash = hash_of(&slot);
            by_controller.part_mut(hash).insert_unique(hash, slot, hash_of);
        }
    }

    /// Takes out unused memory, for the caller to drop.
    pub(super) fn shrink(&mut self) -> impl Sized + use<W> {
        (
            self.waiters.shrink(),
            self.pools.shrink(),
            self.by_key.shrink(),
            self.by_controller.shrink(),
            self.misses.shrink(),
        )
    }

    pub(super) fn assert_conserved(&self) {
        debug_assert_eq!(self.parked, self.removed + self.waiters.len() as u64, "I8");
    }

    fn close_pool(&mut self, pool: u32) {
        let Pool { hash, key, .. } = self.pools.remove(pool);
        if let Ok(entry) = self.by_key.part_mut(hash).find_entry(hash, |&other| other == pool) {
            entry.remove();
        }
        self.misses.pool_closed(&self.hasher, key.as_ref());
    }

    fn unindex_controller(&mut self, slot: u32) {
        if self.waiters[slot].controller.is_empty() {
            return;
        }
        let hash = controller_hash(&self.hasher, &self.waiters[slot]);
        if let Ok(entry) = self.by_controller.part_mut(hash).find_entry(hash, |&other| other == slot) {
            entry.remove();
        }
    }
}

fn controller_hash<W>(hasher: &RandomState, waiter: &WaiterEntry<W>) -> u64 {
    hasher.hash_one((waiter.pool, &*waiter.controller, waiter.address))
}

//! Owns the registry: all waiters and pools with every index over them. Waiters are inserted and removed here only.

use std::net::IpAddr;

use ahash::RandomState;

use super::chunks::Chunks;
use super::feed::{ChangedPool, ClosedPool, PoolFeed};
use super::miss::MissIndex;
use super::pool::Pool;
use super::timer_wheel::TimerWheel;
use super::waiter::{WaiterClass, WaiterEntry};
use super::{Claimable, KeyRef, MonotonicTime, ParkRequest, RemovedWaiter, Sharded, WaiterId, Watermark};

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
    pub(super) feed: PoolFeed,
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
            feed: PoolFeed::new(),
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
        let slot = self.waiters.insert(WaiterEntry::new(self.parked, pool, request, now));
        self.pools[pool].insert(&mut self.waiters, slot);
        self.timers.insert(&mut self.waiters, slot);
        self.feed.add(&mut self.pools, pool);
        WaiterId { slot, serial: self.parked }
    }

    /// Removes a waiter from every list, index and count. The only way out; also returns the waiter's serial.
    pub(super) fn remove(&mut self, slot: u32, now: MonotonicTime) -> (u64, RemovedWaiter<W>) {
        self.timers.remove(&mut self.waiters, slot);
        self.unindex_controller(slot);
        let pool = self.waiters[slot].pool;
        self.pools[pool].remove(&mut self.waiters, slot);
        let entry = self.waiters.remove(slot);
        if self.pools[pool].is_empty() {
            self.close_pool(pool);
        } else {
            self.feed.add(&mut self.pools, pool);
        }
        self.removed += 1;
        self.assert_conserved();
        let (serial, host, held) = (entry.serial(), entry.host(), now.since(entry.since()));
        (serial, RemovedWaiter { waiter: entry.waiter, controller: entry.controller, host, held, key: None })
    }

    /// A waiter is too near its deadline to be offered anything.
    pub(super) fn set_late(&mut self, slot: u32) {
        let pool = self.waiters[slot].pool;
        self.pools[pool].reclassify(&mut self.waiters, slot, WaiterClass::Late);
        self.feed.add(&mut self.pools, pool);
    }

    /// The hash of a controller in the pool of a key; none if it has no name.
    pub(super) fn hash_controller(&self, key_hash: u64, controller: &str, address: IpAddr) -> Option<u64> {
        (!controller.is_empty()).then(|| self.hasher.hash_one((key_hash, controller, address)))
    }

    pub(super) fn find_controller(
        &self,
        hash: u64,
        pool: u32,
        controller: &str,
        address: IpAddr,
    ) -> Option<u32> {
        let is_same = |&slot: &u32| {
            let waiter = &self.waiters[slot];
            waiter.pool == pool && waiter.address == address && *waiter.controller == *controller
        };
        self.by_controller.part(hash).find(hash, is_same).copied()
    }

    pub(super) fn index_controller(&mut self, hash: u64, slot: u32) {
        let Self { waiters, pools, hasher, by_controller, .. } = self;
        let hash_of = |&slot: &u32| {
            let waiter = &waiters[slot];
            hasher.hash_one((pools[waiter.pool].hash, &*waiter.controller, waiter.address))
        };
        by_controller.part_mut(hash).insert_unique(hash, slot, hash_of);
    }

    /// Takes at most `max` entries off the feed, which can make fewer rows. Also returns whether there are more.
    pub(super) fn take_changed_pools(&mut self, max: usize) -> (Vec<ChangedPool>, bool) {
        let mut rows = Vec::new();
        for _ in 0..max {
            if let Some(pool) = self.feed.take_open(&mut self.pools) {
                rows.push(ChangedPool::open(&self.pools[pool]));
            } else if let Some(ClosedPool { hash, key, .. }) = self.feed.take_closed() {
                let is_open = self.find_pool(hash, key.as_ref()).is_some();
                rows.extend((!is_open).then(|| ChangedPool::closed(key)));
            } else {
                break;
            }
        }
        (rows, !self.feed.is_empty())
    }

    pub(super) fn claimable(&self, key: KeyRef<'_>) -> Claimable {
        let pool = self.find_pool(self.hasher.hash_one(key), key);
        pool.map_or_else(Claimable::default, |pool| self.pools[pool].claimable())
    }

    /// Takes out unused memory, for the caller to drop.
    pub(super) fn shrink(&mut self) -> impl Sized + use<W> {
        (
            self.waiters.shrink(),
            self.pools.shrink(),
            self.by_key.shrink(),
            self.by_controller.shrink(),
            self.misses.shrink(),
            self.feed.shrink(),
        )
    }

    pub(super) fn assert_conserved(&self) {
        debug_assert_eq!(self.parked, self.removed + self.waiters.len() as u64, "I8");
    }

    fn close_pool(&mut self, pool: u32) {
        let Pool { hash, key, .. } = self.feed.close(&mut self.pools, pool);
        if let Ok(entry) = self.by_key.part_mut(hash).find_entry(hash, |&other| other == pool) {
            entry.remove();
        }
        self.misses.pool_closed(&self.hasher, key.as_ref());
    }

    fn unindex_controller(&mut self, slot: u32) {
        let waiter = &self.waiters[slot];
        if !waiter.is_indexed {
            return;
        }
        let key_hash = self.pools[waiter.pool].hash;
        let Some(hash) = self.hash_controller(key_hash, &waiter.controller, waiter.address) else { return };
        if let Ok(entry) = self.by_controller.part_mut(hash).find_entry(hash, |&other| other == slot) {
            entry.remove();
        }
    }
}

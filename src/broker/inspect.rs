//! Owns the summaries of pools and waiters, and the audit of the core's invariants.

use std::net::IpAddr;
use std::time::Duration;

use super::chunks::Chunks;
use super::page::page;
use super::pool::Pool;
use super::registry::Registry;
use super::suspects::SuspectSet;
use super::waiter::{WaiterClass, WaiterEntry};
use super::{ChangedPool, Filter, Key, MonotonicTime, Page};

/// One pool.
#[derive(Debug, Clone)]
pub struct PoolSummary {
    /// Its key.
    pub key: Key,
    /// How many waiters it has, the late ones included.
    pub waiters: usize,
    /// How long its oldest waiter has waited.
    pub oldest: Duration,
    /// How long its newest waiter has waited.
    pub newest: Duration,
}

/// One waiter.
#[derive(Debug, Clone)]
pub struct WaiterSummary {
    /// Its pool's key.
    pub key: Key,
    /// The controller's name for itself; empty if it gave none.
    pub controller: Box<str>,
    /// The address that its request came from.
    pub origin: IpAddr,
    /// How long it has waited.
    pub held: Duration,
    /// Whether it is too near its deadline to be offered a run.
    pub late: bool,
    /// Whether its host did not prove its last run, so that it is offered a run last.
    pub suspect: bool,
}

impl<W> Registry<W> {
    pub(super) fn pools_page(
        &self,
        filter: &Filter,
        now: MonotonicTime,
        from: u32,
        scan: u32,
    ) -> Page<PoolSummary> {
        page(&self.pools, from, scan, usize::MAX, |_, pool| {
            filter.matches(pool.key.as_ref()).then(|| summarize_pool(pool, &self.waiters, now))
        })
    }

    pub(super) fn claimable_page(&self, from: u32, scan: u32) -> Page<ChangedPool> {
        page(&self.pools, from, scan, usize::MAX, |_, pool| Some(ChangedPool::open(pool)))
    }

    pub(super) fn waiters_page(
        &self,
        suspects: &SuspectSet,
        filter: &Filter,
        now: MonotonicTime,
        from: u32,
        scan: u32,
        max_rows: usize,
    ) -> Page<WaiterSummary> {
        page(&self.waiters, from, scan, max_rows, |_, waiter| {
            let key = &self.pools[waiter.pool].key;
            filter.matches(key.as_ref()).then(|| WaiterSummary {
                key: key.clone(),
                controller: waiter.controller.clone(),
                origin: waiter.address,
                held: now.since(waiter.since()),
                late: waiter.class == WaiterClass::Late || waiter.offer_until() <= now,
                suspect: suspects.contains(waiter.host(), now),
            })
        })
    }

    pub(super) fn audit(&self) -> Result<(), String> {
        let mut in_pools = 0;
        for (slot, pool) in self.pools.iter() {
            let members: Vec<u32> = pool.members(&self.waiters).collect();
            if pool.is_empty() || members.len() != pool.len() {
                return Err(format!("I6: pool {slot} counts {} and holds {}", pool.len(), members.len()));
            }
            if members.iter().any(|&member| self.waiters[member].pool != slot) {
                return Err(format!("I4: pool {slot} holds another pool's waiter"));
            }
            in_pools += members.len();
        }
        for (what, count) in [("pools", in_pools), ("deadlines", self.timers.len(&self.waiters))] {
            if count != self.waiters.len() {
                return Err(format!("I4: {count} waiters in the {what}, {} in all", self.waiters.len()));
            }
        }
        let named = self.waiters.iter().filter(|(_, waiter)| waiter.is_indexed).count();
        if named != self.by_controller.len() {
            return Err(format!("I4: {named} exclusive waiters, {} in the index", self.by_controller.len()));
        }
        if self.by_key.len() != self.pools.len() || (self.pools.is_empty() && self.misses.len() != 0) {
            return Err("I6: an index has an entry for a closed pool".to_owned());
        }
        Ok(())
    }
}

/// The ages are those of the waiters at the ends of the queues, which are nearly in the order of age.
fn summarize_pool<W>(pool: &Pool, waiters: &Chunks<WaiterEntry<W>>, now: MonotonicTime) -> PoolSummary {
    let ends = WaiterClass::ALL.map(|class| pool.queue(class)).map(|queue| [queue.front(), queue.back()]);
    let held = ends.into_iter().flatten().flatten().map(|slot| now.since(waiters[slot].since()));
    let (newest, oldest) = held
        .fold((Duration::MAX, Duration::ZERO), |(newest, oldest), held| (newest.min(held), oldest.max(held)));
    PoolSummary { key: pool.key.clone(), waiters: pool.len(), oldest, newest }
}

//! Owns what is seen of the core: pools and waiters, a page at a time so that no look holds the lock for long.

use std::net::IpAddr;
use std::time::Duration;

use super::chunks::Chunks;
use super::pool::{Pool, WaiterClass};
use super::{Broker, Filter, Key, MonotonicTime, Waiter};

/// Part of a listing, and where to go on.
#[derive(Debug)]
pub struct Page<V> {
    /// What was found.
    pub rows: Vec<V>,
    /// Where the next page begins; none at the end.
    pub next: Option<u32>,
}

/// One pool.
#[derive(Debug, Clone)]
pub struct PoolSummary {
    /// Its key.
    pub key: Key,
    /// Who waits in it, the late ones included.
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
    /// Where it came from.
    pub origin: IpAddr,
    /// How long it has waited.
    pub held: Duration,
    /// Whether it is too near its deadline to be offered a run.
    pub late: bool,
    /// Whether its machine did not prove its last run, so that it is offered one last.
    pub suspect: bool,
}

impl<W> Broker<W> {
    /// Pools that the filter selects among the next `scan` places from `from` on.
    pub fn pools_page(&self, filter: &Filter, now: MonotonicTime, from: u32, scan: u32) -> Page<PoolSummary> {
        page(&self.pools, from, scan, usize::MAX, |_, pool| {
            filter.matches(&pool.key).then(|| summarize_pool(pool, &self.waiters, now))
        })
    }

    /// The first `most` waiters that the filter selects among the next `scan` places from `from` on.
    pub fn waiters_page(
        &self,
        filter: &Filter,
        now: MonotonicTime,
        from: u32,
        scan: u32,
        most: usize,
    ) -> Page<WaiterSummary> {
        page(&self.waiters, from, scan, most, |_, waiter| {
            let key = &self.pools[waiter.pool].key;
            filter.matches(key).then(|| WaiterSummary {
                key: key.clone(),
                controller: waiter.controller.clone(),
                origin: waiter.origin,
                held: now.since(waiter.since),
                late: waiter.class == WaiterClass::Late || waiter.offer_until <= now,
                suspect: self.suspects.contains(waiter.host, now),
            })
        })
    }

    /// Checks the whole structure, by the invariants' numbers. Costs O(waiters): for tests.
    pub fn audit(&self) -> Result<(), String> {
        let mut standing = 0;
        for (at, pool) in self.pools.iter() {
            let members: Vec<u32> = pool.members(&self.waiters).collect();
            if pool.is_empty() || members.len() != pool.len() {
                return Err(format!("I6: pool {at} counts {} and holds {}", pool.len(), members.len()));
            }
            if members.iter().any(|&member| self.waiters[member].pool != at) {
                return Err(format!("I4: pool {at} holds another pool's waiter"));
            }
            standing += members.len();
        }
        let named = self.waiters.iter().filter(|(_, w)| !w.controller.is_empty()).count();
        for (what, counted) in [("pools", standing), ("deadlines", self.timers.len(&self.waiters))] {
            if counted != self.waiters.len() {
                return Err(format!("I4: {counted} waiters in the {what}, {} in all", self.waiters.len()));
            }
        }
        if named != self.by_controller.len() {
            return Err(format!("I4: {named} named waiters, {} remembered", self.by_controller.len()));
        }
        if self.by_key.len() != self.pools.len() || (self.pools.is_empty() && self.misses.len() != 0) {
            return Err("I6: an index outlived its pool".to_owned());
        }
        Ok(())
    }
}

/// The ages are those of the waiters at the ends of the shelves: who is set aside gets there nearly in the order of age.
fn summarize_pool<W>(pool: &Pool, waiters: &Chunks<Waiter<W>>, now: MonotonicTime) -> PoolSummary {
    let ends = WaiterClass::ALL.map(|shelf| pool.queue(shelf)).map(|chain| [chain.front(), chain.back()]);
    let held = ends.into_iter().flatten().flatten().map(|at| now.since(waiters[at].since));
    let (newest, oldest) = held
        .fold((Duration::MAX, Duration::ZERO), |(newest, oldest), held| (newest.min(held), oldest.max(held)));
    PoolSummary { key: pool.key.clone(), waiters: pool.len(), oldest, newest }
}

/// Looks at the next `scan` places from `from` on, until `most` are found.
pub(super) fn page<T, V>(
    slab: &Chunks<T>,
    from: u32,
    scan: u32,
    most: usize,
    mut see: impl FnMut(u32, &T) -> Option<V>,
) -> Page<V> {
    let end = from.saturating_add(scan).min(slab.end());
    let mut rows = Vec::new();
    let mut at = from;
    while at < end && rows.len() < most {
        rows.extend(slab.get(at).and_then(|value| see(at, value)));
        at += 1;
    }
    Page { rows, next: (at < slab.end()).then_some(at) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_filled_from_many_places_and_the_next_one_begins_behind_its_last_row() {
        let mut slab = Chunks::new();
        let end = (0..1024).map(|value| slab.insert(value)).max().unwrap() + 1;
        let odd = |from, scan, most| {
            let Page { rows, next } =
                page(&slab, from, scan, most, |_, value| (value % 2 == 1).then_some(*value));
            (rows, next)
        };
        assert_eq!(odd(0, 8, 1), (vec![1], Some(2)));
        assert_eq!(odd(2, 8, 2), (vec![3, 5], Some(6)));
        assert_eq!(odd(6, 1, 2), (vec![], Some(7)));
        assert_eq!(odd(end - 3, 8, 2), (vec![end - 3, end - 1], None));
        assert_eq!(odd(end + 10, 8, 2), (vec![], None));
    }
}

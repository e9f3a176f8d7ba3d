//! Owns the core: which waiters are in which pool, and which waiter a run gets. No clock, task, socket, lock, serde or log.
//!
//! ```text
//!            park                 claim
//! (outside) ─────► ready ───────────────────► removed
//!                    │ ▲ suspect, trusted        ▲
//!                    │ retire guard passed       │
//!                    ▼                           │ leave, expire, retire, drain, replaced
//!                   late ────────────────────────┘
//! ```
//! The caller that removes a waiter must end it; so exactly one of match, expiry, drain, retirement, replacement and
//! departure ends each waiter.
//!
//! Invariants, by the numbers that the code asserts:
//! - **I1** a claim removes at most one waiter, and a removed waiter is matched to nothing more.
//! - **I4** a waiter is in exactly one pool and in exactly one of its queues, once.
//! - **I5** a waiter leaves only by match, departure, expiry, drain, retirement or replacement.
//! - **I6** the count of waiters is the number of waiters in the pools, and no pool is empty.
//! - **I8** parked = waiting + removed.
//! - **I9** a match has equal canonical keys.

mod chunks;
mod feed;
mod inspect;
mod key;
mod limits;
mod list;
mod miss;
mod page;
mod payload;
mod pool;
mod registry;
mod request;
mod sharded;
mod suspects;
#[cfg(test)]
mod tests;
mod time;
mod timer_wheel;
mod waiter;

use std::net::IpAddr;

use crate::model::MissReason;

pub use feed::ChangedPool;
pub use inspect::{PoolSummary, WaiterSummary};
pub use key::{Filter, Key, KeyError, KeyRef, Number, check_part};
pub use limits::{LimitReached, Limits, SelectionPolicy};
pub use page::Page;
use page::page;
pub use payload::{AcceptedPayload, Claimable, PayloadKind};
use pool::StepBudget;
use registry::Registry;
pub use request::{
    BudgetSpent, Claim, ClaimRequest, ParkOutcome, ParkRequest, RemovedWaiter, WaiterId, Watermark,
};
pub(crate) use sharded::Sharded;
use suspects::SuspectSet;
pub use suspects::{HostId, Suspicion};
pub use time::MonotonicTime;

/// A drain, and how many waiters it has still to remove.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// The drain removes the waiters that were parked before this mark.
    pub before: Watermark,
    /// How many of them are still waiting.
    pub waiting: usize,
}

/// The pools and their waiters.
pub struct Broker<W> {
    limits: Limits,
    policy: SelectionPolicy,
    draining: Option<Drain>,
    is_matching: bool,
    /// Whether removed waiters are returned with their keys.
    reports_keys: bool,
    now: MonotonicTime,
    registry: Registry<W>,
    suspects: SuspectSet,
}

impl<W> Broker<W> {
    /// An empty broker.
    pub fn new(limits: Limits, policy: SelectionPolicy) -> Self {
        Self {
            limits,
            policy,
            draining: None,
            is_matching: true,
            reports_keys: false,
            now: MonotonicTime::default(),
            registry: Registry::new(),
            suspects: SuspectSet::default(),
        }
    }

    /// Adds a waiter, the newest of its pool; or returns the request because a limit is reached.
    pub fn park<'a>(
        &mut self,
        request: ParkRequest<'a, W>,
        now: MonotonicTime,
    ) -> Result<ParkOutcome<W>, (LimitReached, ParkRequest<'a, W>)> {
        let now = self.advance_clock(now);
        let registry = &mut self.registry;
        let hash = registry.hasher.hash_one(request.key);
        let found = registry.find_pool(hash, request.key);
        let (controller, address) = (&*request.controller, request.host.address);
        let is_exclusive = request.is_exclusive;
        let controller_hash =
            if is_exclusive { registry.hash_controller(hash, controller, address) } else { None };
        let older = found
            .zip(controller_hash)
            .and_then(|(pool, hash)| registry.find_controller(hash, pool, controller, address));
        if older.is_none() {
            let in_pool = found.map(|pool| registry.pools[pool].len());
            if let Err(limit) = self.limits.check(registry.waiters.len(), registry.pools.len(), in_pool) {
                return Err((limit, request));
            }
        }
        // Inserted before the older waiter is removed, because a pool is closed with its last waiter.
        let registry = &mut self.registry;
        let pool = found.unwrap_or_else(|| registry.open_pool(hash, request.key));
        let id = registry.insert(pool, request, now);
        let replaced = older.map(|older| self.remove(older));
        if let Some(hash) = controller_hash {
            self.registry.index_controller(hash, id.slot);
        }
        self.registry.assert_conserved();
        Ok(ParkOutcome { id, replaced })
    }

    /// Whether waiters that leave, expire, are drained or retired are returned with their keys. It costs a copy of each key.
    pub fn report_keys(&mut self, reports_keys: bool) {
        self.reports_keys = reports_keys;
    }

    /// Removes a waiter by its id, if it is still waiting.
    pub fn leave(&mut self, id: WaiterId, now: MonotonicTime) -> Option<RemovedWaiter<W>> {
        self.advance_clock(now);
        let is_waiting =
            self.registry.waiters.get(id.slot).is_some_and(|waiter| waiter.serial() == id.serial);
        is_waiting.then(|| self.remove_with_key(id.slot))
    }

    /// Removes the exclusive waiter of a controller, because the controller waits in another way now.
    pub fn replace(
        &mut self,
        key: KeyRef<'_>,
        controller: &str,
        address: IpAddr,
        now: MonotonicTime,
    ) -> Option<RemovedWaiter<W>> {
        self.advance_clock(now);
        let registry = &self.registry;
        let key_hash = registry.hasher.hash_one(key);
        let pool = registry.find_pool(key_hash, key)?;
        let hash = registry.hash_controller(key_hash, controller, address)?;
        let older = registry.find_controller(hash, pool, controller, address)?;
        Some(self.remove(older))
    }

    /// Finds a waiter for a run and removes it. If more than `max_steps` waiters have to be moved between queues first, the
    /// caller must release the lock and call again.
    pub fn claim(
        &mut self,
        request: &ClaimRequest<'_>,
        now: MonotonicTime,
        max_steps: usize,
    ) -> Result<Claim<W>, BudgetSpent> {
        let now = self.advance_clock(now);
        if !self.is_matching {
            return Ok(Claim::Miss(MissReason::Draining));
        }
        let registry = &self.registry;
        let hash = registry.hasher.hash_one(request.key);
        let Some(pool) = registry.find_pool(hash, request.key) else {
            return Ok(Claim::Miss(registry.misses.miss(&registry.hasher, request.key, hash, now)));
        };
        let mut steps = StepBudget(max_steps);
        while let Some(slot) = self.next_candidate(pool, request.payload_kind, &mut steps)? {
            if self.registry.waiters[slot].offer_until() <= now {
                // It waits until its deadline, but is no longer offered anything.
                steps.spend()?;
                self.registry.set_late(slot);
                continue;
            }
            debug_assert!(self.registry.pools[pool].key.as_ref() == request.key, "I9");
            let removed = self.remove(slot);
            if self.registry.pools.get(pool).is_none() {
                self.registry.misses.pool_emptied(hash, now);
            }
            return Ok(Claim::Matched(removed));
        }
        let is_unaccepted = self.registry.pools[pool].has_unaccepting(request.payload_kind);
        Ok(Claim::Miss(if is_unaccepted { MissReason::NotAMessage } else { MissReason::AllTaken }))
    }

    /// The next waiter to try: first the trusted by age, then the suspect.
    fn next_candidate(
        &mut self,
        pool: u32,
        kind: PayloadKind,
        steps: &mut StepBudget,
    ) -> Result<Option<u32>, BudgetSpent> {
        let Self { registry: Registry { waiters, pools, .. }, suspects, now, policy, .. } = self;
        let pool = &mut pools[pool];
        let is_suspect = |host| suspects.contains(host, *now);
        pool.restore_trusted(waiters, suspects.cleared(), |host| !is_suspect(host), steps)?;
        while let Some(slot) = pool.pick(waiters, *policy, kind) {
            if !is_suspect(waiters[slot].host()) {
                return Ok(Some(slot));
            }
            steps.spend()?;
            let class = waiters[slot].class.suspect();
            pool.reclassify(waiters, slot, class);
        }
        Ok(pool.pick_suspect(waiters, *policy, kind))
    }

    /// A host did not prove the run it was offered: its waiters are offered runs last.
    pub fn suspect(&mut self, host: HostId, now: MonotonicTime) {
        let now = self.advance_clock(now);
        self.suspects.suspect(host, now);
    }

    /// A host proved a run: it is trusted again.
    pub fn trust(&mut self, host: HostId) {
        self.suspects.trust(host, self.now);
    }

    /// The suspect waiters among the next `scan` slots, beginning at `from`; each row is made by `view`.
    pub fn suspects_page<V>(&self, from: u32, scan: u32, view: impl Fn(Suspicion, &W) -> V) -> Page<V> {
        page(&self.registry.waiters, from, scan, usize::MAX, |_, waiter| {
            self.suspects.suspicion_of(waiter.host()).map(|suspicion| view(suspicion, &waiter.waiter))
        })
    }

    /// A waiter has shown life since this suspicion arose: it is cleared.
    pub fn clear_suspicion(&mut self, suspicion: Suspicion, now: MonotonicTime) {
        let now = self.advance_clock(now);
        self.suspects.clear(suspicion, now);
    }

    /// Clears old suspicions. Returns whether any is left.
    pub fn forget_old_suspects(&mut self, now: MonotonicTime) -> bool {
        let now = self.advance_clock(now);
        self.suspects.forget_old(now);
        !self.suspects.is_empty()
    }

    /// Removes at most `max_removed` waiters whose deadline has come, among the next `scan` waiters by deadline. Also
    /// returns whether to call again: every waiter that was due at the first call is removed by the end of the last.
    pub fn expire(
        &mut self,
        now: MonotonicTime,
        scan: usize,
        max_removed: usize,
    ) -> (Vec<RemovedWaiter<W>>, bool) {
        let now = self.advance_clock(now);
        let Registry { timers, waiters, .. } = &mut self.registry;
        let (due, continues) = timers.due(waiters, now, scan, max_removed);
        (due.into_iter().map(|slot| self.remove_with_key(slot)).collect(), continues)
    }

    /// Removes at most `max_removed` of the next `scan` waiters, beginning at slot `from`, that were parked before the mark
    /// in a pool that the filter selects. Waiters parked between two pages are behind the mark, so the pages are complete.
    pub fn remove_parked_before(
        &mut self,
        before: Watermark,
        filter: &Filter,
        now: MonotonicTime,
        from: u32,
        scan: u32,
        max_removed: usize,
    ) -> Page<RemovedWaiter<W>> {
        self.advance_clock(now);
        let Registry { waiters, pools, .. } = &self.registry;
        let Page { rows, next } = page(waiters, from, scan, max_removed, |slot, waiter| {
            let is_selected = waiter.serial() <= before.0 && filter.matches(pools[waiter.pool].key.as_ref());
            is_selected.then_some(slot)
        });
        Page { rows: rows.into_iter().map(|slot| self.remove_with_key(slot)).collect(), next }
    }

    /// Takes out memory that is no longer used, for the caller to drop without the lock.
    #[must_use = "drop it after the lock is released"]
    pub fn shrink(&mut self) -> impl Sized + use<W> {
        self.registry.shrink()
    }

    /// Begins a drain that goes on matching. A drain cannot be undone.
    pub fn begin_drain(&mut self) {
        let drain = Drain { before: self.watermark(), waiting: self.waiters_len() };
        self.draining.get_or_insert(drain);
    }

    /// From now on every claim misses with [`MissReason::Draining`].
    pub fn stop_matching(&mut self) {
        self.is_matching = false;
    }

    /// A mark between the waiters parked so far and those parked later.
    pub fn watermark(&self) -> Watermark {
        self.registry.watermark()
    }

    /// The drain; none before [`Self::begin_drain`].
    pub fn draining(&self) -> Option<Drain> {
        self.draining
    }

    /// How many waiters there are.
    pub fn waiters_len(&self) -> usize {
        self.registry.waiters.len()
    }

    /// How many pools there are; each has at least one waiter.
    pub fn pools_len(&self) -> usize {
        self.registry.pools.len()
    }

    /// The pools that the filter selects among the next `scan` slots, beginning at `from`.
    pub fn pools_page(&self, filter: &Filter, now: MonotonicTime, from: u32, scan: u32) -> Page<PoolSummary> {
        self.registry.pools_page(filter, now, from, scan)
    }

    /// At most `max_rows` waiters that the filter selects among the next `scan` slots, beginning at `from`.
    pub fn waiters_page(
        &self,
        filter: &Filter,
        now: MonotonicTime,
        from: u32,
        scan: u32,
        max_rows: usize,
    ) -> Page<WaiterSummary> {
        self.registry.waiters_page(&self.suspects, filter, now, from, scan, max_rows)
    }

    /// From now on each change of a pool is noted for [`Self::take_changed_pools`]: that a waiter came, was removed, or was
    /// found too near its deadline. Pools without a change since then are not noted.
    pub fn watch_pools(&mut self) {
        self.registry.feed.watch();
    }

    /// Whether a change was noted since the last call while no other one was waiting to be taken.
    pub fn take_changes_begun(&mut self) -> bool {
        self.registry.feed.take_begun()
    }

    /// The rows of at most `max` changed pools, each as it is now. Also returns whether there are more of them. The caller
    /// takes them often: the key of a closed pool is kept until then.
    pub fn take_changed_pools(&mut self, max: usize) -> (Vec<ChangedPool>, bool) {
        self.registry.take_changed_pools(max)
    }

    /// How many waiters of this pool could be claimed. A waiter whose time is over counts until a claim finds it so.
    pub fn claimable(&self, key: KeyRef<'_>) -> Claimable {
        self.registry.claimable(key)
    }

    /// The rows of all pools among the next `scan` slots, beginning at `from`.
    pub fn claimable_page(&self, from: u32, scan: u32) -> Page<ChangedPool> {
        self.registry.claimable_page(from, scan)
    }

    /// Checks the whole structure, by the invariants' numbers. Costs O(waiters): for tests.
    pub fn audit(&self) -> Result<(), String> {
        self.registry.audit()
    }

    fn remove(&mut self, slot: u32) -> RemovedWaiter<W> {
        let (serial, removed) = self.registry.remove(slot, self.now);
        if let Some(drain) = &mut self.draining {
            drain.waiting -= usize::from(serial <= drain.before.0);
        }
        removed
    }

    /// Removes a waiter for a caller that does not know its key.
    fn remove_with_key(&mut self, slot: u32) -> RemovedWaiter<W> {
        let Registry { waiters, pools, .. } = &self.registry;
        let key = self.reports_keys.then(|| pools[waiters[slot].pool].key.clone().into());
        RemovedWaiter { key, ..self.remove(slot) }
    }

    /// Threads read the clock before they get the lock, so `now` may be earlier than that of the call before; the core's
    /// time never runs back.
    fn advance_clock(&mut self, now: MonotonicTime) -> MonotonicTime {
        self.now = self.now.max(now);
        self.now
    }
}

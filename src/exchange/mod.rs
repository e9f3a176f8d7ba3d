//! Owns the core as threads share it: its operations under the lock, and what follows each of them without the lock.

mod idempotency;
mod shared_core;
mod suspect_sweep;
mod sync;
mod waitlist;

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;

use crate::broker::{
    ChangedPool, Claim, ClaimRequest, Claimable, Drain, Filter, HostId, Key, KeyRef, LimitReached, Limits,
    MonotonicTime, Page, ParkOutcome, ParkRequest, PayloadKind, PoolSummary, RemovedWaiter, SelectionPolicy,
    WaiterId, WaiterSummary,
};
use crate::journal::{DrainEvent, Journal, PollEvent, RetireEvent};
use crate::metrics::Metrics;
use crate::model::PollEnd;

pub use idempotency::{ContentHash, IdempotencyCache, InFlightElsewhere, LeaderGuard, Lookup};
use shared_core::{Core, SharedCore};
pub use shared_core::{POOLS_PER_LOCK, SCANNED_PER_LOCK, TAKEN_PER_LOCK};
use suspect_sweep::SuspectFlags;
pub use suspect_sweep::SuspectSweep;
use sync::Notify;

/// The core as threads share it. `W` is what transport needs to reach a waiter.
pub struct Exchange<W> {
    core: SharedCore<W>,
    suspects: SuspectFlags,
    host_hasher: RandomState,
    metrics: Arc<Metrics>,
    journal: Arc<Journal>,
}

/// A waiter's place in its pool: dropping it leaves the pool.
pub struct ParkedGuard<W> {
    exchange: Arc<Exchange<W>>,
    id: WaiterId,
    armed: bool,
}

impl<W> ParkedGuard<W> {
    /// Leaves the pool because the controller is gone. False if the waiter was removed before: then the caller that removed
    /// it ends it.
    pub fn leave(&mut self) -> bool {
        std::mem::take(&mut self.armed) && self.exchange.withdraw(self.id, PollEnd::ClientGone)
    }

    /// The waiter's id, by which the caller withdraws it from now on.
    pub fn into_id(mut self) -> WaiterId {
        self.armed = false;
        self.id
    }

    /// The waiter is known to be removed, so a drop need not lock the core.
    pub fn disarm(&mut self) {
        self.armed = false;
    }
}

impl<W> Drop for ParkedGuard<W> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A run that waits for a waiter to park; dropping it ends the wait.
///
/// Make it before the first claim: then a controller that parks in between is not missed.
pub struct WaitlistEntry<W> {
    exchange: Arc<Exchange<W>>,
    key: Key,
    payload_kind: PayloadKind,
    notify: Arc<Notify>,
}

impl<W> WaitlistEntry<W> {
    /// Returns when another claim may succeed; another run may still claim first.
    pub async fn notified(&self) {
        self.notify.notified().await;
    }
}

impl<W> Drop for WaitlistEntry<W> {
    fn drop(&mut self) {
        let request = ClaimRequest { key: self.key.as_ref(), payload_kind: self.payload_kind };
        let notify = self.exchange.core.lock().waitlist.leave(&request);
        if let Some(notify) = notify {
            notify.notify_one();
        }
    }
}

impl<W> Exchange<W> {
    /// An empty exchange whose time starts now.
    pub fn new(
        limits: Limits,
        policy: SelectionPolicy,
        metrics: Arc<Metrics>,
        journal: Arc<Journal>,
    ) -> Self {
        Self {
            core: SharedCore::new(limits, policy),
            suspects: SuspectFlags::new(),
            host_hasher: RandomState::new(),
            metrics,
            journal,
        }
    }

    /// The core's time: microseconds since the exchange was made.
    pub fn now(&self) -> MonotonicTime {
        self.core.now()
    }

    /// The core's time at an instant that the caller has read.
    pub fn at(&self, instant: Instant) -> MonotonicTime {
        self.core.at(instant)
    }

    /// Adds a waiter. The caller must end the older waiter that it replaces, if there is one.
    ///
    /// Here and in [`claim`](Self::claim), `now` is the time when the caller last read the clock.
    pub fn park(
        self: &Arc<Self>,
        mut request: ParkRequest<'_, W>,
        now: MonotonicTime,
    ) -> Result<(ParkedGuard<W>, Option<RemovedWaiter<W>>), LimitReached> {
        let key = request.key;
        let event = self.journal.wants_polls().then(|| PollEvent::parked(key, &request.controller));
        let (result, notifies) = {
            let mut core = self.core.lock();
            let notifies = core.waitlist.accepted_by(key, request.accepts);
            request.deadline = core.latest_deadline(request.deadline, now);
            (core.broker.park(request, now), notifies)
        };
        match result {
            Ok(ParkOutcome { id, replaced }) => {
                notifies.into_iter().flatten().for_each(|notify| notify.notify_one());
                if let Some(event) = event {
                    self.journal.record(event);
                }
                if let Some(replaced) = &replaced {
                    self.record_end(PollEnd::Replaced, replaced, Some(key));
                }
                Ok((ParkedGuard { exchange: self.clone(), id, armed: true }, replaced))
            }
            Err((limit, _)) => {
                self.metrics.poll_refused();
                Err(limit)
            }
        }
    }

    /// Removes a waiter for a run. The caller must write to it, and end it.
    pub fn claim(&self, request: &ClaimRequest<'_>, now: MonotonicTime) -> Claim<W> {
        let claim = loop {
            let claim = self.core.lock().broker.claim(request, now, TAKEN_PER_LOCK);
            if let Ok(claim) = claim {
                break claim;
            }
        };
        if let Claim::Matched(removed) = &claim {
            self.record_end(PollEnd::Matched, removed, Some(request.key));
        }
        claim
    }

    /// Removes the exclusive waiter of a controller that waits in another way now. The caller must end it.
    pub fn replace(&self, key: KeyRef<'_>, controller: &str, address: IpAddr) -> Option<RemovedWaiter<W>> {
        let now = self.now();
        let replaced = self.core.lock().broker.replace(key, controller, address, now);
        if let Some(replaced) = &replaced {
            self.record_end(PollEnd::Replaced, replaced, Some(key));
        }
        replaced
    }

    /// Adds a run to those that wait for a controller with this key.
    pub fn join_waitlist(self: &Arc<Self>, request: &ClaimRequest<'_>) -> WaitlistEntry<W> {
        let notify = self.core.lock().waitlist.join(request);
        let (key, payload_kind) = (request.key.into(), request.payload_kind);
        WaitlistEntry { exchange: self.clone(), key, payload_kind, notify }
    }

    /// Removes the waiters whose deadline has come, and counts them as ended in this way.
    pub fn expire(&self, end: PollEnd, act: impl FnMut(RemovedWaiter<W>)) {
        let remove =
            |core: &mut Core<W>, now| core.broker.expire(now, SCANNED_PER_LOCK as usize, TAKEN_PER_LOCK);
        self.remove_in_batches(end, remove, act);
    }

    /// Removes all waiters that are in the selected pools now.
    pub fn retire(&self, filter: &Filter, act: impl FnMut(RemovedWaiter<W>)) -> usize {
        let retired = self.remove_waiting(PollEnd::Retired, filter, act);
        self.journal.record(RetireEvent::done(filter.clone(), retired));
        retired
    }

    /// Begins a drain without matching: from now on every claim is a miss.
    pub fn drain(&self) {
        self.begin_drain();
        self.stop_matching();
    }

    /// Begins a drain: [`drain_share`](Self::drain_share) removes the waiters, and claims match until
    /// [`stop_matching`](Self::stop_matching).
    pub fn begin_drain(&self) {
        let waiters = {
            let mut core = self.core.lock();
            core.broker.begin_drain();
            core.broker.waiters_len()
        };
        self.journal.record(DrainEvent::began(waiters));
        self.metrics.draining.set(1);
    }

    /// From now on every claim of a draining broker is a miss.
    pub fn stop_matching(&self) {
        self.core.lock().broker.stop_matching();
        // A run that joins the waitlist from now on misses with its first claim.
        let part = |index| self.core.lock().waitlist.part(index);
        for notify in (0..).map_while(part).flatten() {
            notify.notify_one();
        }
    }

    /// Whether the broker drains, with or without matching.
    pub fn is_draining(&self) -> bool {
        self.core.lock().broker.draining().is_some()
    }

    /// Removes a share of the waiters that were parked before the drain. `share` computes it from their number.
    pub fn drain_share(&self, share: impl FnOnce(usize) -> usize, act: impl FnMut(RemovedWaiter<W>)) {
        let drain = self.core.lock().broker.draining();
        let Some(Drain { before, waiting }) = drain else { return };
        let mut left = share(waiting);
        let remove = |core: &mut Core<W>, now| {
            let all = Filter::default();
            let page = core.broker.remove_parked_before(
                before,
                &all,
                now,
                core.drained_to,
                SCANNED_PER_LOCK,
                left.min(TAKEN_PER_LOCK),
            );
            left -= page.rows.len();
            core.drained_to = page.next.unwrap_or(core.drained_to);
            (page.rows, page.next.is_some() && left > 0)
        };
        self.remove_in_batches(PollEnd::Drained, remove, act);
    }

    /// Removes all waiters of a draining broker.
    pub fn drain_all(&self, act: impl FnMut(RemovedWaiter<W>)) {
        self.remove_waiting(PollEnd::Drained, &Filter::default(), act);
    }

    /// The host of a controller, by its address and the name that it gives.
    pub fn host_id(&self, origin: IpAddr, name: &str) -> HostId {
        let hash = || NonZeroU64::new(self.host_hasher.hash_one(name)).unwrap_or(NonZeroU64::MAX);
        HostId { address: origin, name: (!name.is_empty()).then(hash) }
    }

    /// A host did not prove the run it was offered: its waiters are offered runs last.
    pub fn suspect(&self, host: HostId) {
        let now = self.now();
        let mut core = self.core.lock();
        core.broker.suspect(host, now);
        self.suspects.raise();
    }

    /// A host proved a run: it is trusted again.
    pub fn trust(&self, host: HostId) {
        // Nearly always no host is suspect, and then no lock is taken.
        if self.suspects.any() {
            self.core.lock().broker.trust(host);
        }
    }

    /// Clears suspicions since which a waiter `shows_life`, and old ones. Waiters whose host is suspect by name are probed
    /// first. To be called often: it does nothing while no host is suspect.
    pub fn sweep_suspects<S>(
        &self,
        sweep: &mut SuspectSweep<S>,
        sign_of: impl Fn(&W) -> S,
        probe: impl Fn(&S),
        shows_life: impl Fn(&S, Duration) -> bool,
    ) {
        sweep.run(&self.core, &self.suspects, sign_of, probe, shows_life);
    }

    /// Releases memory that is no longer used.
    pub fn shrink(&self) {
        let spare = self.core.lock().broker.shrink();
        drop(spare);
    }

    /// The numbers of waiters and pools.
    pub fn counts(&self) -> (usize, usize) {
        let core = self.core.lock();
        (core.broker.waiters_len(), core.broker.pools_len())
    }

    /// At most `max_rows` pools that the filter selects, from the slot where the last page ended.
    pub fn pools_page(&self, filter: &Filter, from: u32, max_rows: usize) -> Page<PoolSummary> {
        self.core.pools_page(filter, from, max_rows)
    }

    /// At most `max_rows` waiters that the filter selects, from the slot where the last page ended.
    pub fn waiters(&self, filter: &Filter, from: usize, max_rows: usize) -> Page<WaiterSummary> {
        self.core.waiters(filter, from, max_rows)
    }

    /// From now on, changes of pools are noted for [`take_changed_pools`](Self::take_changed_pools). To be called before the
    /// first waiter is parked.
    pub fn watch_pools(&self) {
        self.core.lock().broker.watch_pools();
    }

    /// Returns when a pool has changed since no change was left to take. For one caller at a time, which then takes all.
    pub async fn pools_changed(&self) {
        self.core.pools_changed().await;
    }

    /// The rows of at most `max` pools that have changed since their row was last taken, each as it is now. Fewer than `max`
    /// if there are no more. The key of a closed pool is kept until it is taken, so the caller takes them often.
    pub fn take_changed_pools(&self, max: usize) -> Vec<ChangedPool> {
        self.core.take_changed_pools(max)
    }

    /// How many waiters of this pool a run could claim, by the kind of its payload.
    pub fn claimable(&self, key: KeyRef<'_>) -> Claimable {
        self.core.lock().broker.claimable(key)
    }
    /// Checks the whole core, by the invariants' numbers.
    #[cfg(races)]
    pub fn audit(&self) -> Result<(), String> {
        self.core.lock().broker.audit()
    }

    /// Removes a waiter, and drops it. False if it was removed before: then the caller that removed it ends it.
    pub fn withdraw(&self, id: WaiterId, end: PollEnd) -> bool {
        let now = self.now();
        let removed = self.core.lock_to_remove(self.journal.wants_polls()).broker.leave(id, now);
        if let Some(removed) = &removed {
            self.record_end(end, removed, removed.key.as_deref().map(Key::as_ref));
        }
        removed.is_some()
    }

    fn record_end(&self, end: PollEnd, removed: &RemovedWaiter<W>, key: Option<KeyRef<'_>>) {
        self.metrics.poll_ended(end, removed.held);
        if let Some(key) = key.filter(|_| self.journal.wants_polls()) {
            self.journal.record(PollEvent::ended(key, &removed.controller, end, removed.held));
        }
    }

    fn remove_waiting(&self, end: PollEnd, filter: &Filter, act: impl FnMut(RemovedWaiter<W>)) -> usize {
        let before = self.core.lock().broker.watermark();
        let mut from = 0;
        let remove = |core: &mut Core<W>, now| {
            let page =
                core.broker.remove_parked_before(before, filter, now, from, SCANNED_PER_LOCK, TAKEN_PER_LOCK);
            from = page.next.unwrap_or(from);
            (page.rows, page.next.is_some())
        };
        self.remove_in_batches(end, remove, act)
    }

    /// Removes in batches until `remove` returns that there are no more, and acts on each batch without the lock.
    fn remove_in_batches(
        &self,
        end: PollEnd,
        mut remove: impl FnMut(&mut Core<W>, MonotonicTime) -> (Vec<RemovedWaiter<W>>, bool),
        mut act: impl FnMut(RemovedWaiter<W>),
    ) -> usize {
        let mut count = 0;
        loop {
            let now = self.now();
            let (batch, continues) = remove(&mut self.core.lock_to_remove(self.journal.wants_polls()), now);
            count += batch.len();
            for removed in batch {
                self.record_end(end, &removed, removed.key.as_deref().map(Key::as_ref));
                act(removed);
            }
            if !continues {
                return count;
            }
        }
    }
}

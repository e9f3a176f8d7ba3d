//! Owns the one lock around the core, the clock that the core is told, and who is woken when somebody parks.

mod idempotency;
mod suspect_sweep;
mod sync;
mod waitlist;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ahash::RandomState;

use crate::broker::{
    Broker, Claim, ClaimRequest, Drain, Filter, HostId, LimitReached, Limits, MonotonicTime, Page,
    ParkOutcome, ParkRequest, PoolSummary, RemovedWaiter, SelectionPolicy, WaiterId, WaiterSummary,
};
use crate::journal::{DrainEvent, Journal, PollEvent, RetireEvent};
use crate::metrics::Metrics;
use crate::model::PollEnd;

pub use idempotency::{ContentHash, IdempotencyCache, LeaderGuard, Lookup};
pub use suspect_sweep::SuspectSweep;
use sync::{AtomicBool, Mutex};
use waitlist::Waitlist;
pub use waitlist::WaitlistEntry;

/// So many places are looked at before the lock is let go for others.
pub const SCANNED_PER_LOCK: u32 = 256;
/// So many waiters are taken, moved or shown before the lock is let go for others.
pub const TAKEN_PER_LOCK: usize = 64;
/// So many pools are shown before the lock is let go for others.
pub const POOLS_PER_LOCK: u32 = 64;

/// Who comes to a draining broker is held for one to three times as long, by chance, before it is sent on. Where no other
/// broker takes over it comes back at once, and a client follows no more than 20 redirects in one poll's time.
const HOLD_WHILE_DRAINING: Duration = Duration::from_secs(5);

/// The core as threads share it. `W` is what transport needs to reach a waiter.
pub struct Exchange<W> {
    core: Mutex<Core<W>>,
    epoch: Instant,
    host_hasher: RandomState,
    any_suspect: AtomicBool,
    /// Somebody has become suspect since the last look at who waits.
    new_suspect: AtomicBool,
    metrics: Arc<Metrics>,
    journal: Arc<Journal>,
}

struct Core<W> {
    broker: Broker<W>,
    waitlist: Waitlist,
    /// Where a drain's next share begins: whoever stood when it began stands there or behind.
    drained_to: u32,
}

/// A waiter's place in its pool: dropping it leaves the pool.
pub struct ParkedGuard<W> {
    exchange: Arc<Exchange<W>>,
    id: WaiterId,
    armed: bool,
}

impl<W> ParkedGuard<W> {
    /// Leaves the pool because the controller is gone. False if somebody took the waiter out before:
    /// then its ending is theirs.
    pub fn leave(&mut self) -> bool {
        std::mem::take(&mut self.armed) && self.exchange.leave(self.id)
    }

    /// Says that somebody is known to have taken the waiter out, so that no look at the core is needed.
    pub fn disarm(&mut self) {
        self.armed = false;
    }
}

impl<W> Drop for ParkedGuard<W> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<W> Exchange<W> {
    /// An empty exchange whose time starts now.
    pub fn new(limits: Limits, pick: SelectionPolicy, metrics: Arc<Metrics>, journal: Arc<Journal>) -> Self {
        let core = Core { broker: Broker::new(limits, pick), waitlist: Waitlist::new(), drained_to: 0 };
        Self {
            core: Mutex::new(core),
            epoch: Instant::now(),
            host_hasher: RandomState::new(),
            any_suspect: AtomicBool::new(false),
            new_suspect: AtomicBool::new(false),
            metrics,
            journal,
        }
    }

    /// Microseconds since the exchange began, as the core counts them.
    pub fn now(&self) -> MonotonicTime {
        MonotonicTime::from_micros(u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Gives a held request its place. The older waiter that it replaces, if any, is the caller's to end.
    pub fn park(
        self: &Arc<Self>,
        mut ticket: ParkRequest<W>,
    ) -> Result<(ParkedGuard<W>, Option<RemovedWaiter<W>>), LimitReached> {
        let now = self.now();
        let told =
            self.journal.wants_polls().then(|| PollEvent::parked(ticket.key.as_ref(), &ticket.controller));
        let (parked, wakes) = {
            let mut core = self.core.lock();
            let wakes = core.waitlist.accepted_by(ticket.key.as_ref(), ticket.accepts);
            if core.broker.draining().is_some() {
                let held = HOLD_WHILE_DRAINING.mul_f64(1.0 + 2.0 * fastrand::f64());
                ticket.deadline = ticket.deadline.min(now.plus(held));
            }
            (core.broker.park(ticket, now), wakes)
        };
        match parked {
            Ok(ParkOutcome { id, replaced }) => {
                wakes.into_iter().flatten().for_each(|wake| wake.notify_one());
                if let Some(told) = told {
                    self.journal.record(told);
                }
                if let Some(replaced) = &replaced {
                    self.record_end(PollEnd::Replaced, replaced);
                }
                Ok((ParkedGuard { exchange: self.clone(), id, armed: true }, replaced))
            }
            Err((full, _)) => {
                self.metrics.poll_refused();
                Err(full)
            }
        }
    }

    /// Takes out a waiter for a run. It is the caller's to write to, and to end.
    pub fn claim(&self, ask: &ClaimRequest<'_>) -> Claim<W> {
        let now = self.now();
        let offer = loop {
            let offer = self.core.lock().broker.claim(ask, now, TAKEN_PER_LOCK);
            if let Ok(offer) = offer {
                break offer;
            }
        };
        if let Claim::Matched(taken) = &offer {
            self.record_end(PollEnd::Matched, taken);
        }
        offer
    }

    /// Registers a run that is ready to wait for a controller of this key to come.
    pub fn join_waitlist(self: &Arc<Self>, ask: &ClaimRequest<'_>) -> WaitlistEntry<W> {
        let wake = self.core.lock().waitlist.join(ask);
        WaitlistEntry::new(self.clone(), ask, wake)
    }

    /// Takes out those whose deadline has come, and counts them as ended this way.
    pub fn expire(&self, end: PollEnd, act: impl FnMut(RemovedWaiter<W>)) {
        let take =
            |core: &mut Core<W>, now| core.broker.expire(now, SCANNED_PER_LOCK as usize, TAKEN_PER_LOCK);
        self.remove_in_batches(end, take, act);
    }

    /// Takes out everyone who stands in the selected pools now.
    pub fn retire(&self, filter: &Filter, act: impl FnMut(RemovedWaiter<W>)) -> usize {
        let retired = self.remove_waiting(PollEnd::Retired, filter, act);
        self.journal.record(RetireEvent::done(filter.clone(), retired));
        retired
    }

    /// Answers every offer from here on with a miss.
    pub fn drain(&self) {
        let waiters = {
            let mut core = self.core.lock();
            core.broker.drain();
            core.broker.waiters_len()
        };
        self.journal.record(DrainEvent::began(waiters));
        // Whoever hopes from here on sees the drain at its first look.
        let hopes = |part| self.core.lock().waitlist.part(part);
        for wake in (0..).map_while(hopes).flatten() {
            wake.notify_one();
        }
        self.metrics.draining.set(1);
    }

    /// Whether offers are answered with misses because the broker ends.
    pub fn is_draining(&self) -> bool {
        self.core.lock().broker.draining().is_some()
    }

    /// Of a draining broker, takes out a share of the waiters that stood when the drain began. The share is
    /// computed from their number.
    pub fn drain_share(&self, share: impl FnOnce(usize) -> usize, act: impl FnMut(RemovedWaiter<W>)) {
        let drain = self.core.lock().broker.draining();
        let Some(Drain { before, waiting: standing }) = drain else { return };
        let mut most = share(standing);
        let take = |core: &mut Core<W>, now| {
            let all = Filter::default();
            let page = core.broker.remove_parked_before(
                before,
                &all,
                now,
                core.drained_to,
                SCANNED_PER_LOCK,
                most.min(TAKEN_PER_LOCK),
            );
            most -= page.rows.len();
            core.drained_to = page.next.unwrap_or(core.drained_to);
            (page.rows, page.next.is_some() && most > 0)
        };
        self.remove_in_batches(PollEnd::Drained, take, act);
    }

    /// Of a draining broker, takes out everyone who stands now.
    pub fn drain_all(&self, act: impl FnMut(RemovedWaiter<W>)) {
        self.remove_waiting(PollEnd::Drained, &Filter::default(), act);
    }

    fn remove_waiting(&self, end: PollEnd, filter: &Filter, act: impl FnMut(RemovedWaiter<W>)) -> usize {
        let before = self.core.lock().broker.watermark();
        let mut from = 0;
        let take = |core: &mut Core<W>, now| {
            let page =
                core.broker.remove_parked_before(before, filter, now, from, SCANNED_PER_LOCK, TAKEN_PER_LOCK);
            from = page.next.unwrap_or(from);
            (page.rows, page.next.is_some())
        };
        self.remove_in_batches(end, take, act)
    }

    /// The machine behind a request: its address, and the name that it gives itself.
    pub fn host_id(&self, origin: IpAddr, name: &str) -> HostId {
        let name = (!name.is_empty()).then(|| self.host_hasher.hash_one(name));
        HostId { address: self.host_hasher.hash_one(origin), name }
    }

    /// A machine did not prove the run it was offered: its waiters are offered runs last.
    pub fn suspect(&self, machine: HostId) {
        let now = self.now();
        let mut core = self.core.lock();
        core.broker.suspect(machine, now);
        self.any_suspect.store(true, Ordering::Relaxed);
        self.new_suspect.store(true, Ordering::Relaxed);
    }

    /// A machine proved a run: it is suspect no more.
    pub fn trust(&self, machine: HostId) {
        // Nearly always there is no suspect, and then no lock is needed to know it.
        if self.any_suspect.load(Ordering::Relaxed) {
            self.core.lock().broker.trust(machine);
        }
    }

    /// Gives back the room of a crowd that has left.
    pub fn shrink(&self) {
        let spare = self.core.lock().broker.shrink();
        drop(spare);
    }

    /// Waiters and pools, now.
    pub fn counts(&self) -> (usize, usize) {
        let core = self.core.lock();
        (core.broker.waiters_len(), core.broker.pools_len())
    }

    /// All pools that the filter selects.
    pub fn pools(&self, filter: &Filter) -> Vec<PoolSummary> {
        let mut rows = Vec::new();
        let mut from = Some(0);
        while let Some(at) = from {
            let now = self.now();
            let page = self.core.lock().broker.pools_page(filter, now, at, POOLS_PER_LOCK);
            rows.extend(page.rows);
            from = page.next;
        }
        rows
    }

    /// At most `most` waiters that the filter selects, from the place where the last page ended.
    pub fn waiters(&self, filter: &Filter, from: usize, most: usize) -> Page<WaiterSummary> {
        let most = most.max(1);
        let mut found = Page { rows: Vec::new(), next: Some(u32::try_from(from).unwrap_or(u32::MAX)) };
        while let Some(at) = found.next.filter(|_| found.rows.len() < most) {
            let now = self.now();
            // Few of the places may be selected: how many are looked at has nothing to do with how many rows are wanted.
            let wanted = (most - found.rows.len()).min(TAKEN_PER_LOCK);
            let page = self.core.lock().broker.waiters_page(filter, now, at, SCANNED_PER_LOCK, wanted);
            found.rows.extend(page.rows);
            found.next = page.next;
        }
        found
    }

    /// Checks the whole core, by the invariants' numbers.
    #[cfg(races)]
    pub fn audit(&self) -> Result<(), String> {
        self.core.lock().broker.audit()
    }

    fn leave(&self, id: WaiterId) -> bool {
        let now = self.now();
        let taken = self.core.lock().broker.leave(id, now);
        if let Some(taken) = &taken {
            self.record_end(PollEnd::ClientGone, taken);
        }
        taken.is_some()
    }

    /// A waiter was taken out.
    fn record_end(&self, end: PollEnd, taken: &RemovedWaiter<W>) {
        self.metrics.poll_ended(end, taken.held);
        if self.journal.wants_polls() {
            self.journal.record(PollEvent::ended(&taken.controller, end, taken.held));
        }
    }

    /// Takes in batches until there are no more to look at, and acts on each batch with the lock let go.
    fn remove_in_batches(
        &self,
        end: PollEnd,
        mut take: impl FnMut(&mut Core<W>, MonotonicTime) -> (Vec<RemovedWaiter<W>>, bool),
        mut act: impl FnMut(RemovedWaiter<W>),
    ) -> usize {
        let mut count = 0;
        loop {
            let now = self.now();
            let (batch, goes_on) = take(&mut self.core.lock(), now);
            count += batch.len();
            for taken in batch {
                self.record_end(end, &taken);
                act(taken);
            }
            if !goes_on {
                return count;
            }
        }
    }
}

impl<W> Exchange<W> {
    fn leave_waitlist(&self, ask: &ClaimRequest<'_>) {
        let wake = self.core.lock().waitlist.leave(ask);
        if let Some(wake) = wake {
            wake.notify_one();
        }
    }
}

//! Owns the one lock around the core, the clock that the core is told, and who is woken when somebody parks.

mod hope;
mod repeats;
mod review;
mod sync;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ahash::RandomState;

use crate::broker::{
    Ask, Broker, Drain, Filter, Full, Limits, Machine, Moment, Offer, Page, Parked, Pick, PoolView, Taken,
    Ticket, WaiterId, WaiterView,
};
use crate::journal::{DrainEvent, Journal, PollEvent, RetireEvent};
use crate::metrics::{End, Metrics};

pub use hope::Hope;
use hope::Hopes;
pub use repeats::{Content, First, Repeats, Seen};
pub use review::Review;
use sync::{AtomicBool, Mutex};

/// So many places are looked at before the lock is let go for others.
pub const SCAN: u32 = 256;
/// So many waiters are taken, moved or shown before the lock is let go for others.
pub const BATCH: usize = 64;
/// So many pools are shown before the lock is let go for others.
pub const POOLS: u32 = 64;

/// Who comes to a draining broker is held for one to three times as long, by chance, before it is sent on. Where no other
/// broker takes over it comes back at once, and a client follows no more than 20 redirects in one poll's time.
const HELD_IN_A_DRAIN: Duration = Duration::from_secs(5);

/// The core as threads share it. `W` is what transport needs to reach a waiter.
pub struct Exchange<W> {
    core: Mutex<Core<W>>,
    epoch: Instant,
    machines: RandomState,
    any_suspect: AtomicBool,
    /// Somebody has become suspect since the last look at who waits.
    new_suspect: AtomicBool,
    metrics: Arc<Metrics>,
    journal: Arc<Journal>,
}

struct Core<W> {
    broker: Broker<W>,
    hopes: Hopes,
    /// Where a drain's next share begins: whoever stood when it began stands there or behind.
    drained_to: u32,
}

/// A waiter's place in its pool: dropping it leaves the pool.
pub struct Place<W> {
    exchange: Arc<Exchange<W>>,
    id: WaiterId,
    stands: bool,
}

impl<W> Place<W> {
    /// Leaves the pool because the controller is gone. False if somebody took the waiter out before:
    /// then its ending is theirs.
    pub fn leave(&mut self) -> bool {
        std::mem::take(&mut self.stands) && self.exchange.leave(self.id)
    }

    /// Says that somebody is known to have taken the waiter out, so that no look at the core is needed.
    pub fn was_taken(&mut self) {
        self.stands = false;
    }
}

impl<W> Drop for Place<W> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<W> Exchange<W> {
    /// An empty exchange whose time starts now.
    pub fn new(limits: Limits, pick: Pick, metrics: Arc<Metrics>, journal: Arc<Journal>) -> Self {
        let core = Core { broker: Broker::new(limits, pick), hopes: Hopes::new(), drained_to: 0 };
        Self {
            core: Mutex::new(core),
            epoch: Instant::now(),
            machines: RandomState::new(),
            any_suspect: AtomicBool::new(false),
            new_suspect: AtomicBool::new(false),
            metrics,
            journal,
        }
    }

    /// Microseconds since the exchange began, as the core counts them.
    pub fn now(&self) -> Moment {
        Moment::from_micros(u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Gives a held request its place. The older waiter that it replaces, if any, is the caller's to end.
    pub fn park(self: &Arc<Self>, mut ticket: Ticket<W>) -> Result<(Place<W>, Option<Taken<W>>), Full> {
        let now = self.now();
        let told =
            self.journal.wants_polls().then(|| PollEvent::parked(ticket.key.as_ref(), &ticket.controller));
        let (parked, wakes) = {
            let mut core = self.core.lock();
            let wakes = core.hopes.of(ticket.key.as_ref(), ticket.accepts);
            if core.broker.draining().is_some() {
                let held = HELD_IN_A_DRAIN.mul_f64(1.0 + 2.0 * fastrand::f64());
                ticket.deadline = ticket.deadline.min(now.plus(held));
            }
            (core.broker.park(ticket, now), wakes)
        };
        match parked {
            Ok(Parked { id, replaced }) => {
                wakes.into_iter().flatten().for_each(|wake| wake.notify_one());
                if let Some(told) = told {
                    self.journal.record(told);
                }
                if let Some(replaced) = &replaced {
                    self.ended(End::Replaced, replaced);
                }
                Ok((Place { exchange: self.clone(), id, stands: true }, replaced))
            }
            Err((full, _)) => {
                self.metrics.poll_refused();
                Err(full)
            }
        }
    }

    /// Takes out a waiter for a run. It is the caller's to write to, and to end.
    pub fn offer(&self, ask: &Ask<'_>) -> Offer<W> {
        let now = self.now();
        let offer = loop {
            let offer = self.core.lock().broker.offer(ask, now, BATCH);
            if let Ok(offer) = offer {
                break offer;
            }
        };
        if let Offer::Matched(taken) = &offer {
            self.ended(End::Matched, taken);
        }
        offer
    }

    /// Registers a run that is ready to wait for a controller of this key to come.
    pub fn hope(self: &Arc<Self>, ask: &Ask<'_>) -> Hope<W> {
        let wake = self.core.lock().hopes.join(ask);
        Hope::new(self.clone(), ask, wake)
    }

    /// Takes out those whose deadline has come, and counts them as ended this way.
    pub fn expire(&self, end: End, act: impl FnMut(Taken<W>)) {
        let take = |core: &mut Core<W>, now| core.broker.expire(now, SCAN as usize, BATCH);
        self.take_all(end, take, act);
    }

    /// Takes out everyone who stands in the selected pools now.
    pub fn retire(&self, filter: &Filter, act: impl FnMut(Taken<W>)) -> usize {
        let retired = self.take_standing(End::Retired, filter, act);
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
        let hopes = |part| self.core.lock().hopes.all(part);
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
    pub fn drain_share(&self, share: impl FnOnce(usize) -> usize, act: impl FnMut(Taken<W>)) {
        let drain = self.core.lock().broker.draining();
        let Some(Drain { before, standing }) = drain else { return };
        let mut most = share(standing);
        let take = |core: &mut Core<W>, now| {
            let all = Filter::default();
            let page = core.broker.take_before(before, &all, now, core.drained_to, SCAN, most.min(BATCH));
            most -= page.rows.len();
            core.drained_to = page.next.unwrap_or(core.drained_to);
            (page.rows, page.next.is_some() && most > 0)
        };
        self.take_all(End::Drained, take, act);
    }

    /// Of a draining broker, takes out everyone who stands now.
    pub fn drain_all(&self, act: impl FnMut(Taken<W>)) {
        self.take_standing(End::Drained, &Filter::default(), act);
    }

    fn take_standing(&self, end: End, filter: &Filter, act: impl FnMut(Taken<W>)) -> usize {
        let before = self.core.lock().broker.mark();
        let mut from = 0;
        let take = |core: &mut Core<W>, now| {
            let page = core.broker.take_before(before, filter, now, from, SCAN, BATCH);
            from = page.next.unwrap_or(from);
            (page.rows, page.next.is_some())
        };
        self.take_all(end, take, act)
    }

    /// The machine behind a request: its address, and the name that it gives itself.
    pub fn machine(&self, origin: IpAddr, name: &str) -> Machine {
        let name = (!name.is_empty()).then(|| self.machines.hash_one(name));
        Machine { address: self.machines.hash_one(origin), name }
    }

    /// A machine did not prove the run it was offered: its waiters are offered runs last.
    pub fn suspect(&self, machine: Machine) {
        let now = self.now();
        let mut core = self.core.lock();
        core.broker.suspect(machine, now);
        self.any_suspect.store(true, Ordering::Relaxed);
        self.new_suspect.store(true, Ordering::Relaxed);
    }

    /// A machine proved a run: it is suspect no more.
    pub fn trust(&self, machine: Machine) {
        // Nearly always there is no suspect, and then no lock is needed to know it.
        if self.any_suspect.load(Ordering::Relaxed) {
            self.core.lock().broker.trust(machine);
        }
    }

    /// Gives back the room of a crowd that has left.
    pub fn tidy(&self) {
        let spare = self.core.lock().broker.tidy();
        drop(spare);
    }

    /// Waiters and pools, now.
    pub fn counts(&self) -> (usize, usize) {
        let core = self.core.lock();
        (core.broker.waiters_len(), core.broker.pools_len())
    }

    /// All pools that the filter selects.
    pub fn pools(&self, filter: &Filter) -> Vec<PoolView> {
        let mut rows = Vec::new();
        let mut from = Some(0);
        while let Some(at) = from {
            let now = self.now();
            let page = self.core.lock().broker.pools_page(filter, now, at, POOLS);
            rows.extend(page.rows);
            from = page.next;
        }
        rows
    }

    /// At most `most` waiters that the filter selects, from the place where the last page ended.
    pub fn waiters(&self, filter: &Filter, from: usize, most: usize) -> Page<WaiterView> {
        let most = most.max(1);
        let mut found = Page { rows: Vec::new(), next: Some(u32::try_from(from).unwrap_or(u32::MAX)) };
        while let Some(at) = found.next.filter(|_| found.rows.len() < most) {
            let now = self.now();
            // Few of the places may be selected: how many are looked at has nothing to do with how many rows are wanted.
            let wanted = (most - found.rows.len()).min(BATCH);
            let page = self.core.lock().broker.waiters_page(filter, now, at, SCAN, wanted);
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
            self.ended(End::ClientGone, taken);
        }
        taken.is_some()
    }

    /// A waiter was taken out.
    fn ended(&self, end: End, taken: &Taken<W>) {
        self.metrics.poll_ended(end, taken.held);
        if self.journal.wants_polls() {
            self.journal.record(PollEvent::ended(&taken.controller, end, taken.held));
        }
    }

    /// Takes in batches until there are no more to look at, and acts on each batch with the lock let go.
    fn take_all(
        &self,
        end: End,
        mut take: impl FnMut(&mut Core<W>, Moment) -> (Vec<Taken<W>>, bool),
        mut act: impl FnMut(Taken<W>),
    ) -> usize {
        let mut count = 0;
        loop {
            let now = self.now();
            let (batch, goes_on) = take(&mut self.core.lock(), now);
            count += batch.len();
            for taken in batch {
                self.ended(end, &taken);
                act(taken);
            }
            if !goes_on {
                return count;
            }
        }
    }
}

impl<W> Exchange<W> {
    fn give_up_hope(&self, ask: &Ask<'_>) {
        let wake = self.core.lock().hopes.part(ask);
        if let Some(wake) = wake {
            wake.notify_one();
        }
    }
}

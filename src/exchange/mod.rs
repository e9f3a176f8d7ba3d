//! Owns the one lock around the core, the clock that the core is told, and who is woken when somebody parks.

mod hope;
mod repeats;
mod sync;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ahash::RandomState;

use crate::broker::{
    Ask, Broker, Filter, Full, Limits, Machine, Mark, Moment, Offer, Page, Parked, Pick, PoolView, Taken,
    Ticket, WaiterId, WaiterView,
};
use crate::journal::{Event, Journal, Poll};
use crate::metrics::{End, Metrics};

pub use hope::Hope;
use hope::Hopes;
pub use repeats::{Content, First, Repeats, Seen};
use sync::{AtomicBool, Mutex};

/// So many waiters are taken, or places looked at, before the lock is let go for others.
const BATCH: usize = 256;

/// Who comes to a draining broker is held for one to three times as long, by chance, before it is sent on. Where no other
/// broker takes over it comes back at once, and a client follows no more than 20 redirects in one poll's time.
const HELD_IN_A_DRAIN: Duration = Duration::from_secs(5);

/// The core as threads share it. `W` is what transport needs to reach a waiter.
pub struct Exchange<W> {
    core: Mutex<Core<W>>,
    epoch: Instant,
    machines: RandomState,
    any_suspect: AtomicBool,
    metrics: Arc<Metrics>,
    journal: Arc<Journal>,
}

struct Core<W> {
    broker: Broker<W>,
    hopes: Hopes,
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
        let core = Core { broker: Broker::new(limits, pick), hopes: Hopes::default() };
        Self {
            core: Mutex::new(core),
            epoch: Instant::now(),
            machines: RandomState::new(),
            any_suspect: AtomicBool::new(false),
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
            self.journal.polls_are_read().then(|| Poll::began(ticket.key.as_ref(), &ticket.controller));
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
                    self.journal.tell(told);
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
        let offer = self.core.lock().broker.offer(ask, now);
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
        self.take_all(end, |broker, now| broker.expire(now, BATCH), act);
    }

    /// Takes out everyone who stands in the selected pools now.
    pub fn retire(&self, filter: &Filter, act: impl FnMut(Taken<W>)) -> usize {
        let before = self.core.lock().broker.mark();
        let retired =
            self.take_all(End::Retired, |broker, now| broker.retire(filter, before, now, BATCH), act);
        self.journal.tell(Event::Retire(Box::new(filter.clone()), retired));
        retired
    }

    /// Answers every offer from here on with a miss.
    pub fn drain(&self) {
        let (hopes, waiters) = {
            let mut core = self.core.lock();
            core.broker.drain();
            (core.hopes.all(), core.broker.waiters_len())
        };
        self.journal.tell(Event::Drain(waiters));
        for wake in hopes {
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
        let (before, standing) = {
            let core = self.core.lock();
            let Some(before) = core.broker.draining() else { return };
            (before, core.broker.waiters_before(before))
        };
        self.drain_before(before, share(standing), act);
    }

    /// Of a draining broker, takes out everyone who stands now.
    pub fn drain_all(&self, act: impl FnMut(Taken<W>)) {
        let now = self.core.lock().broker.mark();
        self.drain_before(now, usize::MAX, act);
    }

    fn drain_before(&self, before: Mark, mut most: usize, act: impl FnMut(Taken<W>)) {
        let take = |broker: &mut Broker<W>, now| {
            let taken = broker.take_any(before, now, most.min(BATCH));
            most -= taken.len();
            taken
        };
        self.take_all(End::Drained, take, act);
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
    }

    /// A machine proved a run: it is suspect no more.
    pub fn trust(&self, machine: Machine) {
        // Nearly always there is no suspect, and then no lock is needed to know it.
        if self.any_suspect.load(Ordering::Relaxed) {
            self.core.lock().broker.trust(machine);
        }
    }

    /// Clears suspects of which a waiter `shows_life`, given how long ago they became suspect.
    pub fn review_suspects(&self, shows_life: impl Fn(&W, Duration) -> bool) {
        if self.any_suspect.load(Ordering::Relaxed) {
            let now = self.now();
            let mut core = self.core.lock();
            let any = core.broker.review_suspects(now, shows_life);
            // Stored under the lock, so that no suspicion that comes meanwhile is overlooked.
            self.any_suspect.store(any, Ordering::Relaxed);
        }
    }

    /// Gives back the room of a crowd that has left.
    pub fn tidy(&self) {
        self.core.lock().broker.tidy();
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
            let page = self.core.lock().broker.pools_page(filter, now, at, BATCH);
            rows.extend(page.rows);
            from = page.next;
        }
        rows
    }

    /// At most `most` waiters that the filter selects, from the place where the last page ended.
    pub fn waiters(&self, filter: &Filter, from: usize, most: usize) -> Page<WaiterView> {
        let most = most.max(1);
        let mut found = Page { rows: Vec::new(), next: Some(from) };
        while let Some(at) = found.next.filter(|_| found.rows.len() < most) {
            let now = self.now();
            // Few of the places may be selected: how many are looked at has nothing to do with how many rows are wanted.
            let wanted = most - found.rows.len();
            let page = self.core.lock().broker.waiters_page(filter, now, at, BATCH, wanted);
            found.rows.extend(page.rows);
            found.next = page.next;
        }
        found
    }

    /// Checks the whole core, by the invariants' numbers.
    #[cfg(feature = "races")]
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
        if self.journal.polls_are_read() {
            self.journal.tell(Poll::ended(&taken.controller, end, taken.held));
        }
    }

    /// Takes in batches, and acts on each batch with the lock let go.
    fn take_all(
        &self,
        end: End,
        mut take: impl FnMut(&mut Broker<W>, Moment) -> Vec<Taken<W>>,
        mut act: impl FnMut(Taken<W>),
    ) -> usize {
        let mut count = 0;
        loop {
            let now = self.now();
            let batch = take(&mut self.core.lock().broker, now);
            if batch.is_empty() {
                return count;
            }
            count += batch.len();
            for taken in batch {
                self.ended(end, &taken);
                act(taken);
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

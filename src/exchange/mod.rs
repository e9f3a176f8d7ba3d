//! Owns the one lock around the core, the clock that the core is told, and who is woken when somebody parks.

mod hope;
mod repeats;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::broker::{
    Ask, Broker, Filter, Full, KeyRef, Limits, Moment, Offer, Page, Parked, Pick, PoolView, Taken, Ticket,
    WaiterId, WaiterView,
};
use crate::metrics::{End, Metrics};

pub use hope::Hope;
use hope::Hopes;
pub use repeats::{First, Repeats, Seen};

/// So many waiters are taken, or places looked at, before the lock is let go for others.
const BATCH: usize = 256;

/// The core as threads share it. `W` is what transport needs to reach a waiter.
pub struct Exchange<W> {
    core: Mutex<Core<W>>,
    epoch: Instant,
    metrics: Arc<Metrics>,
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
    pub fn new(limits: Limits, pick: Pick, metrics: Arc<Metrics>) -> Self {
        let core = Core { broker: Broker::new(limits, pick), hopes: Hopes::default() };
        Self { core: Mutex::new(core), epoch: Instant::now(), metrics }
    }

    /// Microseconds since the exchange began, as the core counts them.
    pub fn now(&self) -> Moment {
        Moment::from_micros(u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Gives a held request its place. The older waiter that it replaces, if any, is the caller's to end.
    pub fn park(self: &Arc<Self>, ticket: Ticket<W>) -> Result<(Place<W>, Option<Taken<W>>), Full> {
        let now = self.now();
        let parked = {
            let mut core = self.core.lock();
            core.hopes.somebody_comes(ticket.key.as_ref());
            core.broker.park(ticket, now)
        };
        let Parked { id, replaced } = parked.inspect_err(|_| self.metrics.poll_refused())?;
        if let Some(replaced) = &replaced {
            self.metrics.poll_ended(End::Replaced, replaced.held);
        }
        Ok((Place { exchange: self.clone(), id, stands: true }, replaced))
    }

    /// Takes out a waiter for a run. It is the caller's to write to, and to end.
    pub fn offer(&self, ask: &Ask<'_>) -> Offer<W> {
        let now = self.now();
        let offer = self.core.lock().broker.offer(ask, now);
        if let Offer::Matched(taken) = &offer {
            self.metrics.poll_ended(End::Matched, taken.held);
        }
        offer
    }

    /// Registers a run that is ready to wait for a controller of this key to come.
    pub fn hope(self: &Arc<Self>, key: KeyRef<'_>) -> Hope<W> {
        let wake = self.core.lock().hopes.join(key);
        Hope::new(self.clone(), key.into(), wake)
    }

    /// Takes out those whose deadline has come.
    pub fn expire(&self, act: impl FnMut(Taken<W>)) {
        self.take_all(End::Expired, |broker, now| broker.expire(now, BATCH), act);
    }

    /// Takes out everyone in the selected pools.
    pub fn retire(&self, filter: &Filter, act: impl FnMut(Taken<W>)) -> usize {
        self.take_all(End::Retired, |broker, now| broker.retire(filter, now, BATCH), act)
    }

    /// Answers every offer from here on with a miss.
    pub fn drain(&self) {
        self.core.lock().broker.drain();
        self.metrics.draining.set(1);
    }

    /// Takes out `most` waiters of a draining broker, whichever.
    pub fn drain_some(&self, mut most: usize, act: impl FnMut(Taken<W>)) -> usize {
        self.take_all(
            End::Drained,
            |broker, now| {
                let taken = broker.take_any(now, most.min(BATCH));
                most -= taken.len();
                taken
            },
            act,
        )
    }

    /// Waiters and pools, now.
    pub fn counts(&self) -> (usize, usize) {
        let core = self.core.lock();
        (core.broker.waiters_len(), core.broker.pools_len())
    }

    /// Whether offers are answered with misses because the broker ends.
    pub fn is_draining(&self) -> bool {
        self.core.lock().broker.is_draining()
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

    /// About `most` waiters that the filter selects, from the place where the last page ended.
    pub fn waiters(&self, filter: &Filter, from: usize, most: usize) -> Page<WaiterView> {
        let mut found = Page { rows: Vec::new(), next: Some(from) };
        while let Some(at) = found.next.filter(|_| found.rows.len() < most) {
            let now = self.now();
            let scan = BATCH.min(most - found.rows.len());
            let page = self.core.lock().broker.waiters_page(filter, now, at, scan);
            found.rows.extend(page.rows);
            found.next = page.next;
        }
        found
    }

    fn leave(&self, id: WaiterId) -> bool {
        let now = self.now();
        let taken = self.core.lock().broker.leave(id, now);
        if let Some(taken) = &taken {
            self.metrics.poll_ended(End::ClientGone, taken.held);
        }
        taken.is_some()
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
                self.metrics.poll_ended(end, taken.held);
                act(taken);
            }
        }
    }
}

/// How a hope says that a run waits; kept here because it needs the lock.
impl<W> Exchange<W> {
    fn give_up_hope(&self, key: KeyRef<'_>) {
        self.core.lock().hopes.part(key);
    }

    /// For deadlines that lie outside the core.
    pub fn moment_in(&self, later: Duration) -> Moment {
        self.now().plus(later)
    }
}

//! Owns the core: who waits in which pool, and who gets what. No clock, task, socket, lock, serde or log.
//!
//! ```text
//!            park                 offer
//! (outside) ─────► ready ────────────────────► taken
//!                    │ ▲ suspect, trusted        ▲
//!                    │ retire guard passed       │
//!                    ▼                           │ leave, expire, retire, drain, replaced
//!                   late ────────────────────────┘
//! ```
//! Whoever takes a waiter out owns its ending; so exactly one of match, expiry, drain, retirement,
//! replacement and departure wins.
//!
//! Invariants, by the numbers that the code asserts:
//! - **I1** an offer takes at most one waiter, and a taken waiter is offered nothing more.
//! - **I4** a waiter stands in exactly one pool and on exactly one shelf, once.
//! - **I5** a waiter leaves only by match, departure, expiry, drain, retirement or replacement.
//! - **I6** the waiters counted are the waiters that stand, and no pool is empty.
//! - **I8** parked = standing + taken.
//! - **I9** a match has equal canonical keys.

mod chain;
mod chunks;
mod key;
mod limits;
mod miss;
mod moment;
mod places;
mod pool;
mod sharded;
mod suspects;
#[cfg(test)]
mod tests;
mod ticket;
mod view;
mod wheel;

use std::net::IpAddr;

use ahash::RandomState;

use chain::{Kind, Link, Linked};
use chunks::Chunks;
pub use key::{Filter, Key, KeyError, KeyRef, Number, check_part};
pub use limits::{Full, Limits, Pick};
use miss::Kin;
pub use miss::Miss;
pub use moment::Moment;
use pool::{Pool, Shelf, Steps};
pub(crate) use sharded::Sharded;
use suspects::Suspects;
pub use suspects::{Machine, Suspicion};
pub use ticket::{Accepts, Ask, LookAgain, Mark, Offer, Parked, Taken, Ticket, WaiterId};
use view::page;
pub use view::{Page, PoolView, WaiterView};
use wheel::{Timed, Wheel};

#[expect(clippy::struct_field_names, reason = "the shell's waiter, inside the core's")]
struct Waiter<W> {
    serial: u64,
    pool: u32,
    shelf: Shelf,
    controller: Box<str>,
    origin: IpAddr,
    machine: Machine,
    since: Moment,
    offer_until: Moment,
    deadline: Moment,
    links: [Link; 2],
    waiter: W,
}

impl<W> Linked for Waiter<W> {
    fn link(&mut self, kind: Kind) -> &mut Link {
        &mut self.links[kind as usize]
    }

    fn next(&self, kind: Kind) -> Link {
        self.links[kind as usize]
    }
}

impl<W> Timed for Waiter<W> {
    fn deadline(&self) -> Moment {
        self.deadline
    }
}

/// The parts of the index of controllers: at 100,000 waiters one that grows moves about 100 entries.
const CONTROLLER_PARTS: usize = 1024;
/// The parts of the indexes of pools.
const POOL_PARTS: usize = 256;

/// A drain: who stood when it began, and how many of them still stand.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// They were parked before this mark.
    pub before: Mark,
    /// How many of them still stand.
    pub standing: usize,
}

/// The pools and everyone who waits in them.
pub struct Broker<W> {
    limits: Limits,
    pick: Pick,
    draining: Option<Drain>,
    now: Moment,
    parked: u64,
    taken: u64,
    hasher: RandomState,
    waiters: Chunks<Waiter<W>>,
    pools: Chunks<Pool>,
    by_key: Sharded<u32>,
    by_controller: Sharded<u32>,
    kin: Kin,
    suspects: Suspects,
    wheel: Wheel,
}

impl<W> Broker<W> {
    /// An empty broker.
    pub fn new(limits: Limits, pick: Pick) -> Self {
        Self {
            limits,
            pick,
            draining: None,
            now: Moment::default(),
            parked: 0,
            taken: 0,
            hasher: RandomState::new(),
            waiters: Chunks::new(),
            pools: Chunks::new(),
            by_key: Sharded::new(POOL_PARTS),
            by_controller: Sharded::new(CONTROLLER_PARTS),
            kin: Kin::new(),
            suspects: Suspects::default(),
            wheel: Wheel::new(),
        }
    }

    /// Gives a held request its place, newest in its pool; or hands the ticket back because a limit is reached.
    pub fn park(&mut self, ticket: Ticket<W>, now: Moment) -> Result<Parked<W>, (Full, Ticket<W>)> {
        let now = self.observe(now);
        let hash = self.hasher.hash_one(ticket.key.as_ref());
        let found = self.find_pool(hash, ticket.key.as_ref());
        let older = found.and_then(|pool| self.find_controller(pool, &ticket.controller, ticket.origin));
        if older.is_none()
            && let Err(full) = self.admit(found)
        {
            return Err((full, ticket));
        }
        // Seated before the older one goes: a pool whose only waiter is replaced must not vanish in between.
        let pool = found.unwrap_or_else(|| self.open_pool(hash, ticket.key.clone()));
        let id = self.seat(pool, ticket, now);
        let replaced = older.map(|older| self.take(older));
        self.remember_controller(id.slot);
        self.assert_conserved();
        Ok(Parked { id, replaced })
    }

    /// Takes a waiter out by its name, if it still stands.
    pub fn leave(&mut self, id: WaiterId, now: Moment) -> Option<Taken<W>> {
        self.observe(now);
        let stands = self.waiters.get(id.slot).is_some_and(|w| w.serial == id.serial);
        stands.then(|| self.take(id.slot))
    }

    /// Finds a waiter for a run and takes it out. If more than `most` have to be set aside or taken back before, it is
    /// to be called again, after others have had their turn.
    pub fn offer(&mut self, ask: &Ask<'_>, now: Moment, most: usize) -> Result<Offer<W>, LookAgain> {
        let now = self.observe(now);
        if self.draining.is_some() {
            return Ok(Offer::Cold(Miss::Draining));
        }
        let hash = self.hasher.hash_one(ask.key);
        let Some(pool) = self.find_pool(hash, ask.key) else {
            return Ok(Offer::Cold(self.kin.miss(&self.hasher, ask.key, hash, now)));
        };
        let mut steps = Steps(most);
        while let Some(at) = self.next_of(pool, ask.is_message, &mut steps)? {
            if self.waiters[at].offer_until <= now {
                // It stands until its deadline, but is offered nothing any more.
                steps.take()?;
                self.pools[pool].reshelve(&mut self.waiters, at, Shelf::Late);
                continue;
            }
            debug_assert!(self.pools[pool].key.as_ref() == ask.key, "I9");
            let taken = self.take(at);
            if self.pools.get(pool).is_none() {
                self.kin.emptied(hash, now);
            }
            return Ok(Offer::Matched(taken));
        }
        let stock = [Shelf::Message, Shelf::SuspectMessage];
        let stock_waits = stock.iter().any(|&shelf| !self.pools[pool].shelf(shelf).is_empty());
        let only_stock = !ask.is_message && stock_waits;
        Ok(Offer::Cold(if only_stock { Miss::NotAMessage } else { Miss::AllTaken }))
    }

    /// The next waiter to try: the trusted by age, then the suspects.
    fn next_of(&mut self, pool: u32, is_message: bool, steps: &mut Steps) -> Result<Option<u32>, LookAgain> {
        let Self { waiters, suspects, now, .. } = self;
        let room = &mut self.pools[pool];
        let is_suspect = |machine| suspects.contains(machine, *now);
        room.readmit(waiters, suspects.cleared(), |machine| !is_suspect(machine), steps)?;
        while let Some(at) = room.pick(waiters, self.pick, is_message) {
            let Waiter { machine, shelf, .. } = waiters[at];
            if !is_suspect(machine) {
                return Ok(Some(at));
            }
            steps.take()?;
            room.reshelve(waiters, at, shelf.suspect());
        }
        Ok(room.pick_suspect(waiters, self.pick, is_message))
    }

    /// A machine did not prove the run it was offered: its waiters are offered runs last.
    pub fn suspect(&mut self, machine: Machine, now: Moment) {
        let now = self.observe(now);
        self.suspects.suspect(machine, now);
    }

    /// A machine proved a run: it is suspect no more.
    pub fn trust(&mut self, machine: Machine) {
        self.suspects.trust(machine, self.now);
    }

    /// Whoever of the next `scan` waiters from `from` on is suspect, as `see` shows it.
    pub fn suspects_page<V>(&self, from: u32, scan: u32, see: impl Fn(Suspicion, &W) -> V) -> Page<V> {
        page(&self.waiters, from, scan, usize::MAX, |_, waiter| {
            self.suspects.of(waiter.machine).map(|suspicion| see(suspicion, &waiter.waiter))
        })
    }

    /// A waiter has shown life since this suspicion arose: it is cleared.
    pub fn shows_life(&mut self, suspicion: Suspicion, now: Moment) {
        let now = self.observe(now);
        self.suspects.clear(suspicion, now);
    }

    /// Clears suspects of long ago. Returns whether any is left.
    pub fn forget_old_suspects(&mut self, now: Moment) -> bool {
        let now = self.observe(now);
        self.suspects.forget_old(now);
        !self.suspects.is_empty()
    }

    /// Takes out waiters whose deadline has come, `most` at a time of the next `scan` by deadline. Also says whether
    /// there are more to look at: whose deadline had come at the first look is out after the last.
    pub fn expire(&mut self, now: Moment, scan: usize, most: usize) -> (Vec<Taken<W>>, bool) {
        let now = self.observe(now);
        let (due, goes_on) = self.wheel.due(&self.waiters, now, scan, most);
        (due.into_iter().map(|at| self.take(at)).collect(), goes_on)
    }

    /// Takes out those of the next `scan` waiters from `from` on that were parked before the mark, in a pool that the
    /// filter selects, `most` at a time. Whoever is parked meanwhile is behind the mark, so the pages miss nobody.
    pub fn take_before(
        &mut self,
        before: Mark,
        filter: &Filter,
        now: Moment,
        from: u32,
        scan: u32,
        most: usize,
    ) -> Page<Taken<W>> {
        self.observe(now);
        let Page { rows, next } = page(&self.waiters, from, scan, most, |at, waiter| {
            let is_chosen = waiter.serial <= before.0 && filter.selects(&self.pools[waiter.pool].key);
            is_chosen.then_some(at)
        });
        Page { rows: rows.into_iter().map(|at| self.take(at)).collect(), next }
    }

    /// Takes out the room of a crowd that has left, for the caller to drop where it holds nobody up.
    #[must_use = "it is dropped with the lock let go"]
    pub fn tidy(&mut self) -> impl Sized + use<W> {
        (
            self.waiters.tidy(),
            self.pools.tidy(),
            self.by_key.tidy(),
            self.by_controller.tidy(),
            self.kin.tidy(),
        )
    }

    /// From here on every offer is answered with [`Miss::Draining`]. There is no way back.
    pub fn drain(&mut self) {
        let drain = Drain { before: self.mark(), standing: self.waiters.len() };
        self.draining.get_or_insert(drain);
    }

    /// Everyone who stands now was parked before this mark; whoever comes later was not.
    pub fn mark(&self) -> Mark {
        Mark(self.parked)
    }

    /// The drain; none while the broker serves.
    pub fn draining(&self) -> Option<Drain> {
        self.draining
    }

    /// Waiters that stand.
    pub fn waiters_len(&self) -> usize {
        self.waiters.len()
    }

    /// Pools with at least one waiter.
    pub fn pools_len(&self) -> usize {
        self.pools.len()
    }

    /// Threads read the clock before they get the lock, so `now` may come a little late; time never runs back.
    fn observe(&mut self, now: Moment) -> Moment {
        self.now = self.now.max(now);
        self.now
    }

    fn admit(&self, pool: Option<u32>) -> Result<(), Full> {
        if self.waiters.len() >= self.limits.waiters {
            return Err(Full::Waiters);
        }
        match pool {
            Some(pool) if self.pools[pool].len() >= self.limits.waiters_per_pool => Err(Full::Pool),
            None if self.limits.waiters_per_pool == 0 => Err(Full::Pool),
            None if self.pools.len() >= self.limits.pools => Err(Full::Pools),
            _ => Ok(()),
        }
    }

    fn assert_conserved(&self) {
        debug_assert_eq!(self.parked, self.taken + self.waiters.len() as u64, "I8");
    }
}

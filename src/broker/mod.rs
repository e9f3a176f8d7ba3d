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
mod key;
mod limits;
mod miss;
mod moment;
mod places;
mod pool;
mod suspects;
mod ticket;
mod view;
mod wheel;

use std::net::IpAddr;
use std::time::Duration;

use ahash::RandomState;
use hashbrown::HashTable;
use slab::Slab;

use chain::{Kind, Link, Linked};
pub use key::{Filter, Key, KeyError, KeyRef, Number, check_part};
pub use limits::{Full, Limits, Pick};
use miss::Kin;
pub use miss::Miss;
pub use moment::Moment;
use places::index;
use pool::{Pool, Shelf};
pub use suspects::Machine;
use suspects::Suspects;
pub use ticket::{Accepts, Ask, Mark, Offer, Parked, Taken, Ticket, WaiterId};
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

/// An empty table of so many entries is not worth giving back.
const ROOM_KEPT: usize = 256;

/// The pools and everyone who waits in them.
pub struct Broker<W> {
    limits: Limits,
    pick: Pick,
    draining: Option<Mark>,
    now: Moment,
    parked: u64,
    taken: u64,
    hasher: RandomState,
    waiters: Slab<Waiter<W>>,
    pools: Slab<Pool>,
    by_key: HashTable<u32>,
    by_controller: HashTable<u32>,
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
            waiters: Slab::new(),
            pools: Slab::new(),
            by_key: HashTable::new(),
            by_controller: HashTable::new(),
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
        let stands = self.waiters.get(id.slot as usize).is_some_and(|w| w.serial == id.serial);
        stands.then(|| self.take(id.slot))
    }

    /// Finds a waiter for a run and takes it out.
    pub fn offer(&mut self, ask: &Ask<'_>, now: Moment) -> Offer<W> {
        let now = self.observe(now);
        if self.draining.is_some() {
            return Offer::Cold(Miss::Draining);
        }
        let hash = self.hasher.hash_one(ask.key);
        let Some(pool) = self.find_pool(hash, ask.key) else {
            return Offer::Cold(self.kin.miss(&self.hasher, ask.key, hash, now));
        };
        while let Some(at) = self.next_of(pool, ask.is_message) {
            if self.waiters[at as usize].offer_until <= now {
                // It stands until its deadline, but is offered nothing any more.
                self.pools[pool as usize].reshelve(&mut self.waiters, at, Shelf::Late);
                continue;
            }
            debug_assert!(self.pools[pool as usize].key.as_ref() == ask.key, "I9");
            let taken = self.take(at);
            if !self.pools.contains(pool as usize) {
                self.kin.emptied(hash, now);
            }
            return Offer::Matched(taken);
        }
        let stock = [Shelf::Message, Shelf::SuspectMessage];
        let stock_waits = stock.iter().any(|&shelf| !self.pools[pool as usize].shelf(shelf).is_empty());
        let only_stock = !ask.is_message && stock_waits;
        Offer::Cold(if only_stock { Miss::NotAMessage } else { Miss::AllTaken })
    }

    /// The next waiter to try: the trusted by age, then the suspects.
    fn next_of(&mut self, pool: u32, is_message: bool) -> Option<u32> {
        let Self { waiters, suspects, .. } = self;
        let room = &mut self.pools[pool as usize];
        room.readmit(waiters, suspects.cleared(), |machine| !suspects.contains(machine));
        while let Some(at) = room.pick(waiters, self.pick, is_message) {
            let Waiter { machine, shelf, .. } = waiters[at as usize];
            if !suspects.contains(machine) {
                return Some(at);
            }
            room.reshelve(waiters, at, shelf.suspect());
        }
        room.pick_suspect(waiters, self.pick, is_message)
    }

    /// A machine did not prove the run it was offered: its waiters are offered runs last.
    pub fn suspect(&mut self, machine: Machine, now: Moment) {
        let now = self.observe(now);
        self.suspects.suspect(machine, now);
    }

    /// A machine proved a run: it is suspect no more.
    pub fn trust(&mut self, machine: Machine) {
        self.suspects.trust(machine);
    }

    /// Clears suspects of which a waiter `shows_life` since they became suspect, and those of long ago. Returns
    /// whether any is left. Costs O(waiters), and nothing while nobody is suspect.
    pub fn review_suspects(&mut self, now: Moment, shows_life: impl Fn(&W, Duration) -> bool) -> bool {
        let now = self.observe(now);
        let waiters = self.waiters.iter().map(|(_, waiter)| (waiter.machine, &waiter.waiter));
        self.suspects.review(now, waiters, shows_life);
        !self.suspects.is_empty()
    }

    /// Takes out waiters whose deadline has come, `most` at a time.
    pub fn expire(&mut self, now: Moment, most: usize) -> Vec<Taken<W>> {
        let now = self.observe(now);
        let due = self.wheel.due(&self.waiters, now, most);
        due.into_iter().map(|at| self.take(at)).collect()
    }

    /// Takes out waiters of the selected pools that were parked before the mark, `most` at a time.
    pub fn retire(&mut self, filter: &Filter, before: Mark, now: Moment, most: usize) -> Vec<Taken<W>> {
        self.observe(now);
        let pools = self.pools.iter().filter(|(_, pool)| filter.selects(&pool.key));
        let members = pools.flat_map(|(_, pool)| pool.members(&self.waiters));
        let chosen: Vec<u32> =
            members.filter(|&at| self.waiters[at as usize].serial <= before.0).take(most).collect();
        chosen.into_iter().map(|at| self.take(at)).collect()
    }

    /// Gives back the room of a crowd that has left.
    pub fn tidy(&mut self) {
        if self.waiters.is_empty() && self.waiters.capacity() > ROOM_KEPT {
            self.waiters = Slab::new();
            self.by_controller = HashTable::new();
            self.kin.tidy();
        }
        if self.pools.is_empty() && self.pools.capacity() > ROOM_KEPT {
            self.pools = Slab::new();
            self.by_key = HashTable::new();
        }
    }

    /// From here on every offer is answered with [`Miss::Draining`]. There is no way back.
    pub fn drain(&mut self) {
        self.draining.get_or_insert(Mark(self.parked));
    }

    /// Takes out any `most` waiters that were parked before the mark: the goodbyes of a drain.
    pub fn take_any(&mut self, before: Mark, now: Moment, most: usize) -> Vec<Taken<W>> {
        self.observe(now);
        let standing = self.waiters.iter().filter(|(_, waiter)| waiter.serial <= before.0);
        let chosen: Vec<u32> = standing.take(most).map(|(at, _)| index(at)).collect();
        chosen.into_iter().map(|at| self.take(at)).collect()
    }

    /// Everyone who stands now was parked before this mark; whoever comes later was not.
    pub fn mark(&self) -> Mark {
        Mark(self.parked)
    }

    /// The mark of the moment when draining began; none while the broker serves.
    pub fn draining(&self) -> Option<Mark> {
        self.draining
    }

    /// Waiters that were parked before the mark and still stand. Costs O(waiters).
    pub fn waiters_before(&self, mark: Mark) -> usize {
        self.waiters.iter().filter(|(_, waiter)| waiter.serial <= mark.0).count()
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
            Some(pool) if self.pools[pool as usize].len() >= self.limits.waiters_per_pool => Err(Full::Pool),
            None if self.limits.waiters_per_pool == 0 => Err(Full::Pool),
            None if self.pools.len() >= self.limits.pools => Err(Full::Pools),
            _ => Ok(()),
        }
    }

    fn assert_conserved(&self) {
        debug_assert_eq!(self.parked, self.taken + self.waiters.len() as u64, "I8");
    }
}

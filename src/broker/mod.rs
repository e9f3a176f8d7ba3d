//! Owns the core: who waits in which pool, and who gets what. No clock, task, socket, lock, serde or log.
//!
//! ```text
//!            park                 offer
//! (outside) ─────► ready ────────────────────► taken
//!                    │  retire guard passed      ▲
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
mod pool;
mod ticket;
mod view;
mod wheel;

use std::net::IpAddr;

use ahash::RandomState;
use hashbrown::HashTable;
use slab::Slab;

use chain::{Kind, Link, Linked};
pub use key::{Filter, Key, KeyError, KeyRef, MAX_NUMBER, MAX_PART_BYTES, Number, check_part};
pub use limits::{Full, Limits, Pick};
use miss::Kin;
pub use miss::Miss;
pub use moment::Moment;
use pool::{Pool, Shelf};
pub use ticket::{Accepts, Ask, Offer, Parked, Taken, Ticket, WaiterId};
pub use view::{Page, PoolView, WaiterView};
use wheel::{Timed, Wheel};

#[expect(clippy::struct_field_names, reason = "the shell's waiter, inside the core's")]
struct Waiter<W> {
    serial: u64,
    pool: u32,
    shelf: Shelf,
    controller: Box<str>,
    origin: IpAddr,
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

/// The pools and everyone who waits in them.
pub struct Broker<W> {
    limits: Limits,
    pick: Pick,
    draining: bool,
    now: Moment,
    parked: u64,
    taken: u64,
    hasher: RandomState,
    waiters: Slab<Waiter<W>>,
    pools: Slab<Pool>,
    by_key: HashTable<u32>,
    by_controller: HashTable<u32>,
    kin: Kin,
    wheel: Wheel,
}

impl<W> Broker<W> {
    /// An empty broker.
    pub fn new(limits: Limits, pick: Pick) -> Self {
        Self {
            limits,
            pick,
            draining: false,
            now: Moment::default(),
            parked: 0,
            taken: 0,
            hasher: RandomState::new(),
            waiters: Slab::new(),
            pools: Slab::new(),
            by_key: HashTable::new(),
            by_controller: HashTable::new(),
            kin: Kin::new(),
            wheel: Wheel::new(),
        }
    }

    /// Gives a held request its place, newest in its pool.
    pub fn park(&mut self, ticket: Ticket<W>, now: Moment) -> Result<Parked<W>, Full> {
        let now = self.observe(now);
        let hash = self.hasher.hash_one(ticket.key.as_ref());
        let found = self.find_pool(hash, ticket.key.as_ref());
        let older = found.and_then(|pool| self.find_controller(pool, &ticket.controller, ticket.origin));
        if older.is_none() {
            self.admit(found)?;
        }
        // The pool is found or made first: replacing its only waiter must not make it vanish in between.
        let pool = found.unwrap_or_else(|| self.open_pool(hash, ticket.key));
        let at = self.seat(
            pool,
            now,
            ticket.accepts,
            Seat {
                controller: ticket.controller,
                origin: ticket.origin,
                offer_until: ticket.offer_until,
                deadline: ticket.deadline.max(now),
                waiter: ticket.waiter,
            },
        );
        let replaced = older.map(|older| self.take(older));
        self.remember_controller(at);
        self.assert_conserved();
        Ok(Parked { id: self.id(at), replaced })
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
        if self.draining {
            return Offer::Cold(Miss::Draining);
        }
        let hash = self.hasher.hash_one(ask.key);
        let Some(pool) = self.find_pool(hash, ask.key) else {
            return Offer::Cold(self.kin.miss(&self.hasher, ask.key, hash, now));
        };
        while let Some(at) = self.pools[pool as usize].pick(&self.waiters, self.pick, ask.is_message) {
            if self.waiters[at as usize].offer_until <= now {
                self.shelve_late(at);
                continue;
            }
            debug_assert!(self.pools[pool as usize].key.as_ref() == ask.key, "I9");
            let taken = self.take(at);
            if !self.pools.contains(pool as usize) {
                self.kin.emptied(hash, now);
            }
            return Offer::Matched(taken);
        }
        let only_stock = !ask.is_message && !self.pools[pool as usize].shelf(Shelf::Message).is_empty();
        Offer::Cold(if only_stock { Miss::NotAMessage } else { Miss::AllTaken })
    }

    /// Takes out waiters whose deadline has come, `most` at a time.
    pub fn expire(&mut self, now: Moment, most: usize) -> Vec<Taken<W>> {
        let now = self.observe(now);
        let due = self.wheel.due(&self.waiters, now, most);
        due.into_iter().map(|at| self.take(at)).collect()
    }

    /// Takes out waiters of the selected pools, `most` at a time, until none is left.
    pub fn retire(&mut self, filter: &Filter, now: Moment, most: usize) -> Vec<Taken<W>> {
        self.observe(now);
        let mut chosen = Vec::new();
        for (_, pool) in self.pools.iter().filter(|(_, pool)| filter.selects(&pool.key)) {
            chosen.extend(pool.members(&self.waiters).take(most - chosen.len()));
            if chosen.len() == most {
                break;
            }
        }
        chosen.into_iter().map(|at| self.take(at)).collect()
    }

    /// From here on every offer is answered with [`Miss::Draining`]. There is no way back.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Takes out any `most` waiters, in no particular order: the goodbyes of a drain.
    pub fn take_any(&mut self, now: Moment, most: usize) -> Vec<Taken<W>> {
        self.observe(now);
        let chosen: Vec<u32> = self.waiters.iter().take(most).map(|(at, _)| index(at)).collect();
        chosen.into_iter().map(|at| self.take(at)).collect()
    }

    /// Waiters that stand.
    pub fn waiters_len(&self) -> usize {
        self.waiters.len()
    }

    /// Pools with at least one waiter.
    pub fn pools_len(&self) -> usize {
        self.pools.len()
    }

    /// Whether [`Broker::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.draining
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

    fn id(&self, at: u32) -> WaiterId {
        WaiterId { slot: at, serial: self.waiters[at as usize].serial }
    }

    fn assert_conserved(&self) {
        debug_assert_eq!(self.parked, self.taken + self.waiters.len() as u64, "I8");
    }
}

/// What a waiter brings to its place.
struct Seat<W> {
    controller: Box<str>,
    origin: IpAddr,
    offer_until: Moment,
    deadline: Moment,
    waiter: W,
}

/// Finding, opening and closing places.
impl<W> Broker<W> {
    fn find_pool(&self, hash: u64, key: KeyRef<'_>) -> Option<u32> {
        self.by_key.find(hash, |&pool| self.pools[pool as usize].key.as_ref() == key).copied()
    }

    fn open_pool(&mut self, hash: u64, key: Key) -> u32 {
        self.kin.opened(&self.hasher, key.as_ref());
        let pool = index(self.pools.insert(Pool::new(hash, key)));
        self.by_key.insert_unique(hash, pool, |&pool| self.pools[pool as usize].hash);
        pool
    }

    fn close_pool(&mut self, pool: u32) {
        let Pool { hash, key, .. } = self.pools.remove(pool as usize);
        if let Ok(entry) = self.by_key.find_entry(hash, |&other| other == pool) {
            entry.remove();
        }
        self.kin.closed(&self.hasher, key.as_ref());
    }

    fn seat(&mut self, pool: u32, now: Moment, accepts: Accepts, seat: Seat<W>) -> u32 {
        let shelf = match accepts {
            Accepts::Message => Shelf::Message,
            Accepts::Anything => Shelf::Anything,
        };
        self.parked += 1;
        let at = index(self.waiters.insert(Waiter {
            serial: self.parked,
            pool,
            shelf,
            controller: seat.controller,
            origin: seat.origin,
            since: now,
            offer_until: seat.offer_until,
            deadline: seat.deadline,
            links: [Link::LOOSE; 2],
            waiter: seat.waiter,
        }));
        self.pools[pool as usize].join(&mut self.waiters, shelf, at);
        self.wheel.insert(&mut self.waiters, at);
        at
    }

    /// The one way out: every chain, table and count is left here, and nowhere else.
    fn take(&mut self, at: u32) -> Taken<W> {
        let id = self.id(at);
        self.wheel.remove(&mut self.waiters, at);
        self.forget_controller(at);
        let Waiter { pool, shelf, .. } = self.waiters[at as usize];
        self.pools[pool as usize].part(&mut self.waiters, shelf, at);
        let waiter = self.waiters.remove(at as usize);
        if self.pools[pool as usize].len() == 0 {
            self.close_pool(pool);
        }
        self.taken += 1;
        self.assert_conserved();
        Taken { id, waiter: waiter.waiter, controller: waiter.controller, held: self.now.since(waiter.since) }
    }

    /// Past its retire guard a waiter still stands until its deadline, but is offered nothing.
    fn shelve_late(&mut self, at: u32) {
        let Waiter { pool, shelf, .. } = self.waiters[at as usize];
        self.waiters[at as usize].shelf = Shelf::Late;
        let pool = &mut self.pools[pool as usize];
        pool.part(&mut self.waiters, shelf, at);
        pool.join(&mut self.waiters, Shelf::Late, at);
    }

    fn controller_hash(&self, pool: u32, controller: &str, origin: IpAddr) -> u64 {
        self.hasher.hash_one((pool, controller, origin))
    }

    fn find_controller(&self, pool: u32, controller: &str, origin: IpAddr) -> Option<u32> {
        if controller.is_empty() {
            return None;
        }
        let hash = self.controller_hash(pool, controller, origin);
        let same = |&at: &u32| {
            let w = &self.waiters[at as usize];
            w.pool == pool && *w.controller == *controller && w.origin == origin
        };
        self.by_controller.find(hash, same).copied()
    }

    fn remember_controller(&mut self, at: u32) {
        let hash_of = |&at: &u32| {
            let w = &self.waiters[at as usize];
            self.hasher.hash_one((w.pool, &*w.controller, w.origin))
        };
        if !self.waiters[at as usize].controller.is_empty() {
            self.by_controller.insert_unique(hash_of(&at), at, hash_of);
        }
    }

    fn forget_controller(&mut self, at: u32) {
        let w = &self.waiters[at as usize];
        let hash = self.controller_hash(w.pool, &w.controller, w.origin);
        if let Ok(entry) = self.by_controller.find_entry(hash, |&other| other == at) {
            entry.remove();
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "file descriptors run out long before 32 bits do")]
fn index(at: usize) -> u32 {
    at as u32
}

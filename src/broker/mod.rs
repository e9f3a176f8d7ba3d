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

mod chunks;
mod inspect;
mod key;
mod limits;
mod list;
mod miss;
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

use std::net::IpAddr;

use ahash::RandomState;

use crate::model::MissReason;

use chunks::Chunks;
use inspect::page;
pub use inspect::{Page, PoolSummary, WaiterSummary};
pub use key::{Filter, Key, KeyError, KeyRef, Number, check_part};
pub use limits::{LimitReached, Limits, SelectionPolicy};
use list::{Link, ListKind, ListNode};
use miss::MissIndex;
pub use payload::{AcceptedPayload, PayloadKind};
use pool::{Pool, StepBudget, WaiterClass};
pub use request::{
    BudgetSpent, Claim, ClaimRequest, ParkOutcome, ParkRequest, RemovedWaiter, WaiterId, Watermark,
};
pub(crate) use sharded::Sharded;
use suspects::SuspectSet;
pub use suspects::{HostId, Suspicion};
pub use time::MonotonicTime;
use timer_wheel::{HasDeadline, TimerWheel};

#[expect(clippy::struct_field_names, reason = "the shell's waiter, inside the core's")]
struct Waiter<W> {
    serial: u64,
    pool: u32,
    class: WaiterClass,
    controller: Box<str>,
    origin: IpAddr,
    host: HostId,
    since: MonotonicTime,
    offer_until: MonotonicTime,
    deadline: MonotonicTime,
    links: [Link; 2],
    waiter: W,
}

impl<W> ListNode for Waiter<W> {
    fn link(&mut self, kind: ListKind) -> &mut Link {
        &mut self.links[kind as usize]
    }

    fn next(&self, kind: ListKind) -> Link {
        self.links[kind as usize]
    }
}

impl<W> HasDeadline for Waiter<W> {
    fn deadline(&self) -> MonotonicTime {
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
    pub before: Watermark,
    /// How many of them still stand.
    pub waiting: usize,
}

/// The pools and everyone who waits in them.
pub struct Broker<W> {
    limits: Limits,
    pick: SelectionPolicy,
    draining: Option<Drain>,
    now: MonotonicTime,
    parked: u64,
    removed: u64,
    hasher: RandomState,
    waiters: Chunks<Waiter<W>>,
    pools: Chunks<Pool>,
    by_key: Sharded<u32>,
    by_controller: Sharded<u32>,
    misses: MissIndex,
    suspects: SuspectSet,
    timers: TimerWheel,
}

impl<W> Broker<W> {
    /// An empty broker.
    pub fn new(limits: Limits, pick: SelectionPolicy) -> Self {
        Self {
            limits,
            pick,
            draining: None,
            now: MonotonicTime::default(),
            parked: 0,
            removed: 0,
            hasher: RandomState::new(),
            waiters: Chunks::new(),
            pools: Chunks::new(),
            by_key: Sharded::new(POOL_PARTS),
            by_controller: Sharded::new(CONTROLLER_PARTS),
            misses: MissIndex::new(),
            suspects: SuspectSet::default(),
            timers: TimerWheel::new(),
        }
    }

    /// Gives a held request its place, newest in its pool; or hands the ticket back because a limit is reached.
    pub fn park(
        &mut self,
        ticket: ParkRequest<W>,
        now: MonotonicTime,
    ) -> Result<ParkOutcome<W>, (LimitReached, ParkRequest<W>)> {
        let now = self.advance_clock(now);
        let hash = self.hasher.hash_one(ticket.key.as_ref());
        let found = self.find_pool(hash, ticket.key.as_ref());
        let older = found.and_then(|pool| self.find_controller(pool, &ticket.controller, ticket.origin));
        if older.is_none()
            && let Err(full) = self.check_limits(found)
        {
            return Err((full, ticket));
        }
        // Seated before the older one goes: a pool whose only waiter is replaced must not vanish in between.
        let pool = found.unwrap_or_else(|| self.open_pool(hash, ticket.key.clone()));
        let id = self.insert(pool, ticket, now);
        let replaced = older.map(|older| self.remove(older));
        self.remember_controller(id.slot);
        self.assert_conserved();
        Ok(ParkOutcome { id, replaced })
    }

    /// Takes a waiter out by its name, if it still stands.
    pub fn leave(&mut self, id: WaiterId, now: MonotonicTime) -> Option<RemovedWaiter<W>> {
        self.advance_clock(now);
        let stands = self.waiters.get(id.slot).is_some_and(|w| w.serial == id.serial);
        stands.then(|| self.remove(id.slot))
    }

    /// Finds a waiter for a run and takes it out. If more than `most` have to be set aside or taken back before, it is
    /// to be called again, after others have had their turn.
    pub fn claim(
        &mut self,
        ask: &ClaimRequest<'_>,
        now: MonotonicTime,
        most: usize,
    ) -> Result<Claim<W>, BudgetSpent> {
        let now = self.advance_clock(now);
        if self.draining.is_some() {
            return Ok(Claim::Miss(MissReason::Draining));
        }
        let hash = self.hasher.hash_one(ask.key);
        let Some(pool) = self.find_pool(hash, ask.key) else {
            return Ok(Claim::Miss(self.misses.miss(&self.hasher, ask.key, hash, now)));
        };
        let mut steps = StepBudget(most);
        while let Some(at) = self.next_candidate(pool, ask.payload_kind, &mut steps)? {
            if self.waiters[at].offer_until <= now {
                // It stands until its deadline, but is offered nothing any more.
                steps.spend()?;
                self.pools[pool].reclassify(&mut self.waiters, at, WaiterClass::Late);
                continue;
            }
            debug_assert!(self.pools[pool].key.as_ref() == ask.key, "I9");
            let taken = self.remove(at);
            if self.pools.get(pool).is_none() {
                self.misses.pool_emptied(hash, now);
            }
            return Ok(Claim::Matched(taken));
        }
        let is_unaccepted = self.pools[pool].has_waiter_that_refuses(ask.payload_kind);
        Ok(Claim::Miss(if is_unaccepted { MissReason::NotAMessage } else { MissReason::AllTaken }))
    }

    /// The next waiter to try: the trusted by age, then the suspects.
    fn next_candidate(
        &mut self,
        pool: u32,
        kind: PayloadKind,
        steps: &mut StepBudget,
    ) -> Result<Option<u32>, BudgetSpent> {
        let Self { waiters, suspects, now, .. } = self;
        let room = &mut self.pools[pool];
        let is_suspect = |machine| suspects.contains(machine, *now);
        room.restore_trusted(waiters, suspects.cleared(), |machine| !is_suspect(machine), steps)?;
        while let Some(at) = room.pick(waiters, self.pick, kind) {
            let Waiter { host: machine, class: shelf, .. } = waiters[at];
            if !is_suspect(machine) {
                return Ok(Some(at));
            }
            steps.spend()?;
            room.reclassify(waiters, at, shelf.suspect());
        }
        Ok(room.pick_suspect(waiters, self.pick, kind))
    }

    /// A machine did not prove the run it was offered: its waiters are offered runs last.
    pub fn suspect(&mut self, machine: HostId, now: MonotonicTime) {
        let now = self.advance_clock(now);
        self.suspects.suspect(machine, now);
    }

    /// A machine proved a run: it is suspect no more.
    pub fn trust(&mut self, machine: HostId) {
        self.suspects.trust(machine, self.now);
    }

    /// Whoever of the next `scan` waiters from `from` on is suspect, as `see` shows it.
    pub fn suspects_page<V>(&self, from: u32, scan: u32, see: impl Fn(Suspicion, &W) -> V) -> Page<V> {
        page(&self.waiters, from, scan, usize::MAX, |_, waiter| {
            self.suspects.suspicion_of(waiter.host).map(|suspicion| see(suspicion, &waiter.waiter))
        })
    }

    /// A waiter has shown life since this suspicion arose: it is cleared.
    pub fn clear_suspicion(&mut self, suspicion: Suspicion, now: MonotonicTime) {
        let now = self.advance_clock(now);
        self.suspects.clear(suspicion, now);
    }

    /// Clears suspects of long ago. Returns whether any is left.
    pub fn forget_old_suspects(&mut self, now: MonotonicTime) -> bool {
        let now = self.advance_clock(now);
        self.suspects.forget_old(now);
        !self.suspects.is_empty()
    }

    /// Takes out waiters whose deadline has come, `most` at a time of the next `scan` by deadline. Also says whether
    /// there are more to look at: whose deadline had come at the first look is out after the last.
    pub fn expire(&mut self, now: MonotonicTime, scan: usize, most: usize) -> (Vec<RemovedWaiter<W>>, bool) {
        let now = self.advance_clock(now);
        let (due, goes_on) = self.timers.due(&self.waiters, now, scan, most);
        (due.into_iter().map(|at| self.remove(at)).collect(), goes_on)
    }

    /// Takes out those of the next `scan` waiters from `from` on that were parked before the mark, in a pool that the
    /// filter selects, `most` at a time. Whoever is parked meanwhile is behind the mark, so the pages miss nobody.
    pub fn remove_parked_before(
        &mut self,
        before: Watermark,
        filter: &Filter,
        now: MonotonicTime,
        from: u32,
        scan: u32,
        most: usize,
    ) -> Page<RemovedWaiter<W>> {
        self.advance_clock(now);
        let Page { rows, next } = page(&self.waiters, from, scan, most, |at, waiter| {
            let is_chosen = waiter.serial <= before.0 && filter.matches(&self.pools[waiter.pool].key);
            is_chosen.then_some(at)
        });
        Page { rows: rows.into_iter().map(|at| self.remove(at)).collect(), next }
    }

    /// Takes out the room of a crowd that has left, for the caller to drop where it holds nobody up.
    #[must_use = "it is dropped with the lock let go"]
    pub fn shrink(&mut self) -> impl Sized + use<W> {
        (
            self.waiters.shrink(),
            self.pools.shrink(),
            self.by_key.shrink(),
            self.by_controller.shrink(),
            self.misses.shrink(),
        )
    }

    /// From here on every offer is answered with [`Miss::Draining`]. There is no way back.
    pub fn drain(&mut self) {
        let drain = Drain { before: self.watermark(), waiting: self.waiters.len() };
        self.draining.get_or_insert(drain);
    }

    /// Everyone who stands now was parked before this mark; whoever comes later was not.
    pub fn watermark(&self) -> Watermark {
        Watermark(self.parked)
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
    fn advance_clock(&mut self, now: MonotonicTime) -> MonotonicTime {
        self.now = self.now.max(now);
        self.now
    }

    fn check_limits(&self, pool: Option<u32>) -> Result<(), LimitReached> {
        if self.waiters.len() >= self.limits.waiters {
            return Err(LimitReached::Waiters);
        }
        match pool {
            Some(pool) if self.pools[pool].len() >= self.limits.waiters_per_pool => Err(LimitReached::Pool),
            None if self.limits.waiters_per_pool == 0 => Err(LimitReached::Pool),
            None if self.pools.len() >= self.limits.pools => Err(LimitReached::Pools),
            _ => Ok(()),
        }
    }

    fn assert_conserved(&self) {
        debug_assert_eq!(self.parked, self.removed + self.waiters.len() as u64, "I8");
    }
}

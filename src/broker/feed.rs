//! Owns the feed of changed pools: which pools have changed since their row was last taken, for those who announce them.
//!
//! Each open pool is in the feed at most once, however often it changes. A row is made when it is taken, and is then true;
//! so a closed pool whose key is open again has no row of its own.

use super::chunks::Chunks;
use super::list::{IntrusiveList, Link, ListKind, ListNode};
use super::pool::Pool;
use super::{Claimable, Key};

/// A pool as the feed has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedPool {
    /// Its key.
    pub key: Key,
    /// How many of its waiters a run could claim, by the kind of the run's payload: all that accept it, but for those that
    /// were found too near their deadline. All zero if the pool is closed.
    pub waiters: Claimable,
}

impl ChangedPool {
    pub(super) fn open(pool: &Pool) -> Self {
        Self { key: pool.key.clone(), waiters: pool.claimable() }
    }

    pub(super) fn closed(key: Key) -> Self {
        Self { key, waiters: Claimable::default() }
    }
}

/// The feed. It is empty until it is watched.
pub(super) struct PoolFeed {
    is_watched: bool,
    /// It was empty, and is no more: the one that takes its rows is to be woken.
    has_begun: bool,
    /// The open pools that have changed.
    changed: IntrusiveList,
    closed: Chunks<ClosedPool>,
    /// The closed pools in the order of their ends.
    closed_order: IntrusiveList,
}

/// A closed pool's key, and the key's hash.
pub(super) struct ClosedPool {
    pub(super) hash: u64,
    pub(super) key: Key,
    link: Link,
}

impl ListNode for ClosedPool {
    fn link(&mut self, _: ListKind) -> &mut Link {
        &mut self.link
    }

    fn next(&self, _: ListKind) -> Link {
        self.link
    }
}

impl PoolFeed {
    pub(super) fn new() -> Self {
        Self {
            is_watched: false,
            has_begun: false,
            changed: IntrusiveList::new(ListKind::Feed),
            closed: Chunks::new(),
            closed_order: IntrusiveList::new(ListKind::Feed),
        }
    }

    pub(super) fn watch(&mut self) {
        self.is_watched = true;
    }

    /// Whether the feed has begun since the last call.
    pub(super) fn take_begun(&mut self) -> bool {
        self.has_begun && std::mem::take(&mut self.has_begun)
    }

    /// This pool has changed.
    pub(super) fn add(&mut self, pools: &mut Chunks<Pool>, pool: u32) {
        if self.is_watched && !std::mem::replace(&mut pools[pool].is_in_feed, true) {
            self.has_begun |= self.is_empty();
            self.changed.push_back(pools, pool);
        }
    }

    /// Takes out a pool, which closes.
    pub(super) fn close(&mut self, pools: &mut Chunks<Pool>, pool: u32) -> Pool {
        if !self.is_watched {
            return pools.remove(pool);
        }
        self.has_begun |= self.is_empty();
        if pools[pool].is_in_feed {
            self.changed.remove(pools, pool);
        }
        let closed = pools.remove(pool);
        let entry = ClosedPool { hash: closed.hash, key: closed.key.clone(), link: Link::UNLINKED };
        let slot = self.closed.insert(entry);
        self.closed_order.push_back(&mut self.closed, slot);
        closed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.closed_order.is_empty()
    }

    /// The open pool that has waited longest for its row to be taken.
    pub(super) fn take_open(&mut self, pools: &mut Chunks<Pool>) -> Option<u32> {
        let pool = self.changed.front()?;
        self.changed.remove(pools, pool);
        pools[pool].is_in_feed = false;
        Some(pool)
    }

    /// The pool that closed first; its key may be open again.
    pub(super) fn take_closed(&mut self) -> Option<ClosedPool> {
        let slot = self.closed_order.front()?;
        self.closed_order.remove(&mut self.closed, slot);
        Some(self.closed.remove(slot))
    }

    /// Takes out unused memory, for the caller to drop.
    pub(super) fn shrink(&mut self) -> impl Sized + use<> {
        self.closed.shrink()
    }
}

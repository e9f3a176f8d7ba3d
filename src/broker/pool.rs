//! Owns one pool: all waiters with one key, on three shelves.

use slab::Slab;

use super::chain::{Chain, Kind};
use super::{Key, Pick, Waiter};

/// Where a waiter stands in its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shelf {
    /// Can be handed a run message only.
    Message,
    /// Can be handed any bytes.
    Anything,
    /// Too near its deadline to be handed anything.
    Late,
}

impl Shelf {
    pub(super) const ALL: [Self; 3] = [Self::Message, Self::Anything, Self::Late];
}

pub(super) struct Pool {
    pub(super) hash: u64,
    pub(super) key: Key,
    shelves: [Chain; 3],
    len: usize,
}

impl Pool {
    pub(super) fn new(hash: u64, key: Key) -> Self {
        Self { hash, key, shelves: [Chain::new(Kind::Pool); 3], len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn shelf(&self, shelf: Shelf) -> &Chain {
        &self.shelves[shelf as usize]
    }

    pub(super) fn join<W>(&mut self, waiters: &mut Slab<Waiter<W>>, shelf: Shelf, at: u32) {
        self.shelves[shelf as usize].push_back(waiters, at);
        self.len += 1;
    }

    pub(super) fn part<W>(&mut self, waiters: &mut Slab<Waiter<W>>, shelf: Shelf, at: u32) {
        self.shelves[shelf as usize].remove(waiters, at);
        self.len -= 1;
    }

    /// The waiter to try next, by age over the shelves that fit.
    pub(super) fn pick<W>(&self, waiters: &Slab<Waiter<W>>, pick: Pick, is_message: bool) -> Option<u32> {
        let serial = |at: &u32| waiters[*at as usize].serial;
        let message = self.shelf(Shelf::Message);
        let anything = self.shelf(Shelf::Anything);
        match pick {
            Pick::Newest => {
                let stock = is_message.then(|| message.back()).flatten();
                stock.into_iter().chain(anything.back()).max_by_key(serial)
            }
            Pick::Oldest => {
                let stock = is_message.then(|| message.front()).flatten();
                stock.into_iter().chain(anything.front()).min_by_key(serial)
            }
        }
    }

    pub(super) fn members<'a, W>(
        &self,
        waiters: &'a Slab<Waiter<W>>,
    ) -> impl Iterator<Item = u32> + use<'a, W> {
        Shelf::ALL.map(|shelf| *self.shelf(shelf)).into_iter().flat_map(|chain| chain.iter(waiters))
    }
}

//! Owns one pool: all waiters with one key, on shelves by what they accept and how far they are trusted.

use slab::Slab;

use super::chain::{Chain, Kind};
use super::{Accepts, Key, Machine, Pick, Waiter};

/// Where a waiter stands in its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shelf {
    /// Can be handed a run message only.
    Message,
    /// Can be handed any bytes.
    Anything,
    /// As `Message`, but its machine did not prove its last run: offered last.
    SuspectMessage,
    /// As `Anything`, but its machine did not prove its last run: offered last.
    SuspectAnything,
    /// Too near its deadline to be handed anything.
    Late,
}

impl Shelf {
    pub(super) const ALL: [Self; 5] =
        [Self::Message, Self::Anything, Self::SuspectMessage, Self::SuspectAnything, Self::Late];

    pub(super) const fn of(accepts: Accepts) -> Self {
        match accepts {
            Accepts::Message => Self::Message,
            Accepts::Anything => Self::Anything,
        }
    }

    /// The shelf of a waiter that has become suspect.
    pub(super) const fn suspect(self) -> Self {
        match self {
            Self::Message | Self::SuspectMessage => Self::SuspectMessage,
            Self::Anything | Self::SuspectAnything => Self::SuspectAnything,
            Self::Late => Self::Late,
        }
    }
}

pub(super) struct Pool {
    pub(super) hash: u64,
    pub(super) key: Key,
    shelves: [Chain; 5],
    len: usize,
    /// How often machines had been cleared when this pool's suspects were last looked through.
    cleared: u64,
}

impl Pool {
    pub(super) fn new(hash: u64, key: Key) -> Self {
        Self { hash, key, shelves: [Chain::new(Kind::Pool); 5], len: 0, cleared: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn shelf(&self, shelf: Shelf) -> &Chain {
        &self.shelves[shelf as usize]
    }

    pub(super) fn join<W>(&mut self, waiters: &mut Slab<Waiter<W>>, at: u32) {
        self.shelves[waiters[at as usize].shelf as usize].push_back(waiters, at);
        self.len += 1;
    }

    pub(super) fn part<W>(&mut self, waiters: &mut Slab<Waiter<W>>, at: u32) {
        self.shelves[waiters[at as usize].shelf as usize].remove(waiters, at);
        self.len -= 1;
    }

    /// Moves a waiter to another shelf. Those that are moved in the order of their age keep it there.
    pub(super) fn reshelve<W>(&mut self, waiters: &mut Slab<Waiter<W>>, at: u32, to: Shelf) {
        self.shelves[waiters[at as usize].shelf as usize].remove(waiters, at);
        waiters[at as usize].shelf = to;
        let shelf = &mut self.shelves[to as usize];
        let is_newest = |back: u32| waiters[back as usize].serial < waiters[at as usize].serial;
        if shelf.back().is_none_or(is_newest) {
            shelf.push_back(waiters, at);
        } else {
            shelf.push_front(waiters, at);
        }
    }

    /// Takes waiters of machines that are suspect no more back among the trusted, in the order of age. Costs nothing
    /// unless a machine was cleared since the last look, or nobody is set aside.
    pub(super) fn readmit<W>(
        &mut self,
        waiters: &mut Slab<Waiter<W>>,
        cleared: u64,
        is_trusted: impl Fn(Machine) -> bool,
    ) {
        if std::mem::replace(&mut self.cleared, cleared) == cleared {
            return;
        }
        for to in [Shelf::Message, Shelf::Anything] {
            let set_aside = self.shelf(to.suspect()).iter(waiters);
            let back: Vec<u32> = set_aside.filter(|&at| is_trusted(waiters[at as usize].machine)).collect();
            if back.is_empty() {
                continue;
            }
            let mut all: Vec<u32> = self.shelf(to).iter(waiters).chain(back).collect();
            all.sort_unstable_by_key(|&at| waiters[at as usize].serial);
            for at in all {
                self.shelves[waiters[at as usize].shelf as usize].remove(waiters, at);
                waiters[at as usize].shelf = to;
                self.shelves[to as usize].push_back(waiters, at);
            }
        }
    }

    /// The next of the trusted by age, over the shelves that fit.
    pub(super) fn pick<W>(&self, waiters: &Slab<Waiter<W>>, pick: Pick, is_message: bool) -> Option<u32> {
        self.next_of(waiters, pick, is_message.then_some(Shelf::Message), Shelf::Anything)
    }

    /// The next of the suspects by age, over the shelves that fit.
    pub(super) fn pick_suspect<W>(
        &self,
        waiters: &Slab<Waiter<W>>,
        pick: Pick,
        is_message: bool,
    ) -> Option<u32> {
        self.next_of(waiters, pick, is_message.then_some(Shelf::SuspectMessage), Shelf::SuspectAnything)
    }

    fn next_of<W>(
        &self,
        waiters: &Slab<Waiter<W>>,
        pick: Pick,
        stock: Option<Shelf>,
        any: Shelf,
    ) -> Option<u32> {
        let serial = |at: &u32| waiters[*at as usize].serial;
        let shelves = stock.into_iter().chain([any]).map(|shelf| self.shelf(shelf));
        match pick {
            Pick::Newest => shelves.filter_map(Chain::back).max_by_key(serial),
            Pick::Oldest => shelves.filter_map(Chain::front).min_by_key(serial),
        }
    }

    pub(super) fn members<'a, W>(
        &self,
        waiters: &'a Slab<Waiter<W>>,
    ) -> impl Iterator<Item = u32> + use<'a, W> {
        Shelf::ALL.map(|shelf| *self.shelf(shelf)).into_iter().flat_map(|chain| chain.iter(waiters))
    }
}

//! Owns one pool: all waiters with one key, on shelves by what they accept and how far they are trusted.

use super::chain::{Chain, Kind};
use super::chunks::Chunks;
use super::{Accepts, Key, LookAgain, Machine, Pick, Waiter};

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

/// How many waiters may still be moved before the lock must be let go.
pub(super) struct Steps(pub(super) usize);

impl Steps {
    pub(super) fn take(&mut self) -> Result<(), LookAgain> {
        self.0 = self.0.checked_sub(1).ok_or(LookAgain)?;
        Ok(())
    }
}

pub(super) struct Pool {
    pub(super) hash: u64,
    pub(super) key: Key,
    shelves: [Chain; 5],
    /// How often machines had been cleared when this pool's suspects were last looked through.
    cleared: u64,
    /// How many on each of the suspects' shelves are still to be looked at.
    unseen: [u32; 2],
}

impl Pool {
    pub(super) fn new(hash: u64, key: Key) -> Self {
        Self { hash, key, shelves: [Chain::new(Kind::Pool); 5], cleared: 0, unseen: [0; 2] }
    }

    pub(super) fn len(&self) -> usize {
        self.shelves.iter().map(|shelf| shelf.len() as usize).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shelves.iter().all(Chain::is_empty)
    }

    pub(super) fn shelf(&self, shelf: Shelf) -> &Chain {
        &self.shelves[shelf as usize]
    }

    pub(super) fn join<W>(&mut self, waiters: &mut Chunks<Waiter<W>>, at: u32) {
        self.shelves[waiters[at].shelf as usize].push_back(waiters, at);
    }

    pub(super) fn part<W>(&mut self, waiters: &mut Chunks<Waiter<W>>, at: u32) {
        self.shelves[waiters[at].shelf as usize].remove(waiters, at);
    }

    /// Moves a waiter to another shelf. Those that are moved in the order of their age keep it there.
    pub(super) fn reshelve<W>(&mut self, waiters: &mut Chunks<Waiter<W>>, at: u32, to: Shelf) {
        self.shelves[waiters[at].shelf as usize].remove(waiters, at);
        waiters[at].shelf = to;
        let shelf = &mut self.shelves[to as usize];
        let is_newest = |back: u32| waiters[back].serial < waiters[at].serial;
        if shelf.back().is_none_or(is_newest) {
            shelf.push_back(waiters, at);
        } else {
            shelf.push_front(waiters, at);
        }
    }

    /// Takes waiters of machines that are suspect no more back among the trusted, where they are the last to be offered
    /// a run if the newest is picked. Costs nothing unless a machine was cleared since the last look.
    pub(super) fn readmit<W>(
        &mut self,
        waiters: &mut Chunks<Waiter<W>>,
        cleared: u64,
        is_trusted: impl Fn(Machine) -> bool,
        steps: &mut Steps,
    ) -> Result<(), LookAgain> {
        if std::mem::replace(&mut self.cleared, cleared) != cleared {
            self.unseen =
                [Shelf::SuspectMessage, Shelf::SuspectAnything].map(|shelf| self.shelf(shelf).len());
        }
        for (to, set) in [(Shelf::Message, 0), (Shelf::Anything, 1)] {
            while self.unseen[set] > 0 {
                // Each is looked at once, and who stays goes to the other end; who left meanwhile is missing here.
                let Some(at) = self.shelf(to.suspect()).back() else { break };
                steps.take()?;
                self.unseen[set] -= 1;
                let shelf = if is_trusted(waiters[at].machine) { to } else { to.suspect() };
                self.shelves[to.suspect() as usize].remove(waiters, at);
                waiters[at].shelf = shelf;
                self.shelves[shelf as usize].push_front(waiters, at);
            }
            self.unseen[set] = 0;
        }
        Ok(())
    }

    /// The next of the trusted by age, over the shelves that fit.
    pub(super) fn pick<W>(&self, waiters: &Chunks<Waiter<W>>, pick: Pick, is_message: bool) -> Option<u32> {
        self.next_of(waiters, pick, is_message.then_some(Shelf::Message), Shelf::Anything)
    }

    /// The next of the suspects by age, over the shelves that fit.
    pub(super) fn pick_suspect<W>(
        &self,
        waiters: &Chunks<Waiter<W>>,
        pick: Pick,
        is_message: bool,
    ) -> Option<u32> {
        self.next_of(waiters, pick, is_message.then_some(Shelf::SuspectMessage), Shelf::SuspectAnything)
    }

    fn next_of<W>(
        &self,
        waiters: &Chunks<Waiter<W>>,
        pick: Pick,
        stock: Option<Shelf>,
        any: Shelf,
    ) -> Option<u32> {
        let serial = |at: &u32| waiters[*at].serial;
        let shelves = stock.into_iter().chain([any]).map(|shelf| self.shelf(shelf));
        match pick {
            Pick::Newest => shelves.filter_map(Chain::back).max_by_key(serial),
            Pick::Oldest => shelves.filter_map(Chain::front).min_by_key(serial),
        }
    }

    pub(super) fn members<'a, W>(
        &self,
        waiters: &'a Chunks<Waiter<W>>,
    ) -> impl Iterator<Item = u32> + use<'a, W> {
        Shelf::ALL.map(|shelf| *self.shelf(shelf)).into_iter().flat_map(|chain| chain.iter(waiters))
    }
}

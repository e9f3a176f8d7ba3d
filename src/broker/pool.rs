//! Owns one pool: all waiters with one key, on shelves by what they accept and how far they are trusted.

use super::chunks::Chunks;
use super::list::{IntrusiveList, ListKind};
use super::{AcceptedPayload, BudgetSpent, HostId, Key, SelectionPolicy, Waiter};

/// Where a waiter stands in its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaiterClass {
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

impl WaiterClass {
    pub(super) const ALL: [Self; 5] =
        [Self::Message, Self::Anything, Self::SuspectMessage, Self::SuspectAnything, Self::Late];

    pub(super) const fn of(accepts: AcceptedPayload) -> Self {
        match accepts {
            AcceptedPayload::Message => Self::Message,
            AcceptedPayload::Anything => Self::Anything,
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
pub(super) struct StepBudget(pub(super) usize);

impl StepBudget {
    pub(super) fn spend(&mut self) -> Result<(), BudgetSpent> {
        self.0 = self.0.checked_sub(1).ok_or(BudgetSpent)?;
        Ok(())
    }
}

pub(super) struct Pool {
    pub(super) hash: u64,
    pub(super) key: Key,
    queues: [IntrusiveList; 5],
    /// How often machines had been cleared when this pool's suspects were last looked through.
    cleared: u64,
    /// How many on each of the suspects' shelves are still to be looked at.
    unseen: [u32; 2],
}

impl Pool {
    pub(super) fn new(hash: u64, key: Key) -> Self {
        Self { hash, key, queues: [IntrusiveList::new(ListKind::Pool); 5], cleared: 0, unseen: [0; 2] }
    }

    pub(super) fn len(&self) -> usize {
        self.queues.iter().map(|shelf| shelf.len() as usize).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(IntrusiveList::is_empty)
    }

    pub(super) fn queue(&self, shelf: WaiterClass) -> &IntrusiveList {
        &self.queues[shelf as usize]
    }

    pub(super) fn insert<W>(&mut self, waiters: &mut Chunks<Waiter<W>>, at: u32) {
        self.queues[waiters[at].class as usize].push_back(waiters, at);
    }

    pub(super) fn remove<W>(&mut self, waiters: &mut Chunks<Waiter<W>>, at: u32) {
        self.queues[waiters[at].class as usize].remove(waiters, at);
    }

    /// Moves a waiter to another shelf. Those that are moved in the order of their age keep it there.
    pub(super) fn reclassify<W>(&mut self, waiters: &mut Chunks<Waiter<W>>, at: u32, to: WaiterClass) {
        self.queues[waiters[at].class as usize].remove(waiters, at);
        waiters[at].class = to;
        let shelf = &mut self.queues[to as usize];
        let is_newest = |back: u32| waiters[back].serial < waiters[at].serial;
        if shelf.back().is_none_or(is_newest) {
            shelf.push_back(waiters, at);
        } else {
            shelf.push_front(waiters, at);
        }
    }

    /// Takes waiters of machines that are suspect no more back among the trusted, where they are the last to be offered
    /// a run if the newest is picked. Costs nothing unless a machine was cleared since the last look.
    pub(super) fn restore_trusted<W>(
        &mut self,
        waiters: &mut Chunks<Waiter<W>>,
        cleared: u64,
        is_trusted: impl Fn(HostId) -> bool,
        steps: &mut StepBudget,
    ) -> Result<(), BudgetSpent> {
        if std::mem::replace(&mut self.cleared, cleared) != cleared {
            self.unseen = [WaiterClass::SuspectMessage, WaiterClass::SuspectAnything]
                .map(|shelf| self.queue(shelf).len());
        }
        for (to, set) in [(WaiterClass::Message, 0), (WaiterClass::Anything, 1)] {
            while self.unseen[set] > 0 {
                // Each is looked at once, and who stays goes to the other end; who left meanwhile is missing here.
                let Some(at) = self.queue(to.suspect()).back() else { break };
                steps.spend()?;
                self.unseen[set] -= 1;
                let shelf = if is_trusted(waiters[at].host) { to } else { to.suspect() };
                self.queues[to.suspect() as usize].remove(waiters, at);
                waiters[at].class = shelf;
                self.queues[shelf as usize].push_front(waiters, at);
            }
            self.unseen[set] = 0;
        }
        Ok(())
    }

    /// The next of the trusted by age, over the shelves that fit.
    pub(super) fn pick<W>(
        &self,
        waiters: &Chunks<Waiter<W>>,
        pick: SelectionPolicy,
        is_message: bool,
    ) -> Option<u32> {
        self.next_of(waiters, pick, is_message.then_some(WaiterClass::Message), WaiterClass::Anything)
    }

    /// The next of the suspects by age, over the shelves that fit.
    pub(super) fn pick_suspect<W>(
        &self,
        waiters: &Chunks<Waiter<W>>,
        pick: SelectionPolicy,
        is_message: bool,
    ) -> Option<u32> {
        self.next_of(
            waiters,
            pick,
            is_message.then_some(WaiterClass::SuspectMessage),
            WaiterClass::SuspectAnything,
        )
    }

    fn next_of<W>(
        &self,
        waiters: &Chunks<Waiter<W>>,
        pick: SelectionPolicy,
        stock: Option<WaiterClass>,
        any: WaiterClass,
    ) -> Option<u32> {
        let serial = |at: &u32| waiters[*at].serial;
        let shelves = stock.into_iter().chain([any]).map(|shelf| self.queue(shelf));
        match pick {
            SelectionPolicy::Newest => shelves.filter_map(IntrusiveList::back).max_by_key(serial),
            SelectionPolicy::Oldest => shelves.filter_map(IntrusiveList::front).min_by_key(serial),
        }
    }

    pub(super) fn members<'a, W>(
        &self,
        waiters: &'a Chunks<Waiter<W>>,
    ) -> impl Iterator<Item = u32> + use<'a, W> {
        WaiterClass::ALL.map(|shelf| *self.queue(shelf)).into_iter().flat_map(|chain| chain.iter(waiters))
    }
}

//! Owns one pool: all waiters with one key, on shelves by what they accept and how far they are trusted.

use super::chunks::Chunks;
use super::list::{IntrusiveList, ListKind};
use super::{AcceptedPayload, BudgetSpent, HostId, Key, PayloadKind, SelectionPolicy, Waiter};

/// The queue of its pool that a waiter is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaiterClass {
    /// Offered first; by the payload that it accepts.
    Trusted(AcceptedPayload),
    /// Offered last, because its host did not prove its last run.
    Suspect(AcceptedPayload),
    /// Too near its deadline to be offered anything.
    Late,
}

impl WaiterClass {
    pub(super) const ALL: [Self; 5] = [
        Self::Trusted(AcceptedPayload::TriggerMessage),
        Self::Trusted(AcceptedPayload::Any),
        Self::Suspect(AcceptedPayload::TriggerMessage),
        Self::Suspect(AcceptedPayload::Any),
        Self::Late,
    ];

    /// The class of a waiter whose host has become suspect.
    pub(super) const fn suspect(self) -> Self {
        match self {
            Self::Trusted(accepted) | Self::Suspect(accepted) => Self::Suspect(accepted),
            Self::Late => Self::Late,
        }
    }

    /// Its place in [`Self::ALL`].
    const fn index(self) -> usize {
        match self {
            Self::Trusted(accepted) => accepted as usize,
            Self::Suspect(accepted) => AcceptedPayload::ALL.len() + accepted as usize,
            Self::Late => 2 * AcceptedPayload::ALL.len(),
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
        &self.queues[shelf.index()]
    }

    pub(super) fn insert<W>(&mut self, waiters: &mut Chunks<Waiter<W>>, at: u32) {
        self.queues[waiters[at].class.index()].push_back(waiters, at);
    }

    pub(super) fn remove<W>(&mut self, waiters: &mut Chunks<Waiter<W>>, at: u32) {
        self.queues[waiters[at].class.index()].remove(waiters, at);
    }

    /// Moves a waiter to another shelf. Those that are moved in the order of their age keep it there.
    pub(super) fn reclassify<W>(&mut self, waiters: &mut Chunks<Waiter<W>>, at: u32, to: WaiterClass) {
        self.queues[waiters[at].class.index()].remove(waiters, at);
        waiters[at].class = to;
        let shelf = &mut self.queues[to.index()];
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
            self.unseen =
                AcceptedPayload::ALL.map(|accepted| self.queue(WaiterClass::Suspect(accepted)).len());
        }
        for accepted in AcceptedPayload::ALL {
            let suspect = WaiterClass::Suspect(accepted);
            while self.unseen[accepted as usize] > 0 {
                // Each waiter is looked at once: a suspect one goes to the other end. Waiters that have left since then
                // are missing here.
                let Some(at) = self.queue(suspect).back() else { break };
                steps.spend()?;
                self.unseen[accepted as usize] -= 1;
                let class =
                    if is_trusted(waiters[at].host) { WaiterClass::Trusted(accepted) } else { suspect };
                self.queues[suspect.index()].remove(waiters, at);
                waiters[at].class = class;
                self.queues[class.index()].push_front(waiters, at);
            }
            self.unseen[accepted as usize] = 0;
        }
        Ok(())
    }

    /// The next trusted waiter that accepts this kind of payload.
    pub(super) fn pick<W>(
        &self,
        waiters: &Chunks<Waiter<W>>,
        policy: SelectionPolicy,
        kind: PayloadKind,
    ) -> Option<u32> {
        self.next_of(waiters, policy, kind, WaiterClass::Trusted)
    }

    /// The next suspect waiter that accepts this kind of payload.
    pub(super) fn pick_suspect<W>(
        &self,
        waiters: &Chunks<Waiter<W>>,
        policy: SelectionPolicy,
        kind: PayloadKind,
    ) -> Option<u32> {
        self.next_of(waiters, policy, kind, WaiterClass::Suspect)
    }

    fn next_of<W>(
        &self,
        waiters: &Chunks<Waiter<W>>,
        policy: SelectionPolicy,
        kind: PayloadKind,
        class: fn(AcceptedPayload) -> WaiterClass,
    ) -> Option<u32> {
        let serial = |at: &u32| waiters[*at].serial;
        let accepting = AcceptedPayload::ALL.into_iter().filter(|accepted| accepted.accepts(kind));
        let queues = accepting.map(|accepted| self.queue(class(accepted)));
        match policy {
            SelectionPolicy::Newest => queues.filter_map(IntrusiveList::back).max_by_key(serial),
            SelectionPolicy::Oldest => queues.filter_map(IntrusiveList::front).min_by_key(serial),
        }
    }

    /// Whether a waiter, besides the late ones, does not accept this kind of payload.
    pub(super) fn has_waiter_that_refuses(&self, kind: PayloadKind) -> bool {
        AcceptedPayload::ALL.into_iter().filter(|accepted| !accepted.accepts(kind)).any(|accepted| {
            let classes = [WaiterClass::Trusted(accepted), WaiterClass::Suspect(accepted)];
            classes.iter().any(|&class| !self.queue(class).is_empty())
        })
    }

    pub(super) fn members<'a, W>(
        &self,
        waiters: &'a Chunks<Waiter<W>>,
    ) -> impl Iterator<Item = u32> + use<'a, W> {
        WaiterClass::ALL.map(|shelf| *self.queue(shelf)).into_iter().flat_map(|chain| chain.iter(waiters))
    }
}

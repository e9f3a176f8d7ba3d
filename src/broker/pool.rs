//! Owns one pool: all waiters with one key, in a queue for each class.

use super::chunks::Chunks;
use super::list::{IntrusiveList, Link, ListKind, ListNode};
use super::waiter::{WaiterClass, WaiterEntry};
use super::{AcceptedPayload, BudgetSpent, Claimable, HostId, Key, PayloadKind, SelectionPolicy};

/// How many waiters may still be moved before the lock must be released.
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
    queues: [IntrusiveList; WaiterClass::ALL.len()],
    /// The count of cleared suspicions at the time when this pool's suspect waiters were last checked.
    cleared: u64,
    /// How many waiters in each suspect queue are still to be checked.
    unchecked: [u32; AcceptedPayload::ALL.len()],
    /// Whether the pool is in the feed of changed pools, and between which others.
    pub(super) is_in_feed: bool,
    feed_link: Link,
}

impl ListNode for Pool {
    fn link(&mut self, _: ListKind) -> &mut Link {
        &mut self.feed_link
    }

    fn next(&self, _: ListKind) -> Link {
        self.feed_link
    }
}

impl Pool {
    pub(super) fn new(hash: u64, key: Key) -> Self {
        let queues = [IntrusiveList::new(ListKind::Pool); WaiterClass::ALL.len()];
        Self {
            hash,
            key,
            queues,
            cleared: 0,
            unchecked: [0; AcceptedPayload::ALL.len()],
            is_in_feed: false,
            feed_link: Link::UNLINKED,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queues.iter().map(|queue| queue.len() as usize).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(IntrusiveList::is_empty)
    }

    pub(super) fn queue(&self, class: WaiterClass) -> &IntrusiveList {
        &self.queues[class.index()]
    }

    pub(super) fn insert<W>(&mut self, waiters: &mut Chunks<WaiterEntry<W>>, slot: u32) {
        self.queues[waiters[slot].class.index()].push_back(waiters, slot);
    }

    pub(super) fn remove<W>(&mut self, waiters: &mut Chunks<WaiterEntry<W>>, slot: u32) {
        self.queues[waiters[slot].class.index()].remove(waiters, slot);
    }

    /// Moves a waiter to another queue. Waiters that are moved in the order of their age stay in that order.
    pub(super) fn reclassify<W>(
        &mut self,
        waiters: &mut Chunks<WaiterEntry<W>>,
        slot: u32,
        class: WaiterClass,
    ) {
        self.queues[waiters[slot].class.index()].remove(waiters, slot);
        waiters[slot].class = class;
        let queue = &mut self.queues[class.index()];
        let is_older = |back: u32| waiters[back].serial() < waiters[slot].serial();
        if queue.back().is_none_or(is_older) {
            queue.push_back(waiters, slot);
        } else {
            queue.push_front(waiters, slot);
        }
    }

    /// Moves waiters of hosts that are trusted again to the front of the trusted queues: with the newest picked first, they
    /// are offered a run last. Costs nothing unless a suspicion was cleared since the last call.
    pub(super) fn restore_trusted<W>(
        &mut self,
        waiters: &mut Chunks<WaiterEntry<W>>,
        cleared: u64,
        is_trusted: impl Fn(HostId) -> bool,
        steps: &mut StepBudget,
    ) -> Result<(), BudgetSpent> {
        if std::mem::replace(&mut self.cleared, cleared) != cleared {
            self.unchecked =
                AcceptedPayload::ALL.map(|accepted| self.queue(WaiterClass::Suspect(accepted)).len());
        }
        for accepted in AcceptedPayload::ALL {
            let suspect = WaiterClass::Suspect(accepted);
            while self.unchecked[accepted as usize] > 0 {
                // Each waiter is checked once: one that is still suspect moves from the back to the front. The queue may
                // end early, because waiters have left since the count was taken.
                let Some(slot) = self.queue(suspect).back() else { break };
                steps.spend()?;
                self.unchecked[accepted as usize] -= 1;
                let class =
                    if is_trusted(waiters[slot].host()) { WaiterClass::Trusted(accepted) } else { suspect };
                self.queues[suspect.index()].remove(waiters, slot);
                waiters[slot].class = class;
                self.queues[class.index()].push_front(waiters, slot);
            }
            self.unchecked[accepted as usize] = 0;
        }
        Ok(())
    }

    /// The next trusted waiter that accepts this kind of payload.
    pub(super) fn pick<W>(
        &self,
        waiters: &Chunks<WaiterEntry<W>>,
        policy: SelectionPolicy,
        kind: PayloadKind,
    ) -> Option<u32> {
        self.next_of(waiters, policy, kind, WaiterClass::Trusted)
    }

    /// The next suspect waiter that accepts this kind of payload.
    pub(super) fn pick_suspect<W>(
        &self,
        waiters: &Chunks<WaiterEntry<W>>,
        policy: SelectionPolicy,
        kind: PayloadKind,
    ) -> Option<u32> {
        self.next_of(waiters, policy, kind, WaiterClass::Suspect)
    }

    fn next_of<W>(
        &self,
        waiters: &Chunks<WaiterEntry<W>>,
        policy: SelectionPolicy,
        kind: PayloadKind,
        class: impl Fn(AcceptedPayload) -> WaiterClass,
    ) -> Option<u32> {
        let serial = |slot: &u32| waiters[*slot].serial();
        let accepting = AcceptedPayload::ALL.into_iter().filter(|accepted| accepted.accepts(kind));
        let queues = accepting.map(|accepted| self.queue(class(accepted)));
        match policy {
            SelectionPolicy::Newest => queues.filter_map(IntrusiveList::back).max_by_key(serial),
            SelectionPolicy::Oldest => queues.filter_map(IntrusiveList::front).min_by_key(serial),
        }
    }

    /// Whether the pool has a waiter, besides the late ones, that does not accept this kind of payload.
    pub(super) fn has_unaccepting(&self, kind: PayloadKind) -> bool {
        AcceptedPayload::ALL.into_iter().filter(|accepted| !accepted.accepts(kind)).any(|accepted| {
            let classes = [WaiterClass::Trusted(accepted), WaiterClass::Suspect(accepted)];
            classes.iter().any(|&class| !self.queue(class).is_empty())
        })
    }

    /// How many waiters accept each kind of payload, besides the late ones.
    pub(super) fn claimable(&self) -> Claimable {
        let ready = AcceptedPayload::ALL.map(|accepted| {
            let [trusted, suspect] = [WaiterClass::Trusted(accepted), WaiterClass::Suspect(accepted)];
            (accepted, self.queue(trusted).len() + self.queue(suspect).len())
        });
        PayloadKind::ALL.map(|kind| {
            ready.iter().filter(|(accepted, _)| accepted.accepts(kind)).map(|(_, waiters)| waiters).sum()
        })
    }

    pub(super) fn members<'a, W>(
        &self,
        waiters: &'a Chunks<WaiterEntry<W>>,
    ) -> impl Iterator<Item = u32> + use<'a, W> {
        WaiterClass::ALL.map(|class| *self.queue(class)).into_iter().flat_map(|queue| queue.iter(waiters))
    }
}

//! Owns the polls by controller and pool, and the time during which each was certainly held.

use std::collections::{BTreeMap, BTreeSet};

use crate::fleet::IDS_PER_FLEET;

/// One poll that may have been held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeldPoll {
    pub(super) controller: u64,
    pub(super) pool: usize,
    /// When it had been sent.
    pub(super) from: u64,
    /// Until when neither side had certainly ended it.
    pub(super) until: u64,
}

/// Recent polls: those that are open, and those that are over, by pool.
#[derive(Debug, Default)]
pub(super) struct HeldPolls {
    open: BTreeMap<u64, HeldPoll>,
    over: BTreeMap<usize, Vec<HeldPoll>>,
}

impl HeldPolls {
    pub(super) fn begin(&mut self, controller: u64, pool: usize, at: u64) {
        self.open.insert(controller, HeldPoll { controller, pool, from: at, until: u64::MAX });
    }

    /// The poll is over, and was certainly held until then. Without a time it does not count.
    pub(super) fn end(&mut self, controller: u64, until: Option<u64>) {
        if let (Some(stand), Some(until)) = (self.open.remove(&controller), until) {
            let until = until.min(stand.until);
            self.over.entry(stand.pool).or_default().push(HeldPoll { until, ..stand });
        }
    }

    /// From this time on its controller misbehaves, though the poll may still be held.
    pub(super) fn mark_unhealthy(&mut self, controller: u64, at: u64) {
        if let Some(stand) = self.open.get_mut(&controller) {
            stand.until = at;
        }
    }

    pub(super) fn remove_fleet(&mut self, fleet: u64) {
        self.open.retain(|controller, _| controller / IDS_PER_FLEET != fleet);
    }

    pub(super) fn counts(&self) -> (u64, u64) {
        let pools: BTreeSet<usize> = self.open.values().map(|stand| stand.pool).collect();
        (self.open.len() as u64, pools.len() as u64)
    }

    /// All polls of a pool that were certainly held from before `from` until after `until`.
    pub(super) fn throughout(&self, pool: usize, from: u64, until: u64) -> impl Iterator<Item = &HeldPoll> {
        let open = self.open.values().filter(move |stand| stand.pool == pool);
        let over = self.over.get(&pool).into_iter().flatten();
        open.chain(over).filter(move |stand| stand.from <= from && stand.until >= until)
    }

    pub(super) fn forget(&mut self, before: u64) {
        for stands in self.over.values_mut() {
            stands.retain(|stand| stand.until >= before);
        }
    }
}

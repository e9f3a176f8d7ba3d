//! Owns the timer wheel: waiters by deadline, in ticks of 64 ms, so that a deadline costs O(1) to set and to cancel.

use super::MonotonicTime;
use super::chunks::Chunks;
use super::list::{IntrusiveList, ListKind, ListNode};

/// The resolution: a deadline may be noticed this much late, plus the interval between the caller's calls.
const TICK_MICROS: u64 = 64_000;
/// One lap is 65.5 s, longer than the usual poll; an entry with a later deadline is skipped once per lap.
const TICKS: u64 = 1024;

/// A slab entry with a deadline.
pub(super) trait HasDeadline: ListNode {
    fn deadline(&self) -> MonotonicTime;
}

pub(super) struct TimerWheel {
    ticks: Box<[IntrusiveList]>,
    /// The first tick that may still hold something due.
    cursor: u64,
    /// A sweep that was interrupted within the cursor's tick.
    sweep: Option<Sweep>,
}

/// A search for the entries that are due at one time. Entries that become due during it belong to the next sweep.
struct Sweep {
    until: MonotonicTime,
    next: Option<u32>,
}

impl TimerWheel {
    pub(super) fn new() -> Self {
        Self {
            ticks: vec![IntrusiveList::new(ListKind::Deadline); usize_of(TICKS)].into(),
            cursor: 0,
            sweep: None,
        }
    }

    pub(super) fn insert<T: HasDeadline>(&mut self, slab: &mut Chunks<T>, slot: u32) {
        let tick = slab[slot].deadline().micros() / TICK_MICROS;
        debug_assert!(tick >= self.cursor, "a deadline before the cursor would wait a whole lap");
        self.list(tick).push_back(slab, slot);
    }

    pub(super) fn remove<T: HasDeadline>(&mut self, slab: &mut Chunks<T>, slot: u32) {
        if let Some(sweep) = &mut self.sweep
            && sweep.next == Some(slot)
        {
            sweep.next = slab[slot].next(ListKind::Deadline).next();
        }
        let tick = slab[slot].deadline().micros() / TICK_MICROS;
        self.list(tick).remove(slab, slot);
    }

    /// At most `max_due` entries whose deadline has come, among the next `scan` entries of the sweep. They stay in the wheel
    /// until the caller removes them, before the next call. Also returns whether the sweep continues: after its end, every
    /// entry that was due when it began has been returned.
    pub(super) fn due<T: HasDeadline>(
        &mut self,
        slab: &Chunks<T>,
        now: MonotonicTime,
        scan: usize,
        max_due: usize,
    ) -> (Vec<u32>, bool) {
        let Sweep { until, mut next } = self.sweep.take().unwrap_or_else(|| self.begin(now));
        let last = until.micros() / TICK_MICROS;
        let mut due = Vec::new();
        let mut scanned = 0;
        loop {
            while let Some(slot) = next {
                if scanned == scan || due.len() == max_due {
                    self.sweep = Some(Sweep { until, next });
                    return (due, true);
                }
                scanned += 1;
                if slab[slot].deadline() <= until {
                    due.push(slot);
                }
                next = slab[slot].next(ListKind::Deadline).next();
            }
            if self.cursor >= last {
                return (due, false);
            }
            self.cursor += 1;
            next = self.list(self.cursor).front();
        }
    }

    fn begin(&mut self, now: MonotonicTime) -> Sweep {
        // After a long pause, one lap passes every entry.
        self.cursor = self.cursor.max((now.micros() / TICK_MICROS).saturating_sub(TICKS - 1));
        Sweep { until: now, next: self.list(self.cursor).front() }
    }

    /// How many entries there are, counted one by one: for audits.
    pub(super) fn len<T: HasDeadline>(&self, slab: &Chunks<T>) -> usize {
        self.ticks.iter().map(|list| list.iter(slab).count()).sum()
    }

    fn list(&mut self, tick: u64) -> &mut IntrusiveList {
        &mut self.ticks[usize_of(tick % TICKS)]
    }
}

#[expect(clippy::cast_possible_truncation, reason = "it is below the ticks of one lap")]
fn usize_of(tick: u64) -> usize {
    tick as usize
}

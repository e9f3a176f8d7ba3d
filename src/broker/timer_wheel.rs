//! Owns the wheel: waiters by deadline, in ticks of 64 ms, so that a deadline costs O(1) to set and to cancel.

use super::MonotonicTime;
use super::chunks::Chunks;
use super::list::{IntrusiveList, ListKind, ListNode};

/// How late a deadline can be noticed, besides the caller's own pace.
const TICK_MICROS: u64 = 64_000;
/// One lap is 65.5 s, longer than the usual poll; a longer deadline is passed over once a lap.
const TICKS: u64 = 1024;

/// A slab entry with a deadline.
pub(super) trait HasDeadline: ListNode {
    fn deadline(&self) -> MonotonicTime;
}

pub(super) struct TimerWheel {
    ticks: Box<[IntrusiveList]>,
    /// The first tick that may still hold something due.
    cursor: u64,
    /// A look that has been let go of in the middle of the cursor's tick.
    sweep: Option<Sweep>,
}

/// A look for what is due at one moment: time that passes meanwhile is the next one's.
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

    pub(super) fn insert<T: HasDeadline>(&mut self, slab: &mut Chunks<T>, at: u32) {
        let tick = slab[at].deadline().micros() / TICK_MICROS;
        debug_assert!(tick >= self.cursor, "a deadline before the latest look would wait a whole lap");
        self.list(tick).push_back(slab, at);
    }

    pub(super) fn remove<T: HasDeadline>(&mut self, slab: &mut Chunks<T>, at: u32) {
        if let Some(look) = &mut self.sweep
            && look.next == Some(at)
        {
            look.next = slab[at].next(ListKind::Deadline).next();
        }
        let tick = slab[at].deadline().micros() / TICK_MICROS;
        self.list(tick).remove(slab, at);
    }

    /// Entries whose deadline has come, `most` at a time of the next `scan` that a look passes; they stay in the wheel
    /// until removed, which the caller does before it looks again. Also says whether this look goes on: what is due
    /// when it begins has been found when it ends.
    pub(super) fn due<T: HasDeadline>(
        &mut self,
        slab: &Chunks<T>,
        now: MonotonicTime,
        scan: usize,
        most: usize,
    ) -> (Vec<u32>, bool) {
        let Sweep { until, mut next } = self.sweep.take().unwrap_or_else(|| self.begin(now));
        let last = until.micros() / TICK_MICROS;
        let mut due = Vec::new();
        let mut seen = 0;
        loop {
            while let Some(at) = next {
                if seen == scan || due.len() == most {
                    self.sweep = Some(Sweep { until, next });
                    return (due, true);
                }
                seen += 1;
                if slab[at].deadline() <= until {
                    due.push(at);
                }
                next = slab[at].next(ListKind::Deadline).next();
            }
            if self.cursor >= last {
                return (due, false);
            }
            self.cursor += 1;
            next = self.list(self.cursor).front();
        }
    }

    fn begin(&mut self, now: MonotonicTime) -> Sweep {
        // After a long sleep one lap sees every entry.
        self.cursor = self.cursor.max((now.micros() / TICK_MICROS).saturating_sub(TICKS - 1));
        Sweep { until: now, next: self.list(self.cursor).front() }
    }

    /// How many entries stand in it, by walking it: for audits.
    pub(super) fn len<T: HasDeadline>(&self, slab: &Chunks<T>) -> usize {
        self.ticks.iter().map(|chain| chain.iter(slab).count()).sum()
    }

    fn list(&mut self, tick: u64) -> &mut IntrusiveList {
        &mut self.ticks[usize_of(tick % TICKS)]
    }
}

#[expect(clippy::cast_possible_truncation, reason = "ticks of one lap")]
fn usize_of(tick: u64) -> usize {
    tick as usize
}

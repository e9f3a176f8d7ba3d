//! Owns the wheel: waiters by deadline, in ticks of 64 ms, so that a deadline costs O(1) to set and to cancel.

use super::Moment;
use super::chain::{Chain, Kind, Linked};
use super::chunks::Chunks;

/// How late a deadline can be noticed, besides the caller's own pace.
const TICK_MICROS: u64 = 64_000;
/// One lap is 65.5 s, longer than the usual poll; a longer deadline is passed over once a lap.
const TICKS: u64 = 1024;

/// A slab entry with a deadline.
pub(super) trait Timed: Linked {
    fn deadline(&self) -> Moment;
}

pub(super) struct Wheel {
    ticks: Box<[Chain]>,
    /// The first tick that may still hold something due.
    cursor: u64,
    /// A look that has been let go of in the middle of the cursor's tick.
    look: Option<Look>,
}

/// A look for what is due at one moment: time that passes meanwhile is the next one's.
struct Look {
    until: Moment,
    next: Option<u32>,
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self { ticks: vec![Chain::new(Kind::Deadline); usize_of(TICKS)].into(), cursor: 0, look: None }
    }

    pub(super) fn insert<T: Timed>(&mut self, slab: &mut Chunks<T>, at: u32) {
        let tick = slab[at].deadline().micros() / TICK_MICROS;
        debug_assert!(tick >= self.cursor, "a deadline before the latest look would wait a whole lap");
        self.chain(tick).push_back(slab, at);
    }

    pub(super) fn remove<T: Timed>(&mut self, slab: &mut Chunks<T>, at: u32) {
        if let Some(look) = &mut self.look
            && look.next == Some(at)
        {
            look.next = slab[at].next(Kind::Deadline).next();
        }
        let tick = slab[at].deadline().micros() / TICK_MICROS;
        self.chain(tick).remove(slab, at);
    }

    /// Entries whose deadline has come, `most` at a time of the next `scan` that a look passes; they stay in the wheel
    /// until removed, which the caller does before it looks again. Also says whether this look goes on: what is due
    /// when it begins has been found when it ends.
    pub(super) fn due<T: Timed>(
        &mut self,
        slab: &Chunks<T>,
        now: Moment,
        scan: usize,
        most: usize,
    ) -> (Vec<u32>, bool) {
        let Look { until, mut next } = self.look.take().unwrap_or_else(|| self.begin(now));
        let last = until.micros() / TICK_MICROS;
        let mut due = Vec::new();
        let mut seen = 0;
        loop {
            while let Some(at) = next {
                if seen == scan || due.len() == most {
                    self.look = Some(Look { until, next });
                    return (due, true);
                }
                seen += 1;
                if slab[at].deadline() <= until {
                    due.push(at);
                }
                next = slab[at].next(Kind::Deadline).next();
            }
            if self.cursor >= last {
                return (due, false);
            }
            self.cursor += 1;
            next = self.chain(self.cursor).front();
        }
    }

    fn begin(&mut self, now: Moment) -> Look {
        // After a long sleep one lap sees every entry.
        self.cursor = self.cursor.max((now.micros() / TICK_MICROS).saturating_sub(TICKS - 1));
        Look { until: now, next: self.chain(self.cursor).front() }
    }

    /// How many entries stand in it, by walking it: for audits.
    pub(super) fn len<T: Timed>(&self, slab: &Chunks<T>) -> usize {
        self.ticks.iter().map(|chain| chain.iter(slab).count()).sum()
    }

    fn chain(&mut self, tick: u64) -> &mut Chain {
        &mut self.ticks[usize_of(tick % TICKS)]
    }
}

#[expect(clippy::cast_possible_truncation, reason = "ticks of one lap")]
fn usize_of(tick: u64) -> usize {
    tick as usize
}

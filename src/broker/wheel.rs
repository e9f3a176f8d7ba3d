//! Owns the wheel: waiters by deadline, in ticks of 64 ms, so that a deadline costs O(1) to set and to cancel.

use slab::Slab;

use super::Moment;
use super::chain::{Chain, Kind, Linked};

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
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self { ticks: vec![Chain::new(Kind::Deadline); usize_of(TICKS)].into(), cursor: 0 }
    }

    pub(super) fn insert<T: Timed>(&mut self, slab: &mut Slab<T>, at: u32) {
        let tick = slab[at as usize].deadline().micros() / TICK_MICROS;
        debug_assert!(tick >= self.cursor, "a deadline before the latest look would wait a whole lap");
        self.chain(tick).push_back(slab, at);
    }

    pub(super) fn remove<T: Timed>(&mut self, slab: &mut Slab<T>, at: u32) {
        let tick = slab[at as usize].deadline().micros() / TICK_MICROS;
        self.chain(tick).remove(slab, at);
    }

    /// Entries whose deadline has come, `most` at a time; they stay in the wheel until removed.
    pub(super) fn due<T: Timed>(&mut self, slab: &Slab<T>, now: Moment, most: usize) -> Vec<u32> {
        let mut due = Vec::new();
        let last = now.micros() / TICK_MICROS;
        // After a long sleep one lap sees every entry.
        self.cursor = self.cursor.max(last.saturating_sub(TICKS - 1));
        loop {
            let chain = self.ticks[usize_of(self.cursor % TICKS)];
            for at in chain.iter(slab).filter(|&at| slab[at as usize].deadline() <= now) {
                if due.len() == most {
                    return due;
                }
                due.push(at);
            }
            if self.cursor >= last {
                return due;
            }
            self.cursor += 1;
        }
    }

    /// How many entries stand in it, by walking it: for audits.
    pub(super) fn len<T: Timed>(&self, slab: &Slab<T>) -> usize {
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

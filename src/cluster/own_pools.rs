//! Owns this broker's pools as it announces them to the others. It is pure, without clock or connection.
//!
//! A pool is announced at once when its count grows by a power of two, and after a short linger when it shrinks, so that a pool
//! that breathes between no waiter and one is quiet. Each announcement has a number, so that others notice a lost one.
//!
//! What others believe of a pool lies between two counts: `least`, the lowest that any of them may have been told, and `most`.
//! An answer to a forward tells one broker a count, too, which may be zero: then the next waiter is announced at once.

use std::collections::BTreeSet;
use std::time::Duration;

use ahash::RandomState;
use hashbrown::HashMap;

use super::codec::{Row, Waiters};
use super::digest::{Digest, PoolDigest};
use crate::broker::MonotonicTime;

/// How long a smaller count must last before it is announced.
pub const LINGER: Duration = Duration::from_millis(250);
/// The most rows of one announcement: about 100 KB.
pub const ROWS_PER_MESSAGE: usize = 4096;

/// This broker's pools.
#[derive(Default)]
pub struct OwnPools {
    /// The number of the last announcement.
    number: u64,
    pools: HashMap<Digest, OwnPool, RandomState>,
    /// Pools whose count has grown, to be announced.
    grown: BTreeSet<Digest>,
    /// Pools whose count has shrunk, by when that is announced.
    lingering: BTreeSet<(MonotonicTime, Digest)>,
}

#[derive(Default)]
struct OwnPool {
    prints: [u32; 2],
    waiters: Waiters,
    least: Waiters,
    most: Waiters,
    lingers_until: Option<MonotonicTime>,
}

impl OwnPools {
    /// The pool has this many waiters now.
    pub fn set(&mut self, pool: PoolDigest, waiters: Waiters, now: MonotonicTime) {
        let known = self.pools.entry(pool.key).or_default();
        (known.prints, known.waiters) = (pool.prints, waiters);
        self.review(pool.key, now);
    }

    /// The answer to a forward has told its broker that the pool has this many waiters.
    pub fn told(&mut self, pool: Digest, waiters: Waiters, now: MonotonicTime) {
        // A pool that is not known yet has just changed, and is set soon: perhaps to no waiters, which that broker must hear.
        let known = self.pools.entry(pool).or_default();
        for (kind, told) in waiters.into_iter().enumerate() {
            known.least[kind] = told.min(known.least[kind]);
            known.most[kind] = told.max(known.most[kind]);
        }
        self.review(pool, now);
    }

    /// Whether and how the pool's count is to be announced.
    fn review(&mut self, key: Digest, now: MonotonicTime) {
        let Some(pool) = self.pools.get_mut(&key) else { return };
        let lingered = pool.lingers_until;
        if is_above(pool.waiters, pool.least) {
            self.grown.insert(key);
        } else {
            self.grown.remove(&key);
        }
        pool.lingers_until =
            is_above(pool.most, pool.waiters).then(|| lingered.unwrap_or_else(|| now.plus(LINGER)));
        if pool.lingers_until != lingered {
            lingered.map(|until| self.lingering.remove(&(until, key)));
            pool.lingers_until.map(|until| self.lingering.insert((until, key)));
        }
        if pool.waiters == [0; 2] && pool.most == [0; 2] {
            self.pools.remove(&key);
        }
    }

    /// The next announcement, if there is one: its number and rows. To be called until there is none.
    pub fn announcement(&mut self, now: MonotonicTime) -> Option<(u64, Vec<Row>)> {
        let mut due: Vec<Digest> = Vec::new();
        while due.len() < ROWS_PER_MESSAGE
            && let Some(key) = self.grown.pop_first()
        {
            due.push(key);
        }
        while due.len() < ROWS_PER_MESSAGE
            && let Some(&(until, key)) = self.lingering.first().filter(|(until, _)| *until <= now)
        {
            self.lingering.remove(&(until, key));
            if let Some(pool) = self.pools.get_mut(&key) {
                pool.lingers_until = None;
            }
            if !due.contains(&key) {
                due.push(key);
            }
        }
        let rows: Vec<_> = due.into_iter().filter_map(|key| self.announce(key, now)).collect();
        (!rows.is_empty()).then(|| {
            self.number += 1;
            (self.number, rows)
        })
    }

    fn announce(&mut self, key: Digest, now: MonotonicTime) -> Option<Row> {
        let pool = self.pools.get_mut(&key)?;
        let waiters = pool.waiters;
        (pool.least, pool.most) = (waiters, waiters);
        let row = Row { pool: PoolDigest { key, prints: pool.prints }, waiters };
        self.review(key, now);
        Some(row)
    }

    /// Every pool that has waiters, for a snapshot. What others are told with it may be ignored by some of them.
    pub fn rows(&mut self) -> Vec<Row> {
        let mut rows = Vec::with_capacity(self.pools.len());
        for (&key, pool) in &mut self.pools {
            for kind in 0..pool.waiters.len() {
                pool.least[kind] = pool.least[kind].min(pool.waiters[kind]);
                pool.most[kind] = pool.most[kind].max(pool.waiters[kind]);
            }
            if pool.waiters != [0; 2] {
                rows.push(Row { pool: PoolDigest { key, prints: pool.prints }, waiters: pool.waiters });
            }
        }
        rows
    }

    /// All pools are gone for the others: this broker leaves. The number of the empty snapshot that tells them so.
    pub fn clear(&mut self) -> u64 {
        *self = Self { number: self.number + 1, ..Self::default() };
        self.number
    }

    /// The number of the last announcement.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether a pool is to be announced at once.
    pub fn has_news(&self) -> bool {
        !self.grown.is_empty()
    }
}

/// Whether a count is larger than the other by a power of two.
fn is_above(count: Waiters, other: Waiters) -> bool {
    count.iter().zip(other).any(|(&count, other)| size(count) > size(other))
}

/// 0, 1, 2 to 3, 4 to 7 and so on have one size each.
fn size(count: u32) -> u32 {
    u32::BITS - count.leading_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(number: u8) -> PoolDigest {
        PoolDigest { key: Digest::new([number; 16]), prints: [0, 1] }
    }

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime::from_micros(millis * 1000)
    }

    fn announced(own: &mut OwnPools, millis: u64) -> Vec<(u64, u8, u32)> {
        let mut all = Vec::new();
        while let Some((number, rows)) = own.announcement(at(millis)) {
            all.extend(rows.iter().map(|row| (number, row.pool.key.bytes()[0], row.waiters[0])));
        }
        all
    }

    #[test]
    fn the_first_waiter_is_announced_at_once_and_the_end_of_the_last_after_a_linger() {
        let mut own = OwnPools::default();
        own.set(pool(1), [1, 1], at(0));
        assert_eq!(announced(&mut own, 0), [(1, 1, 1)]);
        own.set(pool(1), [0, 0], at(10));
        own.set(pool(1), [1, 1], at(200));
        assert_eq!(announced(&mut own, 300), [], "it breathes");
        own.set(pool(1), [0, 0], at(310));
        assert_eq!(announced(&mut own, 500), []);
        assert_eq!(announced(&mut own, 560), [(2, 1, 0)]);
        assert!(own.pools.is_empty() && own.grown.is_empty() && own.lingering.is_empty());
    }

    #[test]
    fn counts_are_announced_by_powers_of_two() {
        let mut own = OwnPools::default();
        let mut numbers = Vec::new();
        for count in 1..=100 {
            own.set(pool(1), [count, count], at(0));
            numbers.extend(announced(&mut own, 0));
        }
        let counts: Vec<_> = numbers.iter().map(|(.., count)| *count).collect();
        assert_eq!(counts, [1, 2, 4, 8, 16, 32, 64]);
    }

    #[test]
    fn after_an_answer_of_zero_the_next_waiter_is_announced_at_once() {
        let mut own = OwnPools::default();
        own.set(pool(1), [1, 1], at(0));
        announced(&mut own, 0);
        own.set(pool(1), [0, 0], at(10));
        own.told(pool(1).key, [0, 0], at(10));
        own.set(pool(1), [1, 1], at(20));
        assert_eq!(announced(&mut own, 20), [(2, 1, 1)]);
        // The waiter came before the answer was noted.
        own.told(pool(1).key, [0, 0], at(30));
        assert_eq!(announced(&mut own, 30), [(3, 1, 1)]);
    }

    #[test]
    fn a_count_that_only_an_answer_told_is_corrected() {
        let mut own = OwnPools::default();
        own.set(pool(1), [1, 1], at(0));
        announced(&mut own, 0);
        own.set(pool(1), [2, 2], at(10));
        own.told(pool(1).key, [2, 2], at(11));
        // Before it was announced, one waiter left.
        own.set(pool(1), [1, 1], at(12));
        assert_eq!(announced(&mut own, 13), []);
        assert_eq!(announced(&mut own, 262), [(2, 1, 1)]);
        // The answer knew of a waiter before this did.
        own.told(pool(2).key, [1, 1], at(300));
        own.set(pool(2), [0, 0], at(302));
        assert_eq!(announced(&mut own, 550), [(3, 2, 0)]);
        assert_eq!(own.pools.len(), 1);
    }

    #[test]
    fn a_snapshot_has_every_pool_and_long_lists_are_parted() {
        let mut own = OwnPools::default();
        let key = |number: u32| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            PoolDigest { key: Digest::new(bytes), prints: [1, 2] }
        };
        for number in 0..5000 {
            own.set(key(number), [1, 0], at(0));
        }
        let first = own.announcement(at(0)).unwrap();
        let second = own.announcement(at(0)).unwrap();
        assert_eq!((first.0, first.1.len(), second.0, second.1.len()), (1, 4096, 2, 904));
        assert!(own.announcement(at(0)).is_none());
        own.set(key(7), [0, 0], at(1));
        assert_eq!((own.number(), own.rows().len()), (2, 4999));
    }
}

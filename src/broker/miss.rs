//! Owns why a run finds nobody: the reasons, counts of pools by deployment and version, and which pools were just emptied.

use std::time::Duration;

use ahash::RandomState;
use hashbrown::hash_table::Entry;

use super::sharded::Sharded;
use super::{KeyRef, MonotonicTime, POOL_PARTS};
use crate::model::MissReason;

/// For so long an emptied pool answers "all taken" rather than "no pool".
const RECENTLY_EMPTIED: Duration = Duration::from_secs(60);
/// So many emptied pools are remembered; of two that share a place, the later stays.
const REMEMBERED: usize = 1024;

/// Names are kept as 64-bit fingerprints: a collision could only make a reason less exact.
pub(super) struct MissIndex {
    /// A name, and how many pools bear it.
    pools: Sharded<(u64, u32)>,
    emptied: Box<[(u64, MonotonicTime)]>,
}

impl MissIndex {
    pub(super) fn new() -> Self {
        Self {
            pools: Sharded::new(POOL_PARTS),
            emptied: vec![(0, MonotonicTime::default()); REMEMBERED].into(),
        }
    }

    pub(super) fn pool_opened(&mut self, hasher: &RandomState, key: KeyRef<'_>) {
        for name in fingerprints(hasher, key) {
            self.entry(name).or_insert((name, 0)).get_mut().1 += 1;
        }
    }

    pub(super) fn pool_closed(&mut self, hasher: &RandomState, key: KeyRef<'_>) {
        for name in fingerprints(hasher, key) {
            if let Entry::Occupied(mut pools) = self.entry(name) {
                pools.get_mut().1 -= 1;
                if pools.get().1 == 0 {
                    pools.remove();
                }
            }
        }
    }

    fn entry(&mut self, name: u64) -> Entry<'_, (u64, u32)> {
        self.pools.part_mut(name).entry(name, |(other, _)| *other == name, |(name, _)| *name)
    }

    fn has(&self, name: u64) -> bool {
        self.pools.part(name).find(name, |(other, _)| *other == name).is_some()
    }

    /// A match has just taken the pool's last waiter.
    pub(super) fn pool_emptied(&mut self, key_hash: u64, now: MonotonicTime) {
        self.emptied[place(key_hash)] = (key_hash, now);
    }

    /// Why nobody waits under this key.
    pub(super) fn miss(
        &self,
        hasher: &RandomState,
        key: KeyRef<'_>,
        key_hash: u64,
        now: MonotonicTime,
    ) -> MissReason {
        let (hash, when) = self.emptied[place(key_hash)];
        if hash == key_hash && now.since(when) < RECENTLY_EMPTIED {
            return MissReason::AllTaken;
        }
        let [deployment, version] = fingerprints(hasher, key);
        if self.has(version) {
            MissReason::WrongMachine
        } else if self.has(deployment) {
            MissReason::WrongVersion
        } else {
            MissReason::NoPool
        }
    }

    pub(super) fn shrink(&mut self) -> impl Sized + use<> {
        self.pools.shrink()
    }

    pub(super) fn len(&self) -> usize {
        self.pools.len()
    }
}

fn fingerprints(hasher: &RandomState, key: KeyRef<'_>) -> [u64; 2] {
    [hasher.hash_one(key.deployment), hasher.hash_one((key.deployment, key.version))]
}

#[expect(clippy::cast_possible_truncation, reason = "only the low bits choose the place")]
fn place(hash: u64) -> usize {
    hash as usize % REMEMBERED
}

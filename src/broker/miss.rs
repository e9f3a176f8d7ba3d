//! Owns the index that shows why a run finds no waiter: counts of pools by deployment and version, and the pools that were
//! just emptied.

use std::time::Duration;

use ahash::RandomState;
use hashbrown::hash_table::Entry;

use super::sharded::Sharded;
use super::{KeyRef, MonotonicTime};
use crate::model::MissReason;

/// A pool that a match emptied less than this time ago is reported as "all taken" instead of "no pool".
const RECENTLY_EMPTIED: Duration = Duration::from_secs(60);
/// How many emptied pools are remembered; of two pools with the same index, the later one is kept.
const EMPTIED_POOLS: usize = 1024;

/// Deployments and versions are stored as 64-bit fingerprints: a collision can only make a reason less exact.
pub(super) struct MissIndex {
    /// A fingerprint, and how many pools have it.
    pools: Sharded<(u64, u32)>,
    emptied: Box<[(u64, MonotonicTime)]>,
}

impl MissIndex {
    pub(super) fn new(parts: usize) -> Self {
        Self {
            pools: Sharded::new(parts),
            emptied: vec![(0, MonotonicTime::default()); EMPTIED_POOLS].into(),
        }
    }

    pub(super) fn pool_opened(&mut self, hasher: &RandomState, key: KeyRef<'_>) {
        for print in fingerprints(hasher, key) {
            self.entry(print).or_insert((print, 0)).get_mut().1 += 1;
        }
    }

    pub(super) fn pool_closed(&mut self, hasher: &RandomState, key: KeyRef<'_>) {
        for print in fingerprints(hasher, key) {
            if let Entry::Occupied(mut pools) = self.entry(print) {
                pools.get_mut().1 -= 1;
                if pools.get().1 == 0 {
                    pools.remove();
                }
            }
        }
    }

    fn entry(&mut self, print: u64) -> Entry<'_, (u64, u32)> {
        self.pools.part_mut(print).entry(print, |(other, _)| *other == print, |(print, _)| *print)
    }

    fn has_pool(&self, print: u64) -> bool {
        self.pools.part(print).find(print, |(other, _)| *other == print).is_some()
    }

    /// A match has just removed the pool's last waiter.
    pub(super) fn pool_emptied(&mut self, key_hash: u64, now: MonotonicTime) {
        self.emptied[emptied_index(key_hash)] = (key_hash, now);
    }

    /// Why no pool has this key.
    pub(super) fn miss(
        &self,
        hasher: &RandomState,
        key: KeyRef<'_>,
        key_hash: u64,
        now: MonotonicTime,
    ) -> MissReason {
        let (hash, emptied_at) = self.emptied[emptied_index(key_hash)];
        if hash == key_hash && now.since(emptied_at) < RECENTLY_EMPTIED {
            return MissReason::AllTaken;
        }
        let [deployment, version] = fingerprints(hasher, key);
        if self.has_pool(version) {
            MissReason::WrongMachine
        } else if self.has_pool(deployment) {
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

#[expect(clippy::cast_possible_truncation, reason = "only the low bits select the entry")]
fn emptied_index(hash: u64) -> usize {
    hash as usize % EMPTIED_POOLS
}

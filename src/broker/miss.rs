//! Owns why a run finds nobody: the reasons, counts of pools by deployment and version, and which pools were just emptied.

use std::time::Duration;

use ahash::RandomState;
use hashbrown::hash_table::Entry;

use super::sharded::Sharded;
use super::{KeyRef, Moment, POOL_PARTS};

/// For so long an emptied pool answers "all taken" rather than "no pool".
const MOMENTS_AGO: Duration = Duration::from_secs(60);
/// So many emptied pools are remembered; of two that share a place, the later stays.
const REMEMBERED: usize = 1024;

/// Why a run found nobody. The first group comes from the core, the second from the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Miss {
    /// Nobody waits for this deployment.
    NoPool,
    /// The deployment has waiters, none of this version.
    WrongVersion,
    /// The version has waiters, none of this machine.
    WrongMachine,
    /// The pool was emptied moments ago, or its last waiters are about to leave.
    AllTaken,
    /// Only stock controllers wait, and the payload is not their message.
    NotAMessage,
    /// The broker is ending.
    Draining,

    /// Waiters were tried, none proved that it has the run.
    Undelivered,
    /// One waiter may have it: its proof did not come, and a second one must not get it.
    Unknown,
    /// The run names no deployment.
    NoDeployment,
    /// The broker sheds load.
    Overloaded,
}

impl Miss {
    /// The word for it in answers and metrics.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoPool => "no_pool",
            Self::WrongVersion => "wrong_version",
            Self::WrongMachine => "wrong_machine",
            Self::AllTaken => "all_taken",
            Self::NotAMessage => "not_a_message",
            Self::Draining => "draining",
            Self::Undelivered => "undelivered",
            Self::Unknown => "unknown",
            Self::NoDeployment => "no_deployment",
            Self::Overloaded => "overloaded",
        }
    }
}

/// Names are kept as 64-bit fingerprints: a collision could only make a reason less exact.
pub(super) struct Kin {
    /// A name, and how many pools bear it.
    pools: Sharded<(u64, u32)>,
    emptied: Box<[(u64, Moment)]>,
}

impl Kin {
    pub(super) fn new() -> Self {
        Self { pools: Sharded::new(POOL_PARTS), emptied: vec![(0, Moment::default()); REMEMBERED].into() }
    }

    pub(super) fn opened(&mut self, hasher: &RandomState, key: KeyRef<'_>) {
        for name in fingerprints(hasher, key) {
            self.entry(name).or_insert((name, 0)).get_mut().1 += 1;
        }
    }

    pub(super) fn closed(&mut self, hasher: &RandomState, key: KeyRef<'_>) {
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
    pub(super) fn emptied(&mut self, key_hash: u64, now: Moment) {
        self.emptied[place(key_hash)] = (key_hash, now);
    }

    /// Why nobody waits under this key.
    pub(super) fn miss(&self, hasher: &RandomState, key: KeyRef<'_>, key_hash: u64, now: Moment) -> Miss {
        let (hash, when) = self.emptied[place(key_hash)];
        if hash == key_hash && now.since(when) < MOMENTS_AGO {
            return Miss::AllTaken;
        }
        let [deployment, version] = fingerprints(hasher, key);
        if self.has(version) {
            Miss::WrongMachine
        } else if self.has(deployment) {
            Miss::WrongVersion
        } else {
            Miss::NoPool
        }
    }

    pub(super) fn tidy(&mut self) -> impl Sized + use<> {
        self.pools.tidy()
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

//! Owns which broker has claimed a waiter for a named run, as the brokers announce it: a later POST of the run is answered like the
//! first one, whichever broker gets it.

use std::time::Duration;

use ahash::RandomState;
use hashbrown::HashMap;

use super::codec::BrokerId;
use super::digest::Digest;
use crate::broker::MonotonicTime;

/// At most this many claims are kept; the older half is removed first.
const CAPACITY: usize = 100_000;

/// The latest claims, in two generations: the older one is removed as a whole.
#[derive(Default)]
pub struct Claims {
    current: HashMap<Digest, BrokerId, RandomState>,
    previous: HashMap<Digest, BrokerId, RandomState>,
    since: MonotonicTime,
}

impl Claims {
    /// This broker has claimed a waiter for the run. Runs are remembered for at least `remember_for`.
    pub fn add(&mut self, run: Digest, by: BrokerId, remember_for: Duration, now: MonotonicTime) {
        if self.current.len() >= CAPACITY / 2 || now.since(self.since) >= remember_for {
            self.previous = std::mem::take(&mut self.current);
            self.since = now;
        }
        self.current.insert(run, by);
    }

    /// The broker that has claimed a waiter for the run.
    pub fn owner(&self, run: Digest) -> Option<BrokerId> {
        self.current.get(&run).or_else(|| self.previous.get(&run)).copied()
    }
}

//! Owns the suspects: machines that did not prove the last run they were offered. Failure comes by the machine, so
//! one unproven offer speaks for all its waiters.

use std::time::Duration;

use ahash::RandomState;
use hashbrown::HashMap;

use super::{Moment, WaiterId};

/// By then every waiter of a machine that is really dead has ended by keepalive.
const SUSPECTED_FOR: Duration = Duration::from_secs(60);
/// So many are remembered; of more, the surplus is trusted.
const REMEMBERED: usize = 1024;

/// A machine by two names, each enough to recognise it: fingerprints of its address and of what it calls itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// The address that its controllers connect from.
    pub address: u64,
    /// The name that its controllers give, if they give one.
    pub name: Option<u64>,
}

impl Machine {
    fn names(self) -> impl Iterator<Item = u64> {
        [Some(self.address), self.name].into_iter().flatten()
    }
}

struct Suspicion {
    since: Moment,
    /// A waiter of the machine that was passed over: a sign of life from it clears the machine.
    sample: Option<WaiterId>,
}

#[derive(Default)]
pub(super) struct Suspects(HashMap<u64, Suspicion, RandomState>);

impl Suspects {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn suspect(&mut self, machine: Machine, now: Moment) {
        for name in machine.names() {
            if self.0.len() < REMEMBERED || self.0.contains_key(&name) {
                self.0.insert(name, Suspicion { since: now, sample: None });
            }
        }
    }

    pub(super) fn trust(&mut self, machine: Machine) {
        for name in machine.names() {
            self.0.remove(&name);
        }
    }

    pub(super) fn contains(&self, machine: Machine, now: Moment) -> bool {
        let suspected = |name| self.0.get(&name).is_some_and(|s| now.since(s.since) < SUSPECTED_FOR);
        !self.is_empty() && machine.names().any(suspected)
    }

    /// A waiter of a suspect machine was passed over.
    pub(super) fn passed_over(&mut self, machine: Machine, waiter: WaiterId) {
        for name in machine.names() {
            if let Some(suspicion) = self.0.get_mut(&name) {
                suspicion.sample = Some(waiter);
            }
        }
    }

    /// Forgets the old ones, and those whose sample `shows_life` since it became suspect so long ago.
    pub(super) fn review(&mut self, now: Moment, mut shows_life: impl FnMut(WaiterId, Duration) -> bool) {
        self.0.retain(|_, suspicion| {
            let ago = now.since(suspicion.since);
            ago < SUSPECTED_FOR && !suspicion.sample.is_some_and(|sample| shows_life(sample, ago))
        });
    }
}

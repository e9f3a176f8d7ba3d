//! Owns the suspects: machines that did not prove the last run they were offered. Failure comes by the machine, so
//! one unproven offer speaks for all its waiters.

use std::time::Duration;

use ahash::RandomState;
use hashbrown::HashMap;

use super::Moment;

/// By then every waiter of a machine that is really dead has ended by keepalive.
const SUSPECTED_FOR: Duration = Duration::from_secs(60);
/// So many are remembered; of more, the surplus is trusted.
const REMEMBERED: usize = 1024;
/// So many of a machine's waiters are asked for a sign of life at each review.
const ASKED: u32 = 3;

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

/// Machines by name, and since when.
#[derive(Default)]
pub(super) struct Suspects {
    since: HashMap<u64, Moment, RandomState>,
    /// Counts the times that a machine was cleared: pools that were looked through since are up to date.
    cleared: u64,
}

impl Suspects {
    pub(super) fn is_empty(&self) -> bool {
        self.since.is_empty()
    }

    pub(super) fn cleared(&self) -> u64 {
        self.cleared
    }

    pub(super) fn suspect(&mut self, machine: Machine, now: Moment) {
        for name in machine.names() {
            if self.since.len() < REMEMBERED || self.since.contains_key(&name) {
                self.since.insert(name, now);
            }
        }
    }

    pub(super) fn trust(&mut self, machine: Machine) {
        for name in machine.names() {
            self.cleared += u64::from(self.since.remove(&name).is_some());
        }
    }

    pub(super) fn contains(&self, machine: Machine) -> bool {
        !self.is_empty() && machine.names().any(|name| self.since.contains_key(&name))
    }

    /// Clears those of long ago, and those of which a waiter shows life since they became suspect.
    pub(super) fn review<'a, W: 'a>(
        &mut self,
        now: Moment,
        waiters: impl Iterator<Item = (Machine, &'a W)>,
        shows_life: impl Fn(&W, Duration) -> bool,
    ) {
        let before = self.since.len();
        self.since.retain(|_, since| now.since(*since) < SUSPECTED_FOR);
        let mut asked: HashMap<u64, u32, RandomState> = HashMap::default();
        for (machine, waiter) in waiters {
            for name in machine.names() {
                let Some(&since) = self.since.get(&name) else { continue };
                let asked = asked.entry(name).or_default();
                *asked += 1;
                if *asked <= ASKED && shows_life(waiter, now.since(since)) {
                    self.since.remove(&name);
                }
            }
        }
        self.cleared += u64::from(self.since.len() < before);
    }
}

//! Owns the suspects: machines that did not prove the last run they were offered. Failure comes by the machine, so
//! one unproven offer speaks for all its waiters.
//!
//! A machine's address is where the failure was seen, and is suspect until it shows life. Its name is a controller's word
//! that anybody can give, so it speaks for other addresses only until one of them shows life; from then on, for a while,
//! only their silence counts.

use std::time::Duration;

use ahash::RandomState;
use hashbrown::HashMap;

use super::MonotonicTime;

/// By then every waiter of a machine that is really dead has ended by keepalive.
const SUSPECTED_FOR: Duration = Duration::from_secs(60);
/// So many addresses and so many names are remembered; of more, the surplus is trusted.
const REMEMBERED: usize = 1024;
/// Whoever is asked for a sign of life answers within this time, or is silent.
const REPLY_TIMEOUT: Duration = Duration::from_secs(3);

/// A machine by two names, each enough to recognise it: fingerprints of its address and of what it calls itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostId {
    /// The address that its controllers connect from.
    pub address: u64,
    /// The name that its controllers give, if they give one.
    pub name: Option<u64>,
}

/// What is suspect, and since when: what a sign of life is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Suspicion {
    suspect: SuspectId,
    /// Only what was heard after this moment is a sign of life.
    pub since: MonotonicTime,
}

impl Suspicion {
    /// Whether its waiters are to be asked: an address shows life by itself, or does not.
    pub fn is_by_name(self) -> bool {
        matches!(self.suspect, SuspectId::Name(_))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum SuspectId {
    Address(u64),
    Name(u64),
}

/// What is thought of a name.
#[derive(Debug, Clone, Copy)]
enum NameState {
    /// Somebody of this name failed: all are suspect.
    Suspect { since: MonotonicTime },
    /// One of them showed life: who fails now speaks for others only if they are silent.
    Refuted { at: MonotonicTime, accused: Option<MonotonicTime> },
}

/// Addresses and names.
#[derive(Default)]
pub(super) struct SuspectSet {
    addresses: HashMap<u64, MonotonicTime, RandomState>,
    names: HashMap<u64, NameState, RandomState>,
    /// Counts the times that a machine was cleared: pools that were looked through since are up to date.
    cleared: u64,
}

impl SuspectSet {
    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.names.is_empty()
    }

    pub(super) fn cleared(&self) -> u64 {
        self.cleared
    }

    pub(super) fn suspect(&mut self, machine: HostId, now: MonotonicTime) {
        if self.addresses.len() < REMEMBERED || self.addresses.contains_key(&machine.address) {
            self.addresses.insert(machine.address, now);
        }
        let Some(name) = machine.name else { return };
        let has_room = self.names.len() < REMEMBERED;
        match self.names.get_mut(&name) {
            Some(NameState::Refuted { accused, .. }) => {
                accused.get_or_insert(now);
            }
            None if has_room => {
                self.names.insert(name, NameState::Suspect { since: now });
            }
            // The first failure counts: whoever repeats it does not put off the answer to it.
            Some(NameState::Suspect { .. }) | None => {}
        }
    }

    /// The machine proved a run.
    pub(super) fn trust(&mut self, machine: HostId, now: MonotonicTime) {
        self.cleared += u64::from(self.addresses.remove(&machine.address).is_some());
        if let Some(word) = machine.name.and_then(|name| self.names.get_mut(&name)) {
            *word = NameState::Refuted { at: now, accused: None };
            self.cleared += 1;
        }
    }

    pub(super) fn contains(&self, machine: HostId, now: MonotonicTime) -> bool {
        !self.is_empty() && (self.addresses.contains_key(&machine.address) || self.doubts(machine.name, now))
    }

    fn doubts(&self, name: Option<u64>, now: MonotonicTime) -> bool {
        match name.and_then(|name| self.names.get(&name)) {
            Some(NameState::Suspect { .. }) => true,
            Some(NameState::Refuted { accused: Some(since), .. }) => now.since(*since) >= REPLY_TIMEOUT,
            Some(NameState::Refuted { accused: None, .. }) | None => false,
        }
    }

    /// What a sign of life of this machine's waiter would clear. Who is suspect by address is no witness for the name.
    pub(super) fn suspicion_of(&self, machine: HostId) -> Option<Suspicion> {
        if let Some(&since) = self.addresses.get(&machine.address) {
            return Some(Suspicion { suspect: SuspectId::Address(machine.address), since });
        }
        let name = machine.name?;
        match *self.names.get(&name)? {
            NameState::Suspect { since } | NameState::Refuted { accused: Some(since), .. } => {
                Some(Suspicion { suspect: SuspectId::Name(name), since })
            }
            NameState::Refuted { accused: None, .. } => None,
        }
    }

    /// A waiter has shown life since; what came up meanwhile stays.
    pub(super) fn clear(&mut self, suspicion: Suspicion, now: MonotonicTime) {
        match suspicion.suspect {
            SuspectId::Address(address) if self.addresses.get(&address) == Some(&suspicion.since) => {
                self.addresses.remove(&address);
                self.cleared += 1;
            }
            SuspectId::Name(name) => {
                let Some(word) = self.names.get_mut(&name) else { return };
                let (NameState::Suspect { since } | NameState::Refuted { accused: Some(since), .. }) = *word
                else {
                    return;
                };
                if since == suspicion.since {
                    *word = NameState::Refuted { at: now, accused: None };
                    self.cleared += 1;
                }
            }
            SuspectId::Address(_) => {}
        }
    }

    /// Clears those of long ago.
    pub(super) fn forget_old(&mut self, now: MonotonicTime) {
        let before = self.addresses.len() + self.names.len();
        let is_recent = |since: MonotonicTime| now.since(since) < SUSPECTED_FOR;
        self.addresses.retain(|_, since| is_recent(*since));
        self.names.retain(|_, word| match *word {
            NameState::Suspect { since } => is_recent(since),
            NameState::Refuted { at, accused } => is_recent(accused.unwrap_or(at)),
        });
        self.cleared += u64::from(self.addresses.len() + self.names.len() < before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRANGER: HostId = HostId { address: 1, name: Some(7) };
    const ACCUSED: HostId = HostId { address: 2, name: Some(7) };

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime::from_micros(millis * 1000)
    }

    #[test]
    fn a_name_is_refuted_by_one_sign_of_life_and_then_only_silence_counts() {
        let mut suspects = SuspectSet::default();
        suspects.suspect(STRANGER, at(0));
        assert!(suspects.contains(ACCUSED, at(0)) && suspects.contains(STRANGER, at(0)));
        suspects.clear(suspects.suspicion_of(ACCUSED).unwrap(), at(100));
        assert!(!suspects.contains(ACCUSED, at(100)) && suspects.contains(STRANGER, at(100)));

        suspects.suspect(STRANGER, at(200));
        assert!(!suspects.contains(ACCUSED, at(200)), "a stranger's word, refuted just now");
        suspects.clear(suspects.suspicion_of(ACCUSED).unwrap(), at(300));
        assert!(!suspects.contains(ACCUSED, at(30_000)));

        suspects.suspect(STRANGER, at(30_000));
        assert!(suspects.contains(ACCUSED, at(33_000)), "nobody has answered for 3 s");
        suspects.forget_old(at(90_000));
        assert!(suspects.is_empty());
    }

    #[test]
    fn who_repeats_a_failure_does_not_put_off_its_answer() {
        let mut suspects = SuspectSet::default();
        suspects.suspect(STRANGER, at(0));
        let asked = suspects.suspicion_of(ACCUSED).unwrap();
        suspects.suspect(STRANGER, at(10));
        suspects.clear(asked, at(20));
        assert!(!suspects.contains(ACCUSED, at(20)));
    }

    #[test]
    fn an_address_that_fails_again_while_it_is_cleared_stays_suspect() {
        let mut suspects = SuspectSet::default();
        suspects.suspect(STRANGER, at(0));
        let asked = suspects.suspicion_of(STRANGER).unwrap();
        suspects.suspect(STRANGER, at(10));
        suspects.clear(asked, at(20));
        assert!(suspects.contains(STRANGER, at(20)));
    }

    #[test]
    fn who_is_suspect_by_address_is_no_witness_for_its_name() {
        let mut suspects = SuspectSet::default();
        suspects.suspect(STRANGER, at(0));
        assert!(!suspects.suspicion_of(STRANGER).unwrap().is_by_name());
        assert!(suspects.suspicion_of(ACCUSED).unwrap().is_by_name());
    }

    #[test]
    fn a_receipt_clears_a_machine_by_both_names() {
        let mut suspects = SuspectSet::default();
        suspects.suspect(STRANGER, at(0));
        suspects.trust(STRANGER, at(10));
        assert!(!suspects.contains(ACCUSED, at(10)) && !suspects.contains(STRANGER, at(10)));
    }

    #[test]
    fn so_many_names_are_remembered_and_no_more() {
        let mut suspects = SuspectSet::default();
        for name in 0..5000 {
            suspects.suspect(HostId { address: name, name: Some(name) }, at(0));
        }
        assert_eq!((suspects.addresses.len(), suspects.names.len()), (REMEMBERED, REMEMBERED));
    }
}

//! Owns the suspect hosts: those that did not prove the last run they were offered. Failures come by host, so one unproven
//! offer makes all waiters of the host suspect.
//!
//! A failure makes the host's address suspect until a waiter from it shows life. It also makes the host's name suspect. A
//! controller can claim any name, so the name counts for other addresses only until a waiter from one of them shows life.
//! From then on the name is refuted for a while: after another failure, the other addresses become suspect only if none of
//! their waiters shows life in time.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use ahash::RandomState;
use hashbrown::HashMap;

use super::MonotonicTime;

/// After this time, keepalive has ended every waiter of a dead host.
const SUSPECTED_FOR: Duration = Duration::from_secs(60);
/// At most this many addresses and this many names are suspect; further ones stay trusted.
const MAX_SUSPECTS: usize = 1024;
/// A live host answers a probe within this time.
const REPLY_TIMEOUT: Duration = Duration::from_secs(3);

/// The host of a controller: its address, and a fingerprint of its name. Each of them identifies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostId {
    /// The address that its controllers connect from.
    pub address: IpAddr,
    /// The name that its controllers give, if they give one.
    pub name: Option<NonZeroU64>,
}

/// What is suspect, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Suspicion {
    suspect: SuspectId,
    /// Only what was received after this time is a sign of life.
    pub since: MonotonicTime,
}

impl Suspicion {
    /// Whether the host's name is suspect. Its waiters are then probed; those of an address show life by themselves or not.
    pub fn is_by_name(self) -> bool {
        matches!(self.suspect, SuspectId::Name(_))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum SuspectId {
    Address(IpAddr),
    Name(NonZeroU64),
}

/// The state of a name.
#[derive(Debug, Clone, Copy)]
enum NameState {
    /// A host with this name failed: every host with this name is suspect.
    Suspect { since: MonotonicTime },
    /// A host with this name showed life. After a new failure, the hosts with this name are suspect if they stay silent.
    Refuted { since: MonotonicTime, failed_again: Option<MonotonicTime> },
}

#[derive(Default)]
pub(super) struct SuspectSet {
    addresses: HashMap<IpAddr, MonotonicTime, RandomState>,
    names: HashMap<NonZeroU64, NameState, RandomState>,
    /// How many suspicions were cleared. A pool compares it with the count at its last check.
    cleared: u64,
}

impl SuspectSet {
    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.names.is_empty()
    }

    pub(super) fn cleared(&self) -> u64 {
        self.cleared
    }

    pub(super) fn suspect(&mut self, host: HostId, now: MonotonicTime) {
        if self.addresses.len() < MAX_SUSPECTS || self.addresses.contains_key(&host.address) {
            self.addresses.insert(host.address, now);
        }
        let Some(name) = host.name else { return };
        let has_space = self.names.len() < MAX_SUSPECTS;
        match self.names.get_mut(&name) {
            Some(NameState::Refuted { failed_again, .. }) => {
                failed_again.get_or_insert(now);
            }
            None if has_space => {
                self.names.insert(name, NameState::Suspect { since: now });
            }
            // The time of the first failure is kept, so that repeated failures do not postpone the clearance.
            Some(NameState::Suspect { .. }) | None => {}
        }
    }

    /// The host proved a run.
    pub(super) fn trust(&mut self, host: HostId, now: MonotonicTime) {
        self.cleared += u64::from(self.addresses.remove(&host.address).is_some());
        if let Some(state) = host.name.and_then(|name| self.names.get_mut(&name)) {
            *state = NameState::Refuted { since: now, failed_again: None };
            self.cleared += 1;
        }
    }

    pub(super) fn contains(&self, host: HostId, now: MonotonicTime) -> bool {
        !self.is_empty()
            && (self.addresses.contains_key(&host.address) || self.is_name_suspect(host.name, now))
    }

    fn is_name_suspect(&self, name: Option<NonZeroU64>, now: MonotonicTime) -> bool {
        match name.and_then(|name| self.names.get(&name)) {
            Some(NameState::Suspect { .. }) => true,
            Some(NameState::Refuted { failed_again: Some(since), .. }) => now.since(*since) >= REPLY_TIMEOUT,
            Some(NameState::Refuted { failed_again: None, .. }) | None => false,
        }
    }

    /// The suspicion that a sign of life of this host's waiter clears. While the address is suspect, its waiters do not clear
    /// the name.
    pub(super) fn suspicion_of(&self, host: HostId) -> Option<Suspicion> {
        if let Some(&since) = self.addresses.get(&host.address) {
            return Some(Suspicion { suspect: SuspectId::Address(host.address), since });
        }
        let name = host.name?;
        match *self.names.get(&name)? {
            NameState::Suspect { since } | NameState::Refuted { failed_again: Some(since), .. } => {
                Some(Suspicion { suspect: SuspectId::Name(name), since })
            }
            NameState::Refuted { failed_again: None, .. } => None,
        }
    }

    /// A waiter has shown life since this suspicion. A suspicion that arose later stays.
    pub(super) fn clear(&mut self, suspicion: Suspicion, now: MonotonicTime) {
        match suspicion.suspect {
            SuspectId::Address(address) if self.addresses.get(&address) == Some(&suspicion.since) => {
                self.addresses.remove(&address);
                self.cleared += 1;
            }
            SuspectId::Name(name) => {
                let Some(state) = self.names.get_mut(&name) else { return };
                let (NameState::Suspect { since } | NameState::Refuted { failed_again: Some(since), .. }) =
                    *state
                else {
                    return;
                };
                if since == suspicion.since {
                    *state = NameState::Refuted { since: now, failed_again: None };
                    self.cleared += 1;
                }
            }
            SuspectId::Address(_) => {}
        }
    }

    /// Clears suspicions that are older than [`SUSPECTED_FOR`].
    pub(super) fn forget_old(&mut self, now: MonotonicTime) {
        let before = self.addresses.len() + self.names.len();
        let is_recent = |since: MonotonicTime| now.since(since) < SUSPECTED_FOR;
        self.addresses.retain(|_, since| is_recent(*since));
        self.names.retain(|_, state| match *state {
            NameState::Suspect { since } => is_recent(since),
            NameState::Refuted { since, failed_again } => is_recent(failed_again.unwrap_or(since)),
        });
        self.cleared += u64::from(self.addresses.len() + self.names.len() < before);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const FAILING: HostId = host(1, 7);
    const OTHER: HostId = host(2, 7);

    const fn host(address: u32, name: u64) -> HostId {
        HostId { address: IpAddr::V4(Ipv4Addr::from_bits(address)), name: NonZeroU64::new(name) }
    }

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime::from_micros(millis * 1000)
    }

    #[test]
    fn a_name_is_refuted_by_one_sign_of_life_and_then_only_silence_counts() {
        let mut suspects = SuspectSet::default();
        suspects.suspect(FAILING, at(0));
        assert!(suspects.contains(OTHER, at(0)) && suspects.contains(FAILING, at(0)));
        suspects.clear(suspects.suspicion_of(OTHER).unwrap(), at(100));
        assert!(!suspects.contains(OTHER, at(100)) && suspects.contains(FAILING, at(100)));

        suspects.suspect(FAILING, at(200));
        assert!(!suspects.contains(OTHER, at(200)), "the name was refuted just now");
        suspects.clear(suspects.suspicion_of(OTHER).unwrap(), at(300));
        assert!(!suspects.contains(OTHER, at(30_000)));

        suspects.suspect(FAILING, at(30_000));
        assert!(suspects.contains(OTHER, at(33_000)), "no other host has shown life for 3 s");
        suspects.forget_old(at(90_000));
        assert!(suspects.is_empty());
    }

    #[test]
    fn a_repeated_failure_does_not_postpone_the_clearance() {
        let mut suspects = SuspectSet::default();
        suspects.suspect(FAILING, at(0));
        let suspicion = suspects.suspicion_of(OTHER).unwrap();
        suspects.suspect(FAILING, at(10));
        suspects.clear(suspicion, at(20));
        assert!(!suspects.contains(OTHER, at(20)));
    }

    #[test]
    fn an_address_that_fails_again_during_its_clearance_stays_suspect() {
        let mut suspects = SuspectSet::default();
        suspects.suspect(FAILING, at(0));
        let suspicion = suspects.suspicion_of(FAILING).unwrap();
        suspects.suspect(FAILING, at(10));
        suspects.clear(suspicion, at(20));
        assert!(suspects.contains(FAILING, at(20)));
    }

    #[test]
    fn a_host_whose_address_is_suspect_does_not_clear_its_name() {
        let mut suspects = SuspectSet::default();
        suspects.suspect(FAILING, at(0));
        assert!(!suspects.suspicion_of(FAILING).unwrap().is_by_name());
        assert!(suspects.suspicion_of(OTHER).unwrap().is_by_name());
    }

    #[test]
    fn a_proof_clears_address_and_name() {
        let mut suspects = SuspectSet::default();
        suspects.suspect(FAILING, at(0));
        suspects.trust(FAILING, at(10));
        assert!(!suspects.contains(OTHER, at(10)) && !suspects.contains(FAILING, at(10)));
    }

    #[test]
    fn the_number_of_suspects_is_bounded() {
        let mut suspects = SuspectSet::default();
        for number in 1..5000 {
            suspects.suspect(host(number, number.into()), at(0));
        }
        assert_eq!((suspects.addresses.len(), suspects.names.len()), (MAX_SUSPECTS, MAX_SUSPECTS));
    }
}

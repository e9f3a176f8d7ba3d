//! Owns the small facts about a connection, packed: every held connection pays for each byte of them.

use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::time::Duration;

/// A round trip is kept in units of this length, up to 2 s.
const UNIT: Duration = Duration::from_micros(32);
const UNKNOWN: u16 = u16::MAX;

/// What has become true of a connection, and stays so.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum Flag {
    /// The peer has sent something that was read.
    HasReceived = 1,
    /// Nothing more will be written, and our end was sent.
    WriteShutdown = 2,
    /// A relay in between has passed its client on.
    IsRelayed = 4,
}

/// The facts of one connection.
pub(super) struct Flags {
    known: AtomicU8,
    round_trip: AtomicU16,
}

impl Flags {
    pub(super) fn new() -> Self {
        Self { known: AtomicU8::new(0), round_trip: AtomicU16::new(UNKNOWN) }
    }

    pub(super) fn has(&self, fact: Flag) -> bool {
        self.known.load(Ordering::Relaxed) & fact as u8 != 0
    }

    pub(super) fn set(&self, fact: Flag) {
        // Nearly always it is known already, and a look costs less than a write.
        if !self.has(fact) {
            self.known.fetch_or(fact as u8, Ordering::Relaxed);
        }
    }

    /// The round-trip time; the first time it is measured.
    pub(super) fn round_trip(&self, measure: impl FnOnce() -> Duration) -> Duration {
        let mut units = self.round_trip.load(Ordering::Relaxed);
        if units == UNKNOWN {
            units =
                u16::try_from(measure().as_micros() / UNIT.as_micros()).unwrap_or(UNKNOWN).min(UNKNOWN - 1);
            self.round_trip.store(units, Ordering::Relaxed);
        }
        UNIT * units.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_apart_and_a_round_trip_is_measured_once() {
        let facts = Flags::new();
        facts.set(Flag::WriteShutdown);
        assert!(
            facts.has(Flag::WriteShutdown) && !facts.has(Flag::HasReceived) && !facts.has(Flag::IsRelayed)
        );
        assert_eq!(facts.round_trip(|| Duration::from_millis(32)), Duration::from_millis(32));
        assert_eq!(facts.round_trip(|| panic!("it is known")), Duration::from_millis(32));
        let far = Flags::new().round_trip(|| Duration::from_secs(60));
        assert!(far > Duration::from_secs(2), "{far:?}");
    }
}

//! Owns a connection's one-way flags and its round-trip time in four bytes, because every held connection pays for them.

use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::time::Duration;

/// A round-trip time is stored as a multiple of this, up to 2 s.
const ROUND_TRIP_UNIT: Duration = Duration::from_micros(32);
const NOT_MEASURED: u16 = u16::MAX;

/// A property of a connection that is never cleared once it is set.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum Flag {
    /// A byte from the peer was read.
    HasReceived = 1,
    /// Our FIN was sent: nothing more can be written.
    WriteShutdown = 2,
    /// The connection comes through a layer 4 proxy, on behalf of a client.
    IsRelayed = 4,
    /// How much may be unsent is limited.
    LimitsUnsent = 8,
    /// How much may wait unread in the kernel is limited.
    LimitsUnread = 16,
}

/// The flags of one connection, and its round-trip time.
pub(super) struct Flags {
    bits: AtomicU8,
    round_trip: AtomicU16,
}

impl Flags {
    pub(super) fn new() -> Self {
        Self { bits: AtomicU8::new(0), round_trip: AtomicU16::new(NOT_MEASURED) }
    }

    pub(super) fn has(&self, flag: Flag) -> bool {
        self.bits.load(Ordering::Relaxed) & flag as u8 != 0
    }

    pub(super) fn set(&self, flag: Flag) {
        // It is nearly always set already, and a load is cheaper than a read-modify-write.
        if !self.has(flag) {
            self.bits.fetch_or(flag as u8, Ordering::Relaxed);
        }
    }

    /// The round-trip time. The first call measures it, later ones return the same value.
    pub(super) fn round_trip(&self, measure: impl FnOnce() -> Duration) -> Duration {
        let mut units = self.round_trip.load(Ordering::Relaxed);
        if units == NOT_MEASURED {
            units = u16::try_from(measure().as_micros() / ROUND_TRIP_UNIT.as_micros())
                .unwrap_or(NOT_MEASURED)
                .min(NOT_MEASURED - 1);
            self.round_trip.store(units, Ordering::Relaxed);
        }
        ROUND_TRIP_UNIT * units.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_independent_and_a_round_trip_is_measured_once() {
        let flags = Flags::new();
        flags.set(Flag::WriteShutdown);
        assert!(
            flags.has(Flag::WriteShutdown) && !flags.has(Flag::HasReceived) && !flags.has(Flag::IsRelayed)
        );
        assert_eq!(flags.round_trip(|| Duration::from_millis(32)), Duration::from_millis(32));
        assert_eq!(flags.round_trip(|| panic!("it is measured already")), Duration::from_millis(32));
        let far = Flags::new().round_trip(|| Duration::from_secs(60));
        assert!(far > Duration::from_secs(2), "{far:?}");
    }
}

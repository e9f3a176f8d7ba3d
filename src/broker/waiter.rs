//! Owns a waiter as the core keeps it, and its class.

use std::net::IpAddr;
use std::num::NonZeroU64;

use super::list::{Link, ListKind, ListNode};
use super::timer_wheel::HasDeadline;
use super::{AcceptedPayload, HostId, MonotonicTime, ParkRequest};

/// The queue of its pool that a waiter is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaiterClass {
    /// Offered first; by the payload that it accepts.
    Trusted(AcceptedPayload),
    /// Offered last, because its host did not prove its last run.
    Suspect(AcceptedPayload),
    /// Too near its deadline to be offered anything.
    Late,
}

impl WaiterClass {
    pub(super) const ALL: [Self; 5] = [
        Self::Trusted(AcceptedPayload::TriggerMessage),
        Self::Trusted(AcceptedPayload::Any),
        Self::Suspect(AcceptedPayload::TriggerMessage),
        Self::Suspect(AcceptedPayload::Any),
        Self::Late,
    ];

    /// The class of a waiter after its host has become suspect.
    pub(super) const fn suspect(self) -> Self {
        match self {
            Self::Trusted(accepted) | Self::Suspect(accepted) => Self::Suspect(accepted),
            Self::Late => Self::Late,
        }
    }

    /// Its index in [`Self::ALL`].
    pub(super) const fn index(self) -> usize {
        match self {
            Self::Trusted(accepted) => accepted as usize,
            Self::Suspect(accepted) => AcceptedPayload::ALL.len() + accepted as usize,
            Self::Late => 2 * AcceptedPayload::ALL.len(),
        }
    }
}

/// A waiter in the slab. There are as many as held polls, so a test states the size.
pub(super) struct WaiterEntry<W> {
    pub(super) waiter: W,
    pub(super) controller: Box<str>,
    host_name: Option<NonZeroU64>,
    links: [Link; 2],
    pub(super) pool: u32,
    serial: SixBytes,
    since: SixBytes,
    offer_until: SixBytes,
    deadline: SixBytes,
    pub(super) class: WaiterClass,
    /// It is in the index of controllers.
    pub(super) is_indexed: bool,
    pub(super) address: IpAddr,
}

impl<W> WaiterEntry<W> {
    /// A waiter of this pool, parked now, that is in no queue yet.
    pub(super) fn new(serial: u64, pool: u32, request: ParkRequest<'_, W>, now: MonotonicTime) -> Self {
        Self {
            is_indexed: request.is_exclusive && !request.controller.is_empty(),
            waiter: request.waiter,
            controller: request.controller,
            host_name: request.host.name,
            links: [Link::UNLINKED; 2],
            pool,
            serial: SixBytes::new(serial),
            since: now.into(),
            offer_until: request.offer_until.into(),
            deadline: request.deadline.max(now).into(),
            class: WaiterClass::Trusted(request.accepts),
            address: request.host.address,
        }
    }

    /// Its number in the sequence of parked waiters.
    pub(super) fn serial(&self) -> u64 {
        self.serial.get()
    }

    /// When it was parked.
    pub(super) fn since(&self) -> MonotonicTime {
        self.since.into()
    }

    /// It is matched only before this time.
    pub(super) fn offer_until(&self) -> MonotonicTime {
        self.offer_until.into()
    }

    /// The host. Its parts are fields of the entry, where they need less space than as a [`HostId`].
    pub(super) fn host(&self) -> HostId {
        HostId { address: self.address, name: self.host_name }
    }
}

impl<W> ListNode for WaiterEntry<W> {
    fn link(&mut self, kind: ListKind) -> &mut Link {
        &mut self.links[kind as usize]
    }

    fn next(&self, kind: ListKind) -> Link {
        self.links[kind as usize]
    }
}

impl<W> HasDeadline for WaiterEntry<W> {
    fn deadline(&self) -> MonotonicTime {
        self.deadline.into()
    }
}

/// A number below 2^48, which nine years of microseconds are; a larger one becomes the largest.
#[derive(Clone, Copy)]
struct SixBytes([u8; 6]);

impl SixBytes {
    fn new(value: u64) -> Self {
        let [low @ .., _, _] = value.min((1 << 48) - 1).to_le_bytes();
        Self(low)
    }

    fn get(self) -> u64 {
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(&self.0);
        u64::from_le_bytes(bytes)
    }
}

impl From<MonotonicTime> for SixBytes {
    fn from(time: MonotonicTime) -> Self {
        Self::new(time.micros())
    }
}

impl From<SixBytes> for MonotonicTime {
    fn from(time: SixBytes) -> Self {
        Self::from_micros(time.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A waiter as large as the long poll: two pointers and a few flags.
    type Token = (Box<()>, &'static (), [bool; 3]);

    /// What the slab stores.
    #[expect(dead_code, reason = "only its size counts")]
    enum Slot<T> {
        Vacant(usize),
        Occupied(T),
    }

    #[test]
    fn a_slot_of_the_slab_is_small() {
        assert_eq!(size_of::<Slot<WaiterEntry<Token>>>(), 112);
    }

    #[test]
    fn a_large_number_saturates() {
        let largest = (1 << 48) - 1;
        for (value, kept) in [(0, 0), (7 << 40, 7 << 40), (largest, largest), (u64::MAX, largest)] {
            assert_eq!(SixBytes::new(value).get(), kept);
        }
    }
}

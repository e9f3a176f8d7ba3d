//! Owns a waiter as the core keeps it, and its class.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use super::list::{Link, ListKind, ListNode};
use super::timer_wheel::HasDeadline;
use super::{AcceptedPayload, HostId, MonotonicTime};

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

pub(super) struct WaiterEntry<W> {
    pub(super) serial: u64,
    pub(super) pool: u32,
    pub(super) class: WaiterClass,
    pub(super) controller: Arc<str>,
    pub(super) address: IpAddr,
    pub(super) host_name: Option<NonZeroU64>,
    pub(super) since: MonotonicTime,
    pub(super) offer_until: MonotonicTime,
    pub(super) deadline: MonotonicTime,
    pub(super) links: [Link; 2],
    pub(super) waiter: W,
}

impl<W> WaiterEntry<W> {
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
        self.deadline
    }
}

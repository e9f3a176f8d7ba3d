//! Owns what passes the core's door: tickets and asks on the way in, places, matches and taken waiters on the way out.

use std::net::IpAddr;
use std::time::Duration;

use super::{AcceptedPayload, HostId, Key, KeyRef, MonotonicTime, PayloadKind};
use crate::model::MissReason;

/// Names one held request for ever: the serial is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WaiterId {
    pub(super) slot: u32,
    pub(super) serial: u64,
}

/// A point in the sequence of parkings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermark(pub(super) u64);

/// What a held request asks for.
#[derive(Debug)]
pub struct ParkRequest<W> {
    /// The pool to wait in.
    pub key: Key,
    /// What may be handed to it.
    pub accepts: AcceptedPayload,
    /// The controller's name for itself; empty if it gave none.
    pub controller: Box<str>,
    /// Where the request came from. A later request of the same controller, pool and origin replaces it.
    pub origin: IpAddr,
    /// The machine that it runs on.
    pub host: HostId,
    /// It is matched only before this moment (the retire guard).
    pub offer_until: MonotonicTime,
    /// It expires at this moment.
    pub deadline: MonotonicTime,
    /// What the shell gets back when the waiter is taken.
    pub waiter: W,
}

/// A waiter that has just been taken out; its ending is the caller's to bring about.
#[derive(Debug)]
pub struct RemovedWaiter<W> {
    /// What the shell gave with the ticket.
    pub waiter: W,
    /// The controller's name for itself; empty if it gave none.
    pub controller: Box<str>,
    /// The machine that it runs on.
    pub host: HostId,
    /// How long it has waited.
    pub held: Duration,
}

/// A place in a pool.
#[derive(Debug)]
pub struct ParkOutcome<W> {
    /// The new waiter's name.
    pub id: WaiterId,
    /// The same controller's older waiter, taken out because the newest wins.
    pub replaced: Option<RemovedWaiter<W>>,
}

/// What a run needs from a waiter.
#[derive(Debug, Clone, Copy)]
pub struct ClaimRequest<'a> {
    /// The pool that fits the run.
    pub key: KeyRef<'a>,
    /// The kind of the run's payload.
    pub payload_kind: PayloadKind,
}

/// The outcome of an offer.
#[derive(Debug)]
pub enum Claim<W> {
    /// This waiter is the run's; nobody else can take it.
    Matched(RemovedWaiter<W>),
    /// Nobody fits.
    Miss(MissReason),
}

/// An offer passed over as many waiters as one hold of the lock allows, and there are more to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetSpent;

//! Owns the arguments and results of the core's operations.

use std::time::Duration;

use super::{AcceptedPayload, HostId, Key, KeyRef, MonotonicTime, PayloadKind};
use crate::model::MissReason;

/// Identifies one held request for ever: a serial is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WaiterId {
    pub(super) slot: u32,
    pub(super) serial: u64,
}

/// A point in the sequence of parked waiters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermark(pub(super) u64);

/// A held request that is to wait in a pool.
#[derive(Debug)]
pub struct ParkRequest<'a, W> {
    /// The pool to wait in.
    pub key: KeyRef<'a>,
    /// The payloads that it accepts.
    pub accepts: AcceptedPayload,
    /// The controller's name for itself; empty if it gave none.
    pub controller: Box<str>,
    /// The host that its controller runs on.
    pub host: HostId,
    /// A later request of the same controller and pool from its address replaces it, and it replaces an earlier one. Not set for
    /// the slots of one connection, which replace each other only all together.
    pub is_exclusive: bool,
    /// It is matched only before this time (the retire guard).
    pub offer_until: MonotonicTime,
    /// It expires at this time.
    pub deadline: MonotonicTime,
    /// What the caller gets back when the waiter is removed.
    pub waiter: W,
}

/// A waiter that has just been removed. The caller must end it: with a response, or by closing the connection.
#[derive(Debug)]
pub struct RemovedWaiter<W> {
    /// The `waiter` of its [`ParkRequest`].
    pub waiter: W,
    /// The controller's name for itself; empty if it gave none.
    pub controller: Box<str>,
    /// The host that its controller runs on.
    pub host: HostId,
    /// How long it has waited.
    pub held: Duration,
    /// The key of its pool, if the caller cannot know it and [keys are reported](super::Broker::report_keys).
    pub key: Option<Box<Key>>,
}

/// A successful [`park`](super::Broker::park).
#[derive(Debug)]
pub struct ParkOutcome<W> {
    /// The new waiter.
    pub id: WaiterId,
    /// The same controller's older waiter, removed because the newest wins.
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

/// The outcome of a [`claim`](super::Broker::claim).
#[derive(Debug)]
pub enum Claim<W> {
    /// The run has this waiter, and no other run can get it.
    Matched(RemovedWaiter<W>),
    /// No waiter fits.
    Miss(MissReason),
}

/// A claim moved as many waiters as it may under one lock, and must be called again to continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetSpent;

//! Owns what all dispatches share, and how many POSTs and forwards are in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::inferred_proxies::InferredProxies;
use super::remote::RemoteSlot;
use super::request::{Hit, IdempotencyKey};
use crate::exchange::{IdempotencyCache, LeaderGuard};
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::model::MissReason;
use crate::transport::Exchange;

/// What is remembered of a run that a waiter has, or may have, to answer its later POSTs: the number of offers and their
/// result.
pub(super) type CachedOutcome = (u32, Result<Hit, MissReason>);
/// Held by the one POST of a run that offers it.
pub(super) type Leader = LeaderGuard<IdempotencyKey, CachedOutcome>;

/// What all dispatches share.
pub(super) struct Shared {
    pub(super) exchange: Arc<Exchange>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) journal: Arc<Journal>,
    pub(super) idempotency: Arc<IdempotencyCache<IdempotencyKey, CachedOutcome>>,
    pub(super) inferred_proxies: InferredProxies,
    /// The waiters of other brokers, if this one is in a cluster.
    pub(super) remote: RemoteSlot,
    posts: AtomicUsize,
    forwards: AtomicUsize,
}

impl Shared {
    pub(super) fn new(exchange: Arc<Exchange>, metrics: Arc<Metrics>, journal: Arc<Journal>) -> Self {
        Self {
            exchange,
            metrics,
            journal,
            idempotency: Arc::default(),
            inferred_proxies: InferredProxies::default(),
            remote: RemoteSlot::new(),
            posts: AtomicUsize::new(0),
            forwards: AtomicUsize::new(0),
        }
    }

    /// How many are in flight.
    pub(super) fn in_flight(&self, what: Flight) -> usize {
        self.count(what).load(Ordering::Relaxed)
    }

    fn count(&self, what: Flight) -> &AtomicUsize {
        match what {
            Flight::Post => &self.posts,
            Flight::Forward => &self.forwards,
        }
    }
}

/// What is counted while it is in flight.
#[derive(Clone, Copy)]
pub(super) enum Flight {
    /// A POST of a client.
    Post,
    /// A run that another broker has forwarded.
    Forward,
}

/// One POST or forward in flight, until it is released or dropped.
pub(super) struct InFlightGuard {
    shared: Arc<Shared>,
    what: Flight,
    is_released: bool,
}

impl InFlightGuard {
    pub(super) fn new(shared: &Arc<Shared>, what: Flight) -> Self {
        shared.count(what).fetch_add(1, Ordering::Relaxed);
        Self { shared: shared.clone(), what, is_released: false }
    }

    /// It is not in flight any more.
    pub(super) fn release(&mut self) {
        if !std::mem::replace(&mut self.is_released, true) {
            self.shared.count(self.what).fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.release();
    }
}

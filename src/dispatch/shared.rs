//! Owns what all dispatches share, and how many POSTs are in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::inferred_proxies::InferredProxies;
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
    in_flight: AtomicUsize,
}

impl Shared {
    pub(super) fn new(exchange: Arc<Exchange>, metrics: Arc<Metrics>, journal: Arc<Journal>) -> Self {
        Self {
            exchange,
            metrics,
            journal,
            idempotency: Arc::default(),
            inferred_proxies: InferredProxies::default(),
            in_flight: AtomicUsize::new(0),
        }
    }

    /// POSTs in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// One POST in flight, until this is dropped: its answer is written and its record complete.
pub(super) struct InFlightGuard(Arc<Shared>);

impl InFlightGuard {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        shared.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(shared.clone())
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

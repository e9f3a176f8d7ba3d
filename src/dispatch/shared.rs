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

/// One POST in flight, until it is released or dropped.
pub(super) struct InFlightGuard {
    shared: Arc<Shared>,
    is_released: bool,
}

impl InFlightGuard {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        shared.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { shared: shared.clone(), is_released: false }
    }

    /// The POST is not in flight any more.
    pub(super) fn release(&mut self) {
        if !std::mem::replace(&mut self.is_released, true) {
            self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
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

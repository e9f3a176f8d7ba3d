//! Owns the hopes: runs that wait a moment for a controller of their key to come.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::{Equivalent, HashMap};

use super::Exchange;
use super::sync::Notify;
use crate::broker::{Key, KeyRef};

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self == key.as_ref()
    }
}

/// One wake per key, with the number of runs that share it.
#[derive(Default)]
pub(super) struct Hopes {
    by_key: HashMap<Key, (Arc<Notify>, usize), RandomState>,
}

impl Hopes {
    pub(super) fn join(&mut self, key: KeyRef<'_>) -> Arc<Notify> {
        let (wake, sharers) = self.by_key.entry(key.into()).or_default();
        *sharers += 1;
        wake.clone()
    }

    /// Returns whom to wake: this run may have been woken for a waiter that it did not need, so the next one looks.
    pub(super) fn part(&mut self, key: KeyRef<'_>) -> Option<Arc<Notify>> {
        let (wake, sharers) = self.by_key.get_mut(&key)?;
        *sharers -= 1;
        if *sharers > 0 {
            return Some(wake.clone());
        }
        self.by_key.remove(&key);
        None
    }

    /// Whom to wake when somebody parks under this key.
    pub(super) fn of(&self, key: KeyRef<'_>) -> Option<Arc<Notify>> {
        if self.by_key.is_empty() {
            return None;
        }
        self.by_key.get(&key).map(|(wake, _)| wake.clone())
    }

    /// Whom to wake when nobody will be matched any more; each passes it on as it parts.
    pub(super) fn all(&self) -> Vec<Arc<Notify>> {
        self.by_key.values().map(|(wake, _)| wake.clone()).collect()
    }
}

/// A run that waits for somebody to park; dropping it ends the wait.
///
/// Make it first, then offer: a controller that parks in between is not missed.
pub struct Hope<W> {
    exchange: Arc<Exchange<W>>,
    key: Key,
    wake: Arc<Notify>,
}

impl<W> Hope<W> {
    pub(super) fn new(exchange: Arc<Exchange<W>>, key: Key, wake: Arc<Notify>) -> Self {
        Self { exchange, key, wake }
    }

    /// Returns when a look is worthwhile again; another run may be quicker.
    pub async fn somebody_came(&self) {
        self.wake.notified().await;
    }
}

impl<W> Drop for Hope<W> {
    fn drop(&mut self) {
        self.exchange.give_up_hope(self.key.as_ref());
    }
}

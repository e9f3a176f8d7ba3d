//! Owns the hopes: runs that wait a moment for a controller of their key to come.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::{Equivalent, HashMap};

use super::Exchange;
use super::sync::Notify;
use crate::broker::{Accepts, Ask, Key, KeyRef};

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self == key.as_ref()
    }
}

/// One wake per key and kind of run, with the number of runs that share it. A stock controller takes messages only, so
/// a wake for it must not end with a run that it cannot take.
#[derive(Default)]
pub(super) struct Hopes {
    messages: Shared,
    others: Shared,
}

type Shared = HashMap<Key, (Arc<Notify>, usize), RandomState>;

impl Hopes {
    fn like(&mut self, ask: &Ask<'_>) -> &mut Shared {
        if ask.is_message { &mut self.messages } else { &mut self.others }
    }

    pub(super) fn join(&mut self, ask: &Ask<'_>) -> Arc<Notify> {
        let (wake, sharers) = self.like(ask).entry(ask.key.into()).or_default();
        *sharers += 1;
        wake.clone()
    }

    /// Returns whom to wake: this run may have been woken for a waiter that it did not need, so the next one looks.
    pub(super) fn part(&mut self, ask: &Ask<'_>) -> Option<Arc<Notify>> {
        let shared = self.like(ask);
        let (wake, sharers) = shared.get_mut(&ask.key)?;
        *sharers -= 1;
        if *sharers > 0 {
            return Some(wake.clone());
        }
        shared.remove(&ask.key);
        None
    }

    /// Whom to wake when somebody parks under this key.
    pub(super) fn of(&self, key: KeyRef<'_>, accepts: Accepts) -> [Option<Arc<Notify>>; 2] {
        let find = |shared: &Shared| {
            if shared.is_empty() {
                return None;
            }
            shared.get(&key).map(|(wake, _)| wake.clone())
        };
        match accepts {
            Accepts::Message => [find(&self.messages), None],
            Accepts::Anything => [find(&self.messages), find(&self.others)],
        }
    }

    /// Whom to wake when nobody will be matched any more; each passes it on as it parts.
    pub(super) fn all(&self) -> Vec<Arc<Notify>> {
        self.messages.values().chain(self.others.values()).map(|(wake, _)| wake.clone()).collect()
    }
}

/// A run that waits for somebody to park; dropping it ends the wait.
///
/// Make it first, then offer: a controller that parks in between is not missed.
pub struct Hope<W> {
    exchange: Arc<Exchange<W>>,
    key: Key,
    is_message: bool,
    wake: Arc<Notify>,
}

impl<W> Hope<W> {
    pub(super) fn new(exchange: Arc<Exchange<W>>, ask: &Ask<'_>, wake: Arc<Notify>) -> Self {
        Self { exchange, key: ask.key.into(), is_message: ask.is_message, wake }
    }

    /// Returns when a look is worthwhile again; another run may be quicker.
    pub async fn somebody_came(&self) {
        self.wake.notified().await;
    }
}

impl<W> Drop for Hope<W> {
    fn drop(&mut self) {
        let ask = Ask { key: self.key.as_ref(), is_message: self.is_message };
        self.exchange.give_up_hope(&ask);
    }
}

//! Owns the hopes: runs that wait a moment for a controller of their key to come.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::hash_table::Entry;

use super::Exchange;
use super::sync::Notify;
use crate::broker::{AcceptedPayload, ClaimRequest, Key, KeyRef, Sharded};

/// At 10,000 keys a part that grows moves about 200 of them.
const PARTS: usize = 64;

/// One wake per key and kind of run, with the number of runs that share it. A stock controller takes messages only, so
/// a wake for it must not end with a run that it cannot take.
pub(super) struct Waitlist {
    hasher: RandomState,
    messages: Sharded<Shared>,
    others: Sharded<Shared>,
    /// How many keys there are in all: nearly always none.
    len: usize,
}

struct Shared {
    key: Key,
    wake: Arc<Notify>,
    sharers: usize,
}

impl Waitlist {
    pub(super) fn new() -> Self {
        let (messages, others) = (Sharded::new(PARTS), Sharded::new(PARTS));
        Self { hasher: RandomState::new(), messages, others, len: 0 }
    }

    pub(super) fn join(&mut self, ask: &ClaimRequest<'_>) -> Arc<Notify> {
        let Self { hasher, messages, others, len } = self;
        let hash = hasher.hash_one(ask.key);
        let part = if ask.is_message { messages } else { others }.part_mut(hash);
        let same = |shared: &Shared| shared.key.as_ref() == ask.key;
        let mut shared = match part.entry(hash, same, |shared| hasher.hash_one(shared.key.as_ref())) {
            Entry::Occupied(shared) => shared,
            Entry::Vacant(room) => {
                *len += 1;
                room.insert(Shared { key: ask.key.into(), wake: Arc::default(), sharers: 0 })
            }
        };
        let shared = shared.get_mut();
        shared.sharers += 1;
        shared.wake.clone()
    }

    /// Returns whom to wake: this run may have been woken for a waiter that it did not need, so the next one looks.
    pub(super) fn part(&mut self, ask: &ClaimRequest<'_>) -> Option<Arc<Notify>> {
        let hash = self.hasher.hash_one(ask.key);
        let part = if ask.is_message { &mut self.messages } else { &mut self.others }.part_mut(hash);
        let mut shared = part.find_entry(hash, |shared| shared.key.as_ref() == ask.key).ok()?;
        shared.get_mut().sharers -= 1;
        if shared.get().sharers > 0 {
            return Some(shared.get().wake.clone());
        }
        shared.remove();
        self.len -= 1;
        None
    }

    /// Whom to wake when somebody parks under this key.
    pub(super) fn of(&self, key: KeyRef<'_>, accepts: AcceptedPayload) -> [Option<Arc<Notify>>; 2] {
        if self.len == 0 {
            return [None, None];
        }
        let hash = self.hasher.hash_one(key);
        let find = |shared: &Sharded<Shared>| {
            let shared = shared.part(hash).find(hash, |shared| shared.key.as_ref() == key)?;
            Some(shared.wake.clone())
        };
        match accepts {
            AcceptedPayload::Message => [find(&self.messages), None],
            AcceptedPayload::Anything => [find(&self.messages), find(&self.others)],
        }
    }

    /// A part of those to wake when nobody will be matched any more; each passes it on as it parts. None after the last
    /// part.
    pub(super) fn all(&self, part: usize) -> Option<Vec<Arc<Notify>>> {
        let (messages, others) = (self.messages.parts().get(part)?, self.others.parts().get(part)?);
        Some(messages.iter().chain(others).map(|shared| shared.wake.clone()).collect())
    }
}

/// A run that waits for somebody to park; dropping it ends the wait.
///
/// Make it first, then offer: a controller that parks in between is not missed.
pub struct WaitlistEntry<W> {
    exchange: Arc<Exchange<W>>,
    key: Key,
    is_message: bool,
    wake: Arc<Notify>,
}

impl<W> WaitlistEntry<W> {
    pub(super) fn new(exchange: Arc<Exchange<W>>, ask: &ClaimRequest<'_>, wake: Arc<Notify>) -> Self {
        Self { exchange, key: ask.key.into(), is_message: ask.is_message, wake }
    }

    /// Returns when a look is worthwhile again; another run may be quicker.
    pub async fn notified(&self) {
        self.wake.notified().await;
    }
}

impl<W> Drop for WaitlistEntry<W> {
    fn drop(&mut self) {
        let ask = ClaimRequest { key: self.key.as_ref(), is_message: self.is_message };
        self.exchange.leave_waitlist(&ask);
    }
}

//! Owns the waitlist: runs that wait a short time for a controller with their key.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::hash_table::Entry;

use super::sync::Notify;
use crate::broker::{AcceptedPayload, ClaimRequest, Key, KeyRef, PayloadKind, Sharded};

/// At 10,000 keys, a part that grows moves about 200 of them.
const PARTS: usize = 64;

/// One `Notify` per key and payload kind, shared by all runs with both. A stock controller accepts messages only, so its
/// notification must not reach a run that it cannot take.
pub(super) struct Waitlist {
    hasher: RandomState,
    by_kind: [Sharded<SharedNotify>; PayloadKind::ALL.len()],
    /// How many entries there are of all kinds; nearly always none.
    len: usize,
}

struct SharedNotify {
    key: Key,
    notify: Arc<Notify>,
    runs: usize,
}

impl Waitlist {
    pub(super) fn new() -> Self {
        let by_kind = PayloadKind::ALL.map(|_| Sharded::new(PARTS));
        Self { hasher: RandomState::new(), by_kind, len: 0 }
    }

    pub(super) fn join(&mut self, request: &ClaimRequest<'_>) -> Arc<Notify> {
        let Self { hasher, by_kind, len } = self;
        let hash = hasher.hash_one(request.key);
        let part = by_kind[request.payload_kind as usize].part_mut(hash);
        let has_key = |shared: &SharedNotify| shared.key.as_ref() == request.key;
        let mut entry = match part.entry(hash, has_key, |shared| hasher.hash_one(shared.key.as_ref())) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => {
                *len += 1;
                entry.insert(SharedNotify { key: request.key.into(), notify: Arc::default(), runs: 0 })
            }
        };
        let shared = entry.get_mut();
        shared.runs += 1;
        shared.notify.clone()
    }

    /// Returns the `Notify` of the remaining runs. The run that leaves may have consumed a notification without taking a
    /// waiter, so the caller passes it on.
    pub(super) fn leave(&mut self, request: &ClaimRequest<'_>) -> Option<Arc<Notify>> {
        let hash = self.hasher.hash_one(request.key);
        let part = self.by_kind[request.payload_kind as usize].part_mut(hash);
        let mut entry = part.find_entry(hash, |shared| shared.key.as_ref() == request.key).ok()?;
        entry.get_mut().runs -= 1;
        if entry.get().runs > 0 {
            return Some(entry.get().notify.clone());
        }
        entry.remove();
        self.len -= 1;
        None
    }

    /// What to notify after a waiter has parked: one `Notify` for each payload kind that it accepts.
    pub(super) fn accepted_by(
        &self,
        key: KeyRef<'_>,
        accepts: AcceptedPayload,
    ) -> [Option<Arc<Notify>>; PayloadKind::ALL.len()] {
        if self.len == 0 {
            return PayloadKind::ALL.map(|_| None);
        }
        let hash = self.hasher.hash_one(key);
        PayloadKind::ALL.map(|kind| {
            let part = self.by_kind[kind as usize].part(hash);
            let shared =
                accepts.accepts(kind).then(|| part.find(hash, |shared| shared.key.as_ref() == key))?;
            shared.map(|shared| shared.notify.clone())
        })
    }

    /// What to notify of a drain in one part of the tables; each run passes the notification on when it leaves. None after
    /// the last part.
    pub(super) fn part(&self, part: usize) -> Option<Vec<Arc<Notify>>> {
        let parts: Option<Vec<_>> = self.by_kind.iter().map(|table| table.parts().get(part)).collect();
        Some(parts?.into_iter().flatten().map(|shared| shared.notify.clone()).collect())
    }
}

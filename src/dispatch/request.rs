//! Owns the request and the outcome of a dispatch, as values that are the same for every dialect.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU64;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use siphasher::sip128::{Hash128, SipHasher13};

use crate::broker::{KeyRef, PayloadKind};
use crate::exchange::ContentHash;
use crate::model::{DispatchOutcome, MissReason, Proof};
use crate::reply::Reply;
use crate::transport::{Run, with_write_buffer};

/// A valid run, and what its supervisor allows.
pub struct DispatchRequest<'a> {
    /// The pool that fits the run.
    pub key: KeyRef<'a>,
    /// What the payload is; only waiters that accept it can be claimed.
    pub payload_kind: PayloadKind,
    /// The run.
    pub run: Run,
    /// What makes an offer a delivery.
    pub proof: Proof,
    /// Whether another waiter may get the run although one may have it already.
    pub redeliver: bool,
    /// Equal for the POSTs of one run; none if each POST is a run of its own.
    pub idempotency_key: Option<IdempotencyKey>,
    /// A hash of the payload; none if it is not compared. Two POSTs with equal keys conflict if their hashes differ.
    pub content: ContentHash,
    /// Whether the answer names the controller. Its name is then kept for as long as the run is remembered.
    pub names_controller: bool,
    /// The reply that the POST awaits. Only waiters that can reply are offered the run then.
    pub reply: Option<Arc<Reply>>,
    /// How long to wait for a controller to come.
    pub wait: Duration,
    /// The POST is answered by then.
    pub deadline: Instant,
    /// The times that are set for all dispatches.
    pub times: DispatchTimes,
}

/// The times that are set for all dispatches.
#[derive(Debug, Clone, Copy)]
pub struct DispatchTimes {
    /// Every POST is answered within it, counted from its last byte.
    pub budget: Duration,
    /// How long an acknowledged run may stay unread.
    pub read_timeout: Duration,
    /// A run posted again within this time is answered like the first time; zero makes every POST a run of its own.
    pub remember_for: Duration,
}

/// What makes a run the same run, as a digest: hundreds of thousands of names would take most of the broker's memory. Two
/// runs have the same one by chance once in 2^128, and on purpose only if this process's secret key is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdempotencyKey([u64; 2]);

impl IdempotencyKey {
    /// A key that all brokers of a cluster derive from the run.
    pub const fn of_digest(digest: [u8; 16]) -> Self {
        let digest = u128::from_ne_bytes(digest);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        Self([(digest >> 64) as u64, digest as u64])
    }

    /// The digest of which it was made.
    pub const fn digest(self) -> [u8; 16] {
        ((self.0[0] as u128) << 64 | self.0[1] as u128).to_ne_bytes()
    }

    /// The key of a run for this pool; the snapshot is empty where there is none.
    pub(super) fn new(run: &str, snapshot: &str, key: KeyRef<'_>) -> Self {
        static SECRET: LazyLock<SipHasher13> = LazyLock::new(|| {
            // The standard library takes its keys from the system.
            let word = || RandomState::new().hash_one(0);
            SipHasher13::new_with_keys(word(), word())
        });
        let parts = [run, snapshot, key.deployment, key.version];
        // The lengths make it unambiguous: concatenated strings could collide.
        let [run, snapshot, deployment, version] = parts.map(str::len);
        let numbers = [
            (run as u64) << 32 | snapshot as u64,
            (deployment as u64) << 32 | version as u64,
            key.cpu.get().to_bits(),
            key.memory.get().to_bits(),
        ];
        let Hash128 { h1, h2 } = with_write_buffer(|whole| {
            for number in numbers {
                whole.extend_from_slice(&number.to_le_bytes());
            }
            for part in parts {
                whole.extend_from_slice(part.as_bytes());
            }
            SECRET.hash(whole)
        });
        Self([h1, h2])
    }
}

/// A hash of the payload. Two payloads have the same one by chance once in 2^63.
pub(super) fn content_hash(payload: &[u8]) -> ContentHash {
    static SECRET: LazyLock<ahash::RandomState> = LazyLock::new(ahash::RandomState::new);
    NonZeroU64::new(SECRET.hash_one(payload) | 1)
}

/// How a dispatch ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How many waiters were offered the run; for a run that is answered like an earlier POST, by that one.
    pub offers: u32,
    /// The delivery, or why there is none.
    pub result: Result<Hit, MissReason>,
}

impl Outcome {
    /// The same for a POST that asks for this proof: a run that was delivered, but not proved so far, may be delivered.
    #[must_use]
    pub(super) fn proved_for(self, proof: Proof) -> Self {
        match self.result {
            Ok(hit) if hit.proof < proof => Self { result: Err(MissReason::Unknown), ..self },
            result => Self { result, ..self },
        }
    }

    /// The same without the details, for metrics and the journal.
    pub fn kind(&self) -> DispatchOutcome {
        match self.result {
            Ok(_) => DispatchOutcome::Hit,
            Err(reason) => DispatchOutcome::Miss(reason),
        }
    }
}

/// A delivery.
#[derive(Debug, Clone)]
pub struct Hit {
    /// What proves it.
    pub proof: Proof,
    /// The controller that has the run, if the answer names it.
    pub controller: Option<NamedController>,
}

/// A controller as an answer names it, in one allocation: it is kept for as long as the run is remembered.
#[derive(Clone, PartialEq, Eq)]
pub struct NamedController(Arc<str>);

/// What metadata follow. No name contains it.
const BEFORE_METADATA: char = '\n';

impl NamedController {
    /// A controller with this name for itself, empty if it gave none, and what it says to whoever claims it.
    pub fn new(name: &str, metadata: Option<&str>) -> Self {
        debug_assert!(!name.contains(BEFORE_METADATA), "a name is printable");
        Self(match metadata {
            None => name.into(),
            Some(metadata) => format!("{name}{BEFORE_METADATA}{metadata}").into(),
        })
    }

    /// Its name for itself; empty if it gave none.
    pub fn name(&self) -> &str {
        self.0.split_once(BEFORE_METADATA).map_or(&*self.0, |(name, _)| name)
    }

    /// What it says to whoever claims it, which may be a secret.
    pub fn metadata(&self) -> Option<&str> {
        self.0.split_once(BEFORE_METADATA).map(|(_, metadata)| metadata)
    }
}

impl fmt::Debug for NamedController {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NamedController").field(&self.name()).finish_non_exhaustive()
    }
}

/// The run's name is already that of a run with another payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunNameConflict;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_metadata_are_told_apart_again_and_metadata_are_not_shown() {
        for (name, metadata) in [("", None), ("one", None), ("", Some("a\nb")), ("one", Some("a secret"))] {
            let named = NamedController::new(name, metadata);
            assert_eq!((named.name(), named.metadata()), (name, metadata));
            let shown = format!("{named:?}");
            assert!(shown.contains(name) && !shown.contains("secret"), "{shown}");
        }
    }

    #[test]
    fn every_remembered_run_pays_for_its_hit() {
        assert!(size_of::<Hit>() <= 24);
    }
}

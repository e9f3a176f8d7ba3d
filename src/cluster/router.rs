//! Owns what a dispatch asks of the cluster: a waiter of another broker, and how earlier POSTs of a named run ended there.

use std::hash::Hasher;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher13;

use super::answer_tail::AnswerTail;
use super::codec::{Answer, Direct, EarlierEnd, decode, micros};
use super::digest::{Digest, PoolDigest, run_digest};
use super::inbox::Answers;
use super::search::Search;
use super::shared::Shared;
use crate::broker::{ClaimRequest, KeyRef};
use crate::dispatch::{
    EarlierOutcome, EarlierRun, Hit, IdempotencyKey, NamedController, Outcome, RemotePools, RemoteSearch,
    RunNameConflict,
};
use crate::exchange::ContentHash;
use crate::model::{MissReason, Proof};

/// An answer that comes later than this before the deadline could not be passed on in time.
const RESERVE: Duration = Duration::from_millis(5);

/// The other brokers, as a dispatch sees them.
pub(super) struct Router(pub(super) Arc<Shared>);

impl RemotePools for Router {
    fn search(&self, request: &ClaimRequest<'_>) -> Box<dyn RemoteSearch> {
        Box::new(Search::new(self.0.clone(), PoolDigest::of(request.key), request.payload_kind))
    }

    fn idempotency_key(&self, run: &str, snapshot: &str, key: KeyRef<'_>) -> IdempotencyKey {
        IdempotencyKey::of_digest(run_digest(run, snapshot, key).bytes())
    }

    /// Two payloads have the same one by chance once in 2^63; their senders are trusted not to look for such a pair.
    fn content_hash(&self, payload: &[u8]) -> ContentHash {
        let mut hasher = SipHasher13::new();
        hasher.write(payload);
        NonZeroU64::new(hasher.finish() | 1)
    }

    fn claimed(&self, run: IdempotencyKey) {
        self.0.member.lock().claimed(Digest::new(run.digest()));
        self.0.has_news.notify_one();
    }

    fn earlier(&self, run: &EarlierRun) -> Option<EarlierOutcome> {
        let digest = Digest::new(run.key.digest());
        let owner = {
            let member = self.0.member.lock();
            member.claims.owner(digest).filter(|&owner| owner != member.id())?
        };
        let within = run.deadline.saturating_duration_since(Instant::now() + RESERVE);
        let question = Direct::Earlier {
            run: digest,
            content: run.content.map(NonZeroU64::get),
            within: micros(within),
            remember_for: micros(run.remember_for),
        };
        let answers = self.0.inbox.expect();
        let sent = self.0.send(owner, &answers, &question, &[]);
        Some(Box::pin(async move {
            if sent.is_err() {
                return UNKNOWN;
            }
            tokio::time::timeout(within, read_earlier(answers)).await.unwrap_or(UNKNOWN)
        }))
    }
}

/// The broker that has claimed a waiter does not say what became of the run.
const UNKNOWN: Option<Result<Outcome, RunNameConflict>> =
    Some(Ok(Outcome { offers: 0, result: Err(MissReason::Unknown) }));

async fn read_earlier(mut answers: Answers) -> Option<Result<Outcome, RunNameConflict>> {
    let Some(bytes) = answers.next().await else { return UNKNOWN };
    let Ok((Answer::Earlier(earlier), tail)) = decode(&bytes) else { return UNKNOWN };
    let outcome = match earlier? {
        EarlierEnd::Delivered { proof, offers, controller } => {
            let Some(&proof) = Proof::ALL.get(usize::from(proof)) else { return UNKNOWN };
            let controller = NamedController::new(controller, AnswerTail::read(tail).metadata);
            Outcome { offers, result: Ok(Hit { proof, controller: Some(controller) }) }
        }
        EarlierEnd::Unknown { offers } => Outcome { offers, result: Err(MissReason::Unknown) },
        EarlierEnd::Conflict => return Some(Err(RunNameConflict)),
    };
    Some(Ok(outcome))
}

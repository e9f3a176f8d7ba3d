//! Owns the search for a waiter of another broker for one run: which broker it is forwarded to, and what the answers mean.

use std::borrow::Cow;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;

use super::answer_tail::AnswerTail;
use super::codec::{Answer, BrokerId, Direct, Forward, Forwarded, NotTaken, RemoteOffer, decode, micros};
use super::digest::{Digest, PoolDigest};
use super::directory::{Candidate, CandidateEnd};
use super::forward::{MAX_EARLY_PAYLOAD, OriginEnd, OriginForward, OriginStep, first_answer_within};
use super::forward_tail::{self, features};
use super::inbox::Answers;
use super::link::NotSent;
use super::shared::Shared;
use super::watchers::Watcher;
use crate::broker::{ClaimRequest, MonotonicTime, PayloadKind};
use crate::dispatch::{
    ForwardEnd, ForwardResult, Hit, NamedController, PendingForward, RemoteRun, RemoteSearch,
};
use crate::journal::OfferRecord;
use crate::model::{ForwardOutcome, MissReason, Proof, Verdict};

/// What a message has beside payload, names and media type, in bytes, at most.
const HEAD_BYTES: usize = 512;

/// The search for one run.
pub(super) struct Search {
    shared: Arc<Shared>,
    pool: PoolDigest,
    kind: PayloadKind,
    tried: SmallVec<[BrokerId; 4]>,
    watcher: Option<Watcher>,
    is_too_large: bool,
    lacks_reply_route: bool,
}

impl Search {
    pub(super) fn new(shared: Arc<Shared>, pool: PoolDigest, kind: PayloadKind) -> Self {
        let (tried, watcher) = (SmallVec::new(), None);
        Self { shared, pool, kind, tried, watcher, is_too_large: false, lacks_reply_route: false }
    }

    /// The run is not forwarded to the broker that was chosen for it.
    fn refuse(&mut self, to: BrokerId, outcome: ForwardOutcome) -> Option<PendingForward> {
        self.is_too_large |= outcome == ForwardOutcome::TooLarge;
        self.shared.member.lock().directory.end(to, self.pool.key, CandidateEnd::NotTaken);
        self.shared.metrics.cluster.forwarded(outcome, Duration::ZERO);
        None
    }
}

impl RemoteSearch for Search {
    fn forward(&mut self, run: &RemoteRun<'_>) -> Option<PendingForward> {
        let (_, link) = self.shared.link()?;
        let before = forward_tail::encode(run.run);
        let size =
            HEAD_BYTES + before.len() + run.run.payload.len() + run.run.content_type.len() + run.run.id.len();
        let (from, candidate) = {
            let mut member = self.shared.member.lock();
            let random = |below: usize| fastrand::usize(..below);
            let candidate = member.directory.choose(self.pool.key, self.kind, &self.tried, random)?;
            // The other broker could not send the reply here.
            self.lacks_reply_route = run.run.reply.is_some() && member.advertised().is_none();
            if self.lacks_reply_route {
                member.directory.end(candidate.id, self.pool.key, CandidateEnd::NotTaken);
                return None;
            }
            (member.id(), candidate)
        };
        let sent = Instant::now();
        let verdict_within = run.deadline.saturating_duration_since(sent + candidate.round_trip);
        // A payload that is sent later must fit into a message, too.
        if size > link.max_payload() {
            return self.refuse(candidate.id, ForwardOutcome::TooLarge);
        }
        if verdict_within.is_zero() {
            return self.refuse(candidate.id, ForwardOutcome::NotSent);
        }
        self.tried.push(candidate.id);
        let answers = self.shared.inbox.expect();
        let is_payload_later = run.run.payload.len() > MAX_EARLY_PAYLOAD;
        let first_within = first_answer_within(candidate.round_trip).min(verdict_within);
        let way = Way { from, sent: self.shared.exchange.at(sent), first_within, verdict_within };
        let head = forward(run, self.pool.key, is_payload_later, way);
        let payload: &[u8] = if is_payload_later { &[] } else { &run.run.payload };
        let tail =
            if before.is_empty() { Cow::Borrowed(payload) } else { [&before, payload].concat().into() };
        match self.shared.send(candidate.id, &answers, &Direct::Forward(head), &tail) {
            Ok(()) => {}
            Err(NotSent::TooLarge) => return self.refuse(candidate.id, ForwardOutcome::TooLarge),
            Err(NotSent::NotConnected | NotSent::WouldWait) => {
                return self.refuse(candidate.id, ForwardOutcome::NotSent);
            }
        }
        let pending = Pending {
            shared: self.shared.clone(),
            pool: self.pool.key,
            candidate,
            answers,
            payload: is_payload_later.then(|| run.run.payload.clone()),
            since: run.since,
            sent,
            first_within,
            verdict_within,
        };
        Some(Box::pin(pending.end()))
    }

    fn miss(&self, local: MissReason) -> MissReason {
        if self.lacks_reply_route {
            MissReason::NoReplyRoute
        } else if self.is_too_large {
            MissReason::TooLargeToForward
        } else {
            self.shared.member.lock().directory.miss(&self.pool, self.kind, local)
        }
    }

    fn watch(&mut self) {
        self.watcher.get_or_insert_with(|| self.shared.watchers.watch(self.pool.key));
    }

    fn announced(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        // A broker that had no waiter for this run may have one now.
        self.tried.clear();
        match &mut self.watcher {
            Some(watcher) => Box::pin(watcher.announced()),
            None => Box::pin(std::future::pending()),
        }
    }
}

/// The way of a forward: who sends it and when, and how long its answers are waited for.
#[derive(Clone, Copy)]
struct Way {
    from: BrokerId,
    sent: MonotonicTime,
    first_within: Duration,
    verdict_within: Duration,
}

/// The head of a forward.
fn forward<'a>(run: &RemoteRun<'a>, pool: Digest, is_payload_later: bool, way: Way) -> Forward<'a> {
    let Way { from, sent, first_within, verdict_within } = way;
    let ClaimRequest { key, payload_kind } = run.claim;
    Forward {
        from,
        sent: sent.micros(),
        features: features(run.run),
        run: std::str::from_utf8(&run.run.id).unwrap_or_default(),
        pool,
        deployment: key.deployment,
        version: key.version,
        cpu: key.cpu.get(),
        memory: key.memory.get(),
        payload_kind: payload_kind as u8,
        content_type: &run.run.content_type,
        payload_bytes: u32::try_from(run.run.payload.len()).unwrap_or(u32::MAX),
        is_payload_later,
        proof: run.policy.proof() as u8,
        redeliver: run.policy.redelivers(),
        unproven: run.policy.unproven(),
        answer_within: micros(first_within),
        budget: micros(verdict_within),
        read_timeout: micros(run.times.read_timeout),
        remember_for: micros(run.times.remember_for),
        idempotency_key: run.idempotency_key.map(|key| Digest::new(key.digest())),
        content: run.content.map(NonZeroU64::get),
        names_controller: run.names_controller,
    }
}

/// A forward whose answers are waited for.
struct Pending {
    shared: Arc<Shared>,
    pool: Digest,
    candidate: Candidate,
    answers: Answers,
    /// The payload, if it is sent only when a waiter is claimed.
    payload: Option<Bytes>,
    /// When the POST's last byte arrived.
    since: Instant,
    sent: Instant,
    first_within: Duration,
    verdict_within: Duration,
}

impl Pending {
    async fn end(mut self) -> ForwardEnd {
        let mut origin = OriginForward::new(self.verdict_within, self.payload.is_some());
        let mut until = self.first_within;
        loop {
            let answer = tokio::time::timeout_at((self.sent + until).into(), self.answers.next()).await;
            let took = self.sent.elapsed();
            let Ok(Some(bytes)) = answer else {
                let end = if answer.is_ok() { OriginEnd::NoReceiver } else { OriginEnd::Silent };
                return self.finish(end, AnswerTail::default(), took);
            };
            let Ok((answer, tail)) = decode::<Answer<'_>>(&bytes) else {
                return self.finish(OriginEnd::Silent, AnswerTail::default(), took);
            };
            if let Answer::Forwarded(Forwarded { handled, .. }) = &answer {
                let round_trip = took.saturating_sub(Duration::from_micros(*handled));
                self.shared.member.lock().directory.answered_after(self.candidate.id, round_trip);
            }
            match origin.answered(answer) {
                OriginStep::Ended(end) => return self.finish(end, AnswerTail::read(tail), took),
                OriginStep::Wait { sends_payload, until: next } => {
                    until = next;
                    if let Some(payload) = self.payload.take().filter(|_| sends_payload) {
                        let message = Direct::Payload { token: self.answers.token };
                        // Without it, the claim ends at the owner, and its answer says so.
                        let _ = self.shared.send(self.candidate.id, &self.answers, &message, &payload);
                    }
                }
            }
        }
    }

    fn finish(&self, end: OriginEnd<'_>, tail: AnswerTail<'_>, took: Duration) -> ForwardEnd {
        let (outcome, candidate_end, result, mut offers) = self.interpret(end, tail);
        {
            let now = self.shared.now();
            let mut member = self.shared.member.lock();
            member.directory.end(self.candidate.id, self.pool, candidate_end);
            let is_empty = matches!(candidate_end, CandidateEnd::Answered { waiters: [0, 0], .. });
            if is_empty && outcome == ForwardOutcome::Delivered {
                member.directory.emptied(self.pool, now);
            }
        }
        self.shared.metrics.cluster.forwarded(outcome, took);
        let verdict = match outcome {
            ForwardOutcome::Silent => Some(Verdict::Silent),
            ForwardOutcome::Stale => Some(Verdict::Stale),
            ForwardOutcome::Delivered
            | ForwardOutcome::Undelivered
            | ForwardOutcome::Unknown
            | ForwardOutcome::Miss
            | ForwardOutcome::Unsupported
            | ForwardOutcome::Overloaded
            | ForwardOutcome::NoResponders
            | ForwardOutcome::NotSent
            | ForwardOutcome::TooLarge => None,
        };
        if let Some(verdict) = verdict {
            self.shared.metrics.offered(verdict, took);
            let since = self.sent.saturating_duration_since(self.since);
            let broker = Some((*self.candidate.name).into());
            offers.push(OfferRecord { controller: "".into(), broker, verdict, since, took });
        }
        ForwardEnd { offers, result }
    }

    fn interpret(
        &self,
        end: OriginEnd<'_>,
        tail: AnswerTail<'_>,
    ) -> (ForwardOutcome, CandidateEnd, ForwardResult, Vec<OfferRecord>) {
        let none = Vec::new();
        let miss = ForwardResult::Miss { unproven: 0 };
        match end {
            OriginEnd::Silent => {
                let (sent, now) = (self.shared.exchange.at(self.sent), self.shared.now());
                (ForwardOutcome::Silent, CandidateEnd::Silent { sent, now }, ForwardResult::Silent, none)
            }
            OriginEnd::NoReceiver => (ForwardOutcome::NoResponders, CandidateEnd::NoReceiver, miss, none),
            OriginEnd::NotTaken(why) => {
                let outcome = match why {
                    NotTaken::Stale => ForwardOutcome::Stale,
                    NotTaken::Unsupported | NotTaken::Malformed => ForwardOutcome::Unsupported,
                    NotTaken::Overloaded => ForwardOutcome::Overloaded,
                };
                (outcome, CandidateEnd::NotTaken, miss, none)
            }
            OriginEnd::Forwarded(Forwarded {
                offers, unproven, result, controller, waiters, number, ..
            }) => {
                let offers: Vec<_> = offers.iter().map(|offer| self.record(offer)).collect();
                let proof = result.map(|proof| Proof::ALL.get(usize::from(proof)).copied());
                let (outcome, result) = match proof {
                    Ok(Some(proof)) => {
                        let named = |name| NamedController::new(name, tail.metadata);
                        let hit = Hit { proof, controller: controller.map(named) };
                        (ForwardOutcome::Delivered, ForwardResult::Delivered(hit))
                    }
                    // A proof that this version does not know is one all the same.
                    Ok(None) => (ForwardOutcome::Unknown, ForwardResult::Unknown),
                    Err(reason) => match MissReason::ALL.get(usize::from(reason)) {
                        Some(MissReason::Unknown) => (ForwardOutcome::Unknown, ForwardResult::Unknown),
                        Some(MissReason::Undelivered) => {
                            (ForwardOutcome::Undelivered, ForwardResult::Miss { unproven })
                        }
                        _ => (ForwardOutcome::Miss, ForwardResult::Miss { unproven }),
                    },
                };
                (outcome, CandidateEnd::Answered { waiters, number }, result, offers)
            }
        }
    }

    /// An offer of the other broker, with times as from here.
    fn record(&self, offer: &RemoteOffer<'_>) -> OfferRecord {
        let before = self.sent.saturating_duration_since(self.since);
        let verdict = Verdict::ALL.get(usize::from(offer.verdict)).copied().unwrap_or(Verdict::Silent);
        OfferRecord {
            controller: offer.controller.into(),
            broker: Some((*self.candidate.name).into()),
            verdict,
            since: before + Duration::from_micros(offer.since),
            took: Duration::from_micros(offer.took),
        }
    }
}

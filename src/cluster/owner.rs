//! Owns what other brokers send to this one: runs for its waiters, their payloads, and questions about earlier runs.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::answer_tail::AnswerTail;
use super::codec::{
    Answer, Direct, EarlierEnd, Forward, Forwarded, NotTaken, RemoteOffer, Unreadable, decode, encode, micros,
};
use super::digest::Digest;
use super::forward::{PAYLOAD_WITHIN, TimeLeft, VERDICT_SOON, time_left};
use super::forward_tail;
use super::gather;
use super::shared::Shared;
use super::subjects::answered_token;
use crate::broker::{KeyRef, Number, PayloadKind, check_part};
use crate::dispatch::{
    DeliveryPolicy, DispatchRequest, DispatchTimes, Dispatcher, EarlierRun, ForwardedOutcome, ForwardedRun,
    Hit, IdempotencyKey, NamedController, Outcome, RunNameConflict,
};
use crate::metrics::DropReason;
use crate::model::{MissReason, Proof, TakenOutcome};
use crate::reply::ForwardedReply;
use crate::transport::{Run, RunFields};

/// An answer that is due takes less than this to its receiver, as a rule.
const WAY_BACK: Duration = Duration::from_millis(10);
/// The unit in which the bytes of forwards are counted.
const BYTES_PER_PERMIT: usize = 1024;

/// What other brokers reach.
pub(super) struct Owner {
    shared: Arc<Shared>,
    dispatcher: Dispatcher,
    /// How many more forwards may be taken in,
    forwards: Arc<Semaphore>,
    /// and of how many more bytes.
    bytes: Arc<Semaphore>,
    /// Forwards that wait for their payload, by token.
    payloads: Mutex<HashMap<u128, oneshot::Sender<Bytes>, RandomState>>,
}

/// A message to this broker, and where its answer goes.
struct Question {
    reply: String,
    bytes: Bytes,
    arrived: Instant,
}

/// A forward that is taken in.
struct Taken<'a> {
    key: KeyRef<'a>,
    payload_kind: PayloadKind,
    proof: Proof,
    left: TimeLeft,
    _permits: [OwnedSemaphorePermit; 2],
}

/// What follows a forward.
struct Content {
    /// Where the run's worker is to reply, if it is.
    reply: Option<ForwardedReply>,
    fields: Option<RunFields>,
    payload: Bytes,
}

impl Owner {
    /// At most so many forwards are in progress at once, with so many bytes together.
    pub(super) fn new(
        shared: Arc<Shared>,
        dispatcher: Dispatcher,
        max_forwards: usize,
        max_bytes: usize,
    ) -> Self {
        let permits = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        let bytes = permits(max_bytes.div_ceil(BYTES_PER_PERMIT).min(u32::MAX as usize));
        Self { shared, dispatcher, forwards: permits(max_forwards), bytes, payloads: Mutex::default() }
    }

    /// Handles a message, whose answer goes to `reply`.
    pub(super) async fn handle(self: Arc<Self>, reply: Option<String>, bytes: Bytes, arrived: Instant) {
        let question = Question { reply: reply.unwrap_or_default(), bytes, arrived };
        match decode::<Direct<'_>>(&question.bytes) {
            Ok((Direct::Forward(forward), payload)) => {
                let payload = question.bytes.slice_ref(payload);
                self.forward(&question, &forward, payload).await;
            }
            Ok((Direct::Payload { token }, payload)) => {
                let waiting = self.payloads.lock().remove(&token);
                // If the forward has ended meanwhile, its answer has said so.
                let _ = waiting.map(|waiting| waiting.send(question.bytes.slice_ref(payload)));
            }
            Ok((Direct::Earlier { run, content, within, remember_for }, _)) => {
                let run = EarlierRun {
                    key: IdempotencyKey::of_digest(run.bytes()),
                    content: content.and_then(NonZeroU64::new),
                    remember_for: Duration::from_micros(remember_for),
                    deadline: question.arrived + Duration::from_micros(within),
                };
                self.earlier(&question, &run).await;
            }
            Ok((Direct::Operator(request), _)) => {
                let answer = gather::answer(&self.shared, request, question.arrived).await;
                self.answer(&question, answer);
            }
            Err(Unreadable::ForeignVersion) => {
                self.shared.metrics.cluster.dropped(DropReason::ForeignVersion);
                // It would wait for an answer in vain. Every version knows this one.
                self.answer(&question, encode(&Answer::NotTaken(NotTaken::Unsupported), &[]));
            }
            Err(Unreadable::Malformed) => self.shared.metrics.cluster.dropped(DropReason::Malformed),
        }
    }

    async fn forward(&self, question: &Question, forward: &Forward<'_>, tail: Bytes) {
        let taken = self.take_in(forward, question.arrived);
        let (taken, Content { reply, fields, payload }) =
            match taken.and_then(|taken| Ok((taken, self.split(forward, &tail)?))) {
                Ok(taken) => taken,
                Err(why) => {
                    self.shared.metrics.cluster.taken(outcome_of(why));
                    return self.answer(question, encode(&Answer::NotTaken(why), &[]));
                }
            };
        let (claimed, is_claimed) = oneshot::channel();
        let later = forward.is_payload_later.then(|| self.expect_payload(&question.reply));
        let answers_claim_after = if later.is_some() { Duration::ZERO } else { VERDICT_SOON };
        let token = later.as_ref().map(|(token, _)| *token);
        let forwarded = ForwardedRun {
            claim_by: question.arrived + taken.left.claim.saturating_sub(WAY_BACK),
            unproven: forward.unproven,
            claimed,
            payload: later.map(|(_, payload)| (payload, PAYLOAD_WITHIN)),
        };
        let slice = |part: &[u8]| question.bytes.slice_ref(part);
        let run = Run {
            id: slice(forward.run.as_bytes()),
            content_type: slice(forward.content_type),
            payload,
            reply: reply.as_ref().map(|reply| reply.target.clone()),
            fields,
        };
        let request = DispatchRequest {
            key: taken.key,
            payload_kind: taken.payload_kind,
            run,
            proof: taken.proof,
            redeliver: forward.redeliver,
            idempotency_key: forward.idempotency_key.map(|run| IdempotencyKey::of_digest(run.bytes())),
            content: forward.content.and_then(NonZeroU64::new),
            names_controller: forward.names_controller,
            reply: None,
            wait: Duration::ZERO,
            deadline: question.arrived + taken.left.verdict,
            times: DispatchTimes {
                budget: Duration::from_micros(forward.budget),
                read_timeout: Duration::from_micros(forward.read_timeout),
                remember_for: Duration::from_micros(forward.remember_for),
            },
        };
        let mut dispatch = std::pin::pin!(self.dispatcher.dispatch_forwarded(request, forwarded));
        let claim_takes_long = async {
            match is_claimed.await {
                Ok(()) => tokio::time::sleep(answers_claim_after).await,
                Err(_) => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            biased;
            ended = &mut dispatch => ended,
            () = claim_takes_long => {
                self.answer(question, encode(&Answer::Claimed, &[]));
                dispatch.await
            }
        };
        if let Some(token) = token {
            self.payloads.lock().remove(&token);
        }
        self.end(question, forward.pool, taken.key, &ended);
    }

    /// Whether the forward is taken in. Nothing was claimed for it before.
    fn take_in<'a>(&self, forward: &Forward<'a>, arrived: Instant) -> Result<Taken<'a>, NotTaken> {
        let (Ok(deployment), Ok(version), Ok(cpu), Ok(memory), Some(&payload_kind), Some(&proof)) = (
            check_part(forward.deployment),
            check_part(forward.version),
            Number::new(forward.cpu),
            Number::new(forward.memory),
            PayloadKind::ALL.get(usize::from(forward.payload_kind)),
            Proof::ALL.get(usize::from(forward.proof)),
        ) else {
            return Err(NotTaken::Malformed);
        };
        let policy = DeliveryPolicy::new(proof, forward.redeliver);
        let age = {
            let now = self.shared.exchange.at(arrived);
            self.shared.member.lock().directory.age(forward.from, forward.sent, now)
        };
        let left = time_left(forward, &policy, age)?;
        let permits = (forward.payload_bytes as usize).div_ceil(BYTES_PER_PERMIT);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let (Ok(forwards), Ok(bytes)) =
            (self.forwards.clone().try_acquire_owned(), self.bytes.clone().try_acquire_many_owned(permits))
        else {
            return Err(NotTaken::Overloaded);
        };
        let key = KeyRef { deployment, version, cpu, memory };
        Ok(Taken { key, payload_kind, proof, left, _permits: [forwards, bytes] })
    }

    /// The token of a forward, and its payload once that arrives.
    fn expect_payload(&self, reply: &str) -> (u128, oneshot::Receiver<Bytes>) {
        let token = answered_token(reply).unwrap_or_default();
        let (sender, receiver) = oneshot::channel();
        self.payloads.lock().insert(token, sender);
        (token, receiver)
    }

    fn end(
        &self,
        question: &Question,
        pool: Digest,
        key: KeyRef<'_>,
        ended: &Result<ForwardedOutcome, RunNameConflict>,
    ) {
        // A run of another payload has this name: a waiter may have that one.
        let unknown = ForwardedOutcome {
            outcome: Outcome { offers: 0, result: Err(MissReason::Unknown) },
            offers: Vec::new(),
            unproven: 0,
        };
        let ForwardedOutcome { outcome, offers, unproven } = ended.as_ref().unwrap_or(&unknown);
        self.shared.metrics.cluster.taken(match outcome.result {
            Ok(_) => TakenOutcome::Delivered,
            Err(MissReason::Unknown) => TakenOutcome::Unknown,
            Err(MissReason::Undelivered) => TakenOutcome::Undelivered,
            Err(_) => TakenOutcome::Miss,
        });
        let (number, waiters) = {
            let now = self.shared.now();
            let mut member = self.shared.member.lock();
            // In this order: an announcement with a larger number is newer than these waiters.
            let number = member.own.number();
            let waiters = self.shared.exchange.claimable(key);
            member.own.told(pool, waiters, now);
            if member.own.has_news() {
                self.shared.has_news.notify_one();
            }
            (number, waiters)
        };
        let offers = offers.iter().map(|offer| RemoteOffer {
            controller: &offer.controller,
            verdict: offer.verdict as u8,
            since: micros(offer.since),
            took: micros(offer.took),
        });
        let forwarded = Forwarded {
            offers: offers.collect(),
            unproven: *unproven,
            result: outcome.result.as_ref().map(|hit| hit.proof as u8).map_err(|reason| *reason as u8),
            controller: named(outcome).map(NamedController::name),
            handled: micros(question.arrived.elapsed()),
            waiters,
            number,
        };
        self.answer(question, encode(&Answer::Forwarded(forwarded), &tail(outcome)));
    }

    async fn earlier(&self, question: &Question, run: &EarlierRun) {
        let earlier = self.dispatcher.earlier_outcome(run).await.or_else(|| self.earlier_with_reply(run));
        let end = earlier.as_ref().and_then(|earlier| match earlier {
            Ok(Outcome { offers, result: Ok(hit) }) => Some(EarlierEnd::Delivered {
                proof: hit.proof as u8,
                offers: *offers,
                controller: hit.controller.as_ref().map_or("", NamedController::name),
            }),
            Ok(Outcome { offers, result: Err(MissReason::Unknown) }) => {
                Some(EarlierEnd::Unknown { offers: *offers })
            }
            Ok(_) => None,
            Err(RunNameConflict) => Some(EarlierEnd::Conflict),
        });
        let tail = earlier.as_ref().and_then(|earlier| earlier.as_ref().ok()).map(tail).unwrap_or_default();
        self.answer(question, encode(&Answer::Earlier(end), &tail));
    }

    /// The outcome of a run that is remembered for its reply only, which ends later than its dispatch.
    fn earlier_with_reply(&self, run: &EarlierRun) -> Option<Result<Outcome, RunNameConflict>> {
        self.shared.replies.earlier(run.key.digest(), run.remember_for)?;
        let hit = Hit { proof: Proof::Received, controller: None };
        Some(Ok(Outcome { offers: 1, result: Ok(hit) }))
    }

    /// What follows a forward.
    fn split(&self, forward: &Forward<'_>, tail: &Bytes) -> Result<Content, NotTaken> {
        let (before, payload) = forward_tail::split(forward.features, tail).ok_or(NotTaken::Malformed)?;
        let expect = |path: &str| self.shared.replies.expect_forwarded(path).ok_or(NotTaken::Malformed);
        let reply = before.reply.as_deref().map(expect).transpose()?;
        Ok(Content { reply, fields: before.fields, payload })
    }

    /// If the answer cannot be sent, its receiver takes the silence for one unproven offer.
    fn answer(&self, question: &Question, answer: Vec<u8>) {
        if question.reply.is_empty() {
            return;
        }
        if self.shared.publish(question.reply.clone(), answer).is_err() {
            self.shared.metrics.cluster.dropped(DropReason::NotConnected);
        }
    }
}

/// How a forward is counted that is not taken in.
fn outcome_of(why: NotTaken) -> TakenOutcome {
    match why {
        NotTaken::Stale => TakenOutcome::Stale,
        NotTaken::Unsupported => TakenOutcome::Unsupported,
        NotTaken::Overloaded => TakenOutcome::Overloaded,
        NotTaken::Malformed => TakenOutcome::Malformed,
    }
}

/// The controller that has the run, if the answer names it.
fn named(outcome: &Outcome) -> Option<&NamedController> {
    outcome.result.as_ref().ok().and_then(|hit| hit.controller.as_ref())
}

/// What follows the answer about this outcome.
fn tail(outcome: &Outcome) -> Vec<u8> {
    AnswerTail { metadata: named(outcome).and_then(NamedController::metadata) }.encode()
}

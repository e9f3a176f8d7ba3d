//! Owns one run's way to a waiter, the same for both dialects: match, offer, and again while that is safe.

mod inferred_proxies;
mod offer;
mod record;

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU64;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use super::{HttpState, Problem};
use crate::broker::{Claim, ClaimRequest, KeyRef, PayloadKind, RemovedWaiter};
use crate::exchange::{ContentHash, LeaderGuard, Lookup, WaitlistEntry};
use crate::journal;
use crate::model::MissReason;
use crate::model::{Proof, Verdict};
use crate::transport::{DeliveryRequirements, Run, Waiter};
pub(super) use inferred_proxies::InferredProxies;
use offer::{OfferResult, OfferTask};
pub(super) use record::{DispatchRecorder, RunLabels};

/// So many offers may follow the first that was sent and not proved.
const MAX_REDELIVERIES: u32 = 2;

/// An acknowledgement may usually take so long.
const USUAL_ACK: Duration = Duration::from_millis(250);
/// The last look after a wait comes a little late.
const LAST_LOOK: Duration = Duration::from_millis(20);

/// A valid run and what its supervisor allows.
pub(super) struct DispatchRequest<'a> {
    pub(super) key: KeyRef<'a>,
    pub(super) payload_kind: PayloadKind,
    pub(super) run: Arc<Run>,
    pub(super) named: RunLabels,
    /// The POST's last byte.
    pub(super) since: Instant,
    /// What makes an offer a delivery.
    pub(super) proof: Proof,
    /// Whether another waiter may get the run after one may have got it.
    pub(super) redeliver: bool,
    /// What the same run has the second time it is posted; none if each POST is a run of its own.
    pub(super) identity: Option<IdempotencyKey>,
    /// What must be the same then, where it is compared.
    pub(super) content: ContentHash,
    /// How long to wait for a controller to come.
    pub(super) wait: Duration,
    /// The POST is answered by then.
    pub(super) until: Instant,
}

/// What makes a run the same run, as a digest: names by the hundred thousand would be most of the broker's memory. Two runs
/// have the same by chance once in 2^128, and on purpose only for who knows this process's secret key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct IdempotencyKey([u64; 2]);

impl IdempotencyKey {
    /// A run of this key; the snapshot is empty where there is none.
    pub(super) fn new(run: &str, snapshot: &str, key: KeyRef<'_>) -> Self {
        /// The standard library's hash, with a secret key.
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let (cpu, memory) = (key.cpu.get().to_bits(), key.memory.get().to_bits());
        // A tuple, because no joined text could not be met by another one.
        let whole = (run, snapshot, key.deployment, key.version, cpu, memory);
        Self([0_u8, 1].map(|half| KEY.hash_one((half, whole))))
    }
}

/// What a payload has in common with itself alone, but for one chance in 2^63.
pub(super) fn content_hash(payload: &[u8]) -> ContentHash {
    static KEY: LazyLock<ahash::RandomState> = LazyLock::new(ahash::RandomState::new);
    NonZeroU64::new(KEY.hash_one(payload) | 1)
}

/// How an order ended.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) offers: u32,
    pub(super) attempts: Vec<journal::OfferRecord>,
    pub(super) result: Result<Hit, MissReason>,
}

impl Outcome {
    /// Nobody was offered the run by this POST.
    pub(super) fn without_offers(offers: u32, result: Result<Hit, MissReason>) -> Self {
        Self { offers, attempts: Vec::new(), result }
    }
}

/// What is remembered of a run that somebody has, or may have, and answered when it is posted again.
pub(super) type CachedOutcome = (u32, Result<Hit, MissReason>);
/// The one POST of a run that offers it.
pub(super) type Leader = LeaderGuard<IdempotencyKey, CachedOutcome>;

/// A delivery.
#[derive(Debug, Clone)]
pub(super) struct Hit {
    pub(super) proof: Proof,
    pub(super) controller: Box<str>,
}

/// Delivers a run before the order's time is over, once, however often it is posted within the time that runs are
/// remembered. `Err` if its name is that of another run.
pub(super) async fn dispatch(
    front: &Arc<HttpState>,
    mut order: DispatchRequest<'_>,
) -> Result<Outcome, Problem> {
    let time = front.limits().remember_runs;
    let Some(identity) = order.identity.take().filter(|_| !time.is_zero()) else {
        return Ok(deliver(front, order, None).await);
    };
    let seen = front.idempotency.begin(&identity, order.content, time);
    Ok(match tokio::time::timeout_at(order.until.into(), seen).await {
        // Another POST of the same run is still under way.
        Err(_) => Outcome::without_offers(0, Err(MissReason::Unknown)),
        Ok(Lookup::Leader(first)) => deliver(front, order, Some(first)).await,
        // It was delivered, and not proved as far as this POST asks.
        Ok(Lookup::Cached((offers, Ok(hit)))) if hit.proof < order.proof => {
            Outcome::without_offers(offers, Err(MissReason::Unknown))
        }
        Ok(Lookup::Cached((offers, result))) => Outcome::without_offers(offers, result),
        Ok(Lookup::Conflict) => return Err(Problem::run_name_conflict(time)),
    })
}

/// A supervisor that leaves before the match claims nobody; after it, the offer under way is finished.
async fn deliver(front: &Arc<HttpState>, order: DispatchRequest<'_>, mut first: Option<Leader>) -> Outcome {
    let until = order.until;
    // An offer that could not be proved any more would take a waiter and a run for nothing.
    let last_offer = until.checked_sub(proof_reserve(front, order.proof)).unwrap_or(until);
    let budget = front.limits().dispatch_budget;
    let wait_until = (Instant::now() + order.wait.min(budget)).min(last_offer);
    let ask = ClaimRequest { key: order.key, payload_kind: order.payload_kind };
    let demand = DeliveryRequirements {
        proof: order.proof,
        read_timeout: front.limits().proof_timeout,
        taken_by: last_offer,
        until,
    };
    let mut outcome = Outcome::without_offers(0, Err(MissReason::Undelivered));
    let mut unproven = 0;
    loop {
        if Instant::now() > last_offer + LAST_LOOK {
            return outcome;
        }
        let taken = match claim_or_wait(front, &ask, wait_until).await {
            Ok(taken) => taken,
            Err(miss) => {
                if outcome.offers == 0 {
                    outcome.result = Err(miss);
                }
                return outcome;
            }
        };
        outcome.offers += 1;
        outcome.result = Err(MissReason::Undelivered);
        let attempt = OfferTask {
            front: front.clone(),
            run: order.run.clone(),
            named: order.named.clone(),
            since: order.since,
            requirements: demand,
            offers: outcome.offers,
            redeliver: order.redeliver,
            is_again: unproven > 0,
            first: first.take(),
            before: std::mem::take(&mut outcome.attempts),
        };
        let OfferResult { told, result } = attempt.detach_on_drop(taken).await;
        outcome.attempts = told;
        let ended = match result {
            Ok(hit) => {
                outcome.result = Ok(hit);
                return outcome;
            }
            Err(ended) => ended,
        };
        if ended.is_unknown {
            outcome.result = Err(MissReason::Unknown);
            return outcome;
        }
        first = ended.first;
        unproven += u32::from(ended.verdict != Verdict::Gone);
        if unproven > MAX_REDELIVERIES {
            return outcome;
        }
    }
}

/// Takes a waiter out, waiting for one to come until then.
async fn claim_or_wait(
    front: &Arc<HttpState>,
    ask: &ClaimRequest<'_>,
    wait_until: Instant,
) -> Result<RemovedWaiter<Waiter>, MissReason> {
    // The hope stands before the first look: whoever parks in between is not missed. It ends with the match, so that the
    // next run that hopes looks at once.
    let mut hope = (wait_until > Instant::now()).then(|| front.exchange.join_waitlist(ask));
    loop {
        match front.exchange.claim(ask) {
            Claim::Matched(taken) => return Ok(taken),
            Claim::Miss(miss) if !is_retryable(miss) || hope.is_none() => return Err(miss),
            Claim::Miss(_) => wait_for_waiter(&mut hope, wait_until).await,
        }
    }
}

/// What must be left of the budget for an offer: time for its proof, but never more than half of the whole.
fn proof_reserve(front: &HttpState, proof: Proof) -> Duration {
    let needed = match proof {
        Proof::Written => Duration::ZERO,
        Proof::Acked => USUAL_ACK,
        Proof::Received | Proof::Hop => USUAL_ACK + front.limits().proof_timeout,
    };
    needed.min(front.limits().dispatch_budget / 2)
}

/// Whether waiting for a controller could turn this miss into a hit.
fn is_retryable(miss: MissReason) -> bool {
    match miss {
        MissReason::NoPool
        | MissReason::WrongVersion
        | MissReason::WrongMachine
        | MissReason::AllTaken
        | MissReason::NotAMessage => true,
        MissReason::Draining
        | MissReason::Undelivered
        | MissReason::Unknown
        | MissReason::NoDeployment
        | MissReason::Overloaded => false,
    }
}

/// Waits until somebody came. When the time is over, the hope is given up, and one last look is due.
async fn wait_for_waiter(hope: &mut Option<WaitlistEntry<Waiter>>, until: Instant) {
    if let Some(waiting) = hope
        && tokio::time::timeout_at(until.into(), waiting.notified()).await.is_err()
    {
        *hope = None;
    }
}

//! Owns the dispatch of one run, the same for every dialect: claim a waiter, offer it the run, and repeat as the policy
//! decides.
//!
//! ```text
//! dispatch ─► idempotency ─► claim ─► offer ─► policy ─► delivered
//!                  │           │ ▲               │
//!                  │           │ └─ offer again ─┤
//!                  ▼           ▼                 ▼
//!               cached        miss            give up
//! ```
//! It depends on no dialect and no HTTP status. The policy decides, the offer acts, the recorder accounts for both.

mod inferred_proxies;
mod names;
mod offer;
mod policy;
mod record;
mod request;
mod shared;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::broker::{Claim, ClaimRequest, RemovedWaiter};
use crate::exchange::{Lookup, WaitlistEntry};
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::model::MissReason;
use crate::transport::{DeliveryRequirements, Exchange, Waiter};

use offer::OfferTask;
pub use policy::{DeliveryPolicy, MAX_REDELIVERIES, OfferEnd, Step};
pub use record::DispatchRecorder;
pub use request::{
    DispatchRequest, DispatchTimes, Hit, IdempotencyKey, Outcome, RunNameConflict, content_hash,
};
use shared::{Leader, Shared};

/// How much later than the end of the wait the last claim may be made.
const LAST_CLAIM_DELAY: Duration = Duration::from_millis(20);

/// Dispatches runs. Clones share everything.
#[derive(Clone)]
pub struct Dispatcher(Arc<Shared>);

impl Dispatcher {
    /// A dispatcher to the waiters of this exchange.
    pub fn new(exchange: Arc<Exchange>, metrics: Arc<Metrics>, journal: Arc<Journal>) -> Self {
        Self(Arc::new(Shared::new(exchange, metrics, journal)))
    }

    /// A POST has arrived: from now on it is in flight.
    pub fn begin(&self) -> DispatchRecorder {
        DispatchRecorder::new(&self.0)
    }

    /// The number of POSTs in flight: those without an outcome yet, and those whose client has left during an offer.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    /// Delivers a run before its deadline, and once only, however often it is posted within the time that runs are
    /// remembered. If the client leaves before a waiter is claimed, none is claimed; if it leaves later, the offer in
    /// progress is completed.
    pub async fn dispatch(
        &self,
        request: DispatchRequest<'_>,
        recorder: &mut DispatchRecorder,
    ) -> Result<Outcome, RunNameConflict> {
        let (outcome, ended) = match self.find_cached(&request).await {
            Ok(leader) => self.deliver(request, leader, recorder).await,
            Err(cached) => (cached?, Instant::now()),
        };
        recorder.finish(&outcome, ended);
        Ok(outcome)
    }

    /// Determines whether this POST offers its run, either as its leader or because runs are not remembered. If not, its
    /// outcome follows from that of an earlier POST.
    async fn find_cached(
        &self,
        request: &DispatchRequest<'_>,
    ) -> Result<Option<Leader>, Result<Outcome, RunNameConflict>> {
        let DispatchRequest { idempotency_key, content, proof, deadline, times, .. } = request;
        let Some(key) = idempotency_key.filter(|_| !times.remember_for.is_zero()) else { return Ok(None) };
        let idempotency = &self.0.idempotency;
        // Nearly always no other POST of the run is in flight, and then no timer is needed.
        let lookup = if let Ok(lookup) = idempotency.try_begin(&key, *content, times.remember_for) {
            Ok(lookup)
        } else {
            let lookup = idempotency.begin(&key, *content, times.remember_for);
            tokio::time::timeout_at((*deadline).into(), lookup).await
        };
        match lookup {
            // Another POST of the same run is still in flight.
            Err(_) => Err(Ok(Outcome { offers: 0, result: Err(MissReason::Unknown) })),
            Ok(Lookup::Leader(leader)) => Ok(Some(leader)),
            // The run was delivered, but not proved as far as this POST asks.
            Ok(Lookup::Cached((offers, Ok(hit)))) if hit.proof < *proof => {
                Err(Ok(Outcome { offers, result: Err(MissReason::Unknown) }))
            }
            Ok(Lookup::Cached((offers, result))) => Err(Ok(Outcome { offers, result })),
            Ok(Lookup::Conflict) => Err(Err(RunNameConflict)),
        }
    }

    /// Offers the run to waiters until the policy ends it. Returns when that was, too.
    async fn deliver(
        &self,
        request: DispatchRequest<'_>,
        leader: Option<Leader>,
        recorder: &mut DispatchRecorder,
    ) -> (Outcome, Instant) {
        let DispatchRequest { key, payload_kind, run, proof, redeliver, wait, deadline, times, .. } = request;
        let names_controller = request.names_controller;
        let policy = DeliveryPolicy::new(proof, redeliver);
        let reserve = policy.proof_reserve(times.read_timeout, times.budget);
        let last_offer = deadline.checked_sub(reserve).unwrap_or(deadline);
        let requirements = DeliveryRequirements {
            proof,
            read_timeout: times.read_timeout,
            taken_by: last_offer,
            until: deadline,
        };
        let claim = ClaimRequest { key, payload_kind };
        let mut now = Instant::now();
        let Some(record) = recorder.take_record() else {
            debug_assert!(false, "one POST is dispatched twice");
            return (Outcome { offers: 0, result: Err(MissReason::Undelivered) }, now);
        };
        let mut task = OfferTask { run, requirements, policy, names_controller, offers: 0, leader, record };
        let wait_until = (!wait.is_zero()).then(|| (now + wait.min(times.budget)).min(last_offer));
        let result = loop {
            if now > last_offer + LAST_CLAIM_DELAY {
                break Err(task.policy.unproven_reason());
            }
            let removed = match self.claim_or_wait(&claim, wait_until, &mut now).await {
                Ok(removed) => removed,
                Err(_) if task.offers > 0 => break Err(task.policy.unproven_reason()),
                Err(reason) => break Err(reason),
            };
            let offered = match task.offer(removed, now) {
                ControlFlow::Break(ended) => ended,
                ControlFlow::Continue(pending) => {
                    let (returned, ended) = task.prove(pending).await;
                    task = returned;
                    ended
                }
            };
            now = offered.ended;
            match offered.step {
                Step::Delivered(proof) => break Ok(Hit { proof, controller: offered.controller }),
                Step::GiveUp(reason) => break Err(reason),
                Step::OfferAgain => {}
            }
        };
        let OfferTask { record, offers, .. } = task;
        recorder.put_record(record);
        (Outcome { offers, result }, now)
    }

    /// Claims a waiter. If there is none, waits for one to be parked, at most until `wait_until`. `now` is the time of the
    /// first claim, and becomes that of the last one.
    async fn claim_or_wait(
        &self,
        request: &ClaimRequest<'_>,
        wait_until: Option<Instant>,
        now: &mut Instant,
    ) -> Result<RemovedWaiter<Waiter>, MissReason> {
        let exchange = &self.0.exchange;
        // The entry precedes the first claim, so that a waiter parked in between is not missed. It ends with the match, so that
        // the next run on the waitlist claims at once.
        let mut entry = wait_until
            .filter(|until| until > now)
            .map(|until| WaitingRun { entry: exchange.join_waitlist(request), until });
        loop {
            match exchange.claim(request, exchange.at(*now)) {
                Claim::Matched(removed) => return Ok(removed),
                Claim::Miss(reason) if !is_retryable(reason) => return Err(reason),
                Claim::Miss(reason) => {
                    let Some(waiting) = entry.take() else { return Err(reason) };
                    entry = waiting.wait().await;
                    *now = Instant::now();
                }
            }
        }
    }

    /// Clears some of the memory of runs that are forgotten. To be called often.
    pub fn clear_forgotten(&self) {
        self.0.idempotency.clear_retired();
    }

    /// Forgets runs that are too old, and measures how far back runs are remembered.
    pub fn forget_old(&self, remember_for: Duration) {
        let Shared { idempotency, metrics, .. } = &*self.0;
        idempotency.expire(remember_for);
        metrics.idempotency_window.set(idempotency.window(remember_for).as_secs_f64());
    }
}

/// Whether waiting for a controller could turn this miss into a hit.
fn is_retryable(reason: MissReason) -> bool {
    match reason {
        MissReason::NoPool
        | MissReason::WrongVersion
        | MissReason::WrongMachine
        | MissReason::AllTaken
        | MissReason::NotAMessage => true,
        MissReason::Draining
        | MissReason::Undelivered
        | MissReason::Unknown
        | MissReason::TooLargeToForward
        | MissReason::NoDeployment
        | MissReason::Overloaded => false,
    }
}

/// A run on the waitlist, and when it leaves it.
struct WaitingRun {
    entry: WaitlistEntry<Waiter>,
    until: Instant,
}

impl WaitingRun {
    /// Waits until a waiter is parked. None if its time is over: the next claim is the last one.
    async fn wait(self) -> Option<Self> {
        let notified = tokio::time::timeout_at(self.until.into(), self.entry.notified()).await;
        notified.is_ok().then_some(self)
    }
}

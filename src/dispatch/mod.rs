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
//! It depends on no dialect and no HTTP status. The policy decides, the offer acts, the recorder accounts for both. What is not
//! found here may be found at another broker ([`RemotePools`]).

mod deliver;
mod inferred_proxies;
mod names;
mod offer;
mod policy;
mod record;
mod remote;
mod request;
mod shared;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::broker::KeyRef;
use crate::exchange::{ContentHash, Lookup};
use crate::journal::{Journal, OfferRecord};
use crate::metrics::Metrics;
use crate::model::MissReason;
use crate::transport::Exchange;

use deliver::{EndedDelivery, RunToDeliver, deliver};
pub use policy::{DeliveryPolicy, MAX_REDELIVERIES, OfferEnd, Step};
use record::Record;
pub use record::{DispatchRecorder, ReplyRecorder};
pub use remote::{
    EarlierOutcome, EarlierRun, ForwardEnd, ForwardResult, ForwardedRun, PendingForward, RemotePools,
    RemoteRun, RemoteSearch,
};
pub use request::{
    DispatchRequest, DispatchTimes, Hit, IdempotencyKey, NamedController, Outcome, RunNameConflict,
};
use shared::{Flight, Leader, Shared};

/// Dispatches runs. Clones share everything.
#[derive(Clone)]
pub struct Dispatcher(Arc<Shared>);

impl Dispatcher {
    /// A dispatcher to the waiters of this exchange.
    pub fn new(exchange: Arc<Exchange>, metrics: Arc<Metrics>, journal: Arc<Journal>) -> Self {
        Self(Arc::new(Shared::new(exchange, metrics, journal)))
    }

    /// From now on, a run without a waiter here may get one of other brokers. Only the first call has an effect.
    pub fn set_remote_pools(&self, remote: Arc<dyn RemotePools>) {
        let _ = self.0.remote.set(remote);
    }

    /// By what this run is remembered. The snapshot is empty where there is none.
    pub fn idempotency_key(&self, run: &str, snapshot: &str, key: KeyRef<'_>) -> IdempotencyKey {
        match self.0.remote.get() {
            None => IdempotencyKey::new(run, snapshot, key),
            Some(remote) => remote.idempotency_key(run, snapshot, key),
        }
    }

    /// By what the payload of a named run is compared.
    pub fn content_hash(&self, payload: &[u8]) -> ContentHash {
        match self.0.remote.get() {
            None => request::content_hash(payload),
            Some(remote) => remote.content_hash(payload),
        }
    }

    /// A POST has arrived: from now on it is in flight.
    pub fn begin(&self) -> DispatchRecorder {
        DispatchRecorder::new(&self.0)
    }

    /// The number of POSTs in flight: those without an outcome yet, and those whose client has left during an offer.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight(Flight::Post)
    }

    /// The number of runs in flight that other brokers have forwarded.
    pub fn forwards_in_flight(&self) -> usize {
        self.0.in_flight(Flight::Forward)
    }

    /// Delivers a run before its deadline, and once only, however often it is posted within the time that runs are
    /// remembered. If the client leaves before a waiter is claimed, none is claimed; if it leaves later, the offer in
    /// progress is completed.
    pub async fn dispatch(
        &self,
        request: DispatchRequest<'_>,
        recorder: &mut DispatchRecorder,
    ) -> Result<Outcome, RunNameConflict> {
        let leader = match self.find_cached(&request).await {
            Ok(leader) => leader,
            Err(cached) => return recorder.finish_cached(cached),
        };
        let leader = match self.find_earlier(&request, leader).await {
            Ok(leader) => leader,
            Err(earlier) => return recorder.finish_cached(earlier),
        };
        let Some(record) = recorder.take_record() else {
            debug_assert!(false, "one POST is dispatched twice");
            return Ok(Outcome { offers: 0, result: Err(MissReason::Undelivered) });
        };
        let run = RunToDeliver { request, leader, record, forwarded: None };
        let EndedDelivery { outcome, ended, record, .. } = deliver(&self.0, run).await;
        recorder.put_record(record);
        recorder.finish(&outcome, ended);
        Ok(outcome)
    }

    /// Delivers a run that another broker has forwarded to a waiter of this one. That broker accounts for the POST.
    pub async fn dispatch_forwarded(
        &self,
        request: DispatchRequest<'_>,
        forwarded: ForwardedRun,
    ) -> Result<ForwardedOutcome, RunNameConflict> {
        let unproven = forwarded.unproven;
        let record = Record::of_forward(&self.0);
        let cached = tokio::time::timeout_at(forwarded.claim_by.into(), self.find_cached(&request)).await;
        let leader = match cached.unwrap_or(Err(Ok(Outcome { offers: 0, result: Err(MissReason::Unknown) })))
        {
            Ok(leader) => leader,
            Err(cached) => {
                return cached.map(|outcome| ForwardedOutcome { outcome, offers: Vec::new(), unproven });
            }
        };
        let run = RunToDeliver { request, leader, record: Box::new(record), forwarded: Some(forwarded) };
        let EndedDelivery { outcome, unproven, mut record, .. } = deliver(&self.0, run).await;
        Ok(ForwardedOutcome { outcome, offers: record.take_offers(), unproven })
    }

    /// How an earlier POST of a run ended, once it has, and `unknown` if it has not by then. None if none is known here.
    pub async fn earlier_outcome(&self, run: &EarlierRun) -> Option<Result<Outcome, RunNameConflict>> {
        let EarlierRun { key, content, remember_for, deadline } = run;
        let lookup = self.0.idempotency.begin(key, *content, *remember_for);
        match tokio::time::timeout_at((*deadline).into(), lookup).await {
            Ok(Lookup::Leader(_)) => None,
            Ok(Lookup::Cached((offers, result))) => Some(Ok(Outcome { offers, result })),
            Ok(Lookup::Conflict) => Some(Err(RunNameConflict)),
            // It is still in flight: a waiter may have the run.
            Err(_) => Some(Ok(Outcome { offers: 0, result: Err(MissReason::Unknown) })),
        }
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
            Ok(Lookup::Cached((offers, result))) => Err(Ok(Outcome { offers, result }.proved_for(*proof))),
            Ok(Lookup::Conflict) => Err(Err(RunNameConflict)),
        }
    }

    /// The outcome of an earlier POST of a named run at another broker, if that has claimed a waiter for it. It is remembered here,
    /// too.
    async fn find_earlier(
        &self,
        request: &DispatchRequest<'_>,
        leader: Option<Leader>,
    ) -> Result<Option<Leader>, Result<Outcome, RunNameConflict>> {
        let DispatchRequest { idempotency_key, content, deadline, times, .. } = *request;
        let (Some(remote), Some(key)) = (self.0.remote.get(), idempotency_key.filter(|_| leader.is_some()))
        else {
            return Ok(leader);
        };
        let run = EarlierRun { key, content, remember_for: times.remember_for, deadline };
        let earlier = if content.is_some() { remote.earlier(&run) } else { None };
        let Some(earlier) = earlier else { return Ok(leader) };
        let Some(earlier) = earlier.await else { return Ok(leader) };
        if let (Ok(Outcome { offers, result }), Some(leader)) = (&earlier, leader) {
            leader.complete((*offers, result.clone()), Instant::now());
        }
        Err(earlier.map(|outcome| outcome.proved_for(request.proof)))
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

/// How a forwarded run ended here.
#[derive(Debug)]
pub struct ForwardedOutcome {
    /// The outcome.
    pub outcome: Outcome,
    /// The offers, in order; none if the run is answered like an earlier POST.
    pub offers: Vec<OfferRecord>,
    /// Offers of the whole POST that were sent and not proved.
    pub unproven: u32,
}

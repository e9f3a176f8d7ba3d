//! Owns the delivery of one run: find a waiter, offer it the run, and repeat as the policy decides. A waiter of this broker comes
//! first, then those of other brokers.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::offer::OfferTask;
use super::policy::{DeliveryPolicy, Step};
use super::record::Record;
use super::remote::{ForwardedRun, PendingForward, RemoteRun, RemoteSearch};
use super::request::{DispatchRequest, DispatchTimes, Hit, IdempotencyKey, Outcome};
use super::shared::{Leader, Shared};
use crate::broker::{Claim, ClaimRequest, RemovedWaiter};
use crate::exchange::{ContentHash, WaitlistEntry};
use crate::model::MissReason;
use crate::transport::{DeliveryRequirements, Waiter};

/// How much later than the end of the wait the last claim may be made.
const LAST_CLAIM_DELAY: Duration = Duration::from_millis(20);

/// A run to deliver, and what goes along with it.
pub(super) struct RunToDeliver<'a> {
    pub(super) request: DispatchRequest<'a>,
    pub(super) leader: Option<Leader>,
    pub(super) record: Box<Record>,
    /// Set if another broker has forwarded the run: then it is not forwarded again.
    pub(super) forwarded: Option<ForwardedRun>,
}

/// A delivery that has ended.
pub(super) struct EndedDelivery {
    pub(super) outcome: Outcome,
    pub(super) ended: Instant,
    pub(super) unproven: u32,
    pub(super) record: Box<Record>,
}

/// Offers the run to waiters until the policy ends it.
pub(super) async fn deliver(shared: &Arc<Shared>, run: RunToDeliver<'_>) -> EndedDelivery {
    let RunToDeliver { request, leader, record, mut forwarded } = run;
    let DispatchRequest { key, payload_kind, proof, redeliver, wait, deadline, times, .. } = request;
    let policy = DeliveryPolicy::new(proof, redeliver)
        .resumed(forwarded.as_ref().map_or(0, |forwarded| forwarded.unproven));
    let requirements = requirements(policy, &request);
    let last_offer = requirements.taken_by;
    let names_controller = request.names_controller;
    // The name of a run counts at all brokers, so that they have to know which of them has claimed a waiter for it.
    let mut announced = request.idempotency_key.filter(|_| request.content.is_some());
    let mut now = Instant::now();
    let mut search = WaiterSearch {
        shared,
        claim: ClaimRequest { key, payload_kind },
        wait_until: (!wait.is_zero()).then(|| (now + wait.min(times.budget)).min(last_offer)),
        is_local: forwarded.is_some(),
        deadline,
        times,
        idempotency_key: request.idempotency_key,
        content: request.content,
        remote: None,
    };
    let (run, reply) = (request.run, request.reply);
    let mut task =
        OfferTask { run, requirements, policy, names_controller, offers: 0, leader, record, reply };
    let result = loop {
        if now > last_offer + LAST_CLAIM_DELAY {
            break Err(task.policy.unproven_reason());
        }
        if let Err(reason) = task.name_reply() {
            break Err(reason);
        }
        let offered = match search.find(&task, &mut now).await {
            Found::Here(removed) => {
                if let Some((run, remote)) = announced.take().zip(shared.remote.get()) {
                    remote.claimed(run);
                }
                if let Some(forwarded) = forwarded.take()
                    && let Err(reason) = task.receive_payload(forwarded).await
                {
                    task.end_without_payload(removed, now);
                    break Err(reason);
                }
                match task.offer(removed, now) {
                    ControlFlow::Break(ended) => ended,
                    ControlFlow::Continue(pending) => {
                        let (returned, ended) = task.prove(pending).await;
                        task = returned;
                        ended
                    }
                }
            }
            Found::Elsewhere(pending) => {
                let (returned, ended) = task.forward(pending).await;
                task = returned;
                ended
            }
            Found::Nowhere(reason) => break Err(task.miss(reason)),
        };
        now = offered.ended;
        match offered.step {
            Step::Delivered(proof) => break Ok(Hit { proof, controller: offered.controller }),
            Step::GiveUp(reason) => break Err(reason),
            Step::OfferAgain => {}
        }
    };
    task.cache_unknown(&result, now);
    let OfferTask { record, offers, policy, .. } = task;
    EndedDelivery { outcome: Outcome { offers, result }, ended: now, unproven: policy.unproven(), record }
}

/// What an offer of this run has to prove, and by when.
fn requirements(policy: DeliveryPolicy, request: &DispatchRequest<'_>) -> DeliveryRequirements {
    let DispatchRequest { proof, deadline, times: DispatchTimes { budget, read_timeout, .. }, .. } = *request;
    let reserve = policy.proof_reserve(read_timeout, budget);
    let taken_by = deadline.checked_sub(reserve).unwrap_or(deadline);
    DeliveryRequirements { proof, read_timeout, taken_by, until: deadline }
}

/// Where a waiter was found.
enum Found {
    /// At this broker.
    Here(RemovedWaiter<Waiter>),
    /// At another one, to which the run is on its way.
    Elsewhere(PendingForward),
    /// No broker has one.
    Nowhere(MissReason),
}

/// The search for a waiter for one run.
struct WaiterSearch<'a> {
    shared: &'a Arc<Shared>,
    claim: ClaimRequest<'a>,
    /// Until when to wait for a controller to come.
    wait_until: Option<Instant>,
    /// Whether only this broker is searched.
    is_local: bool,
    deadline: Instant,
    times: DispatchTimes,
    idempotency_key: Option<IdempotencyKey>,
    content: ContentHash,
    /// The search at other brokers, once it has begun.
    remote: Option<Box<dyn RemoteSearch>>,
}

impl WaiterSearch<'_> {
    /// Finds a waiter. If there is none, waits for one, at most until `wait_until`. `now` is the time of the first claim, and
    /// becomes that of the last one.
    async fn find(&mut self, task: &OfferTask, now: &mut Instant) -> Found {
        let exchange = &self.shared.exchange;
        // The entry precedes the first claim, so that a waiter parked in between is not missed. It ends with the match, so that
        // the next run on the waitlist claims at once.
        let mut entry = self
            .wait_until
            .filter(|until| until > now)
            .map(|until| WaitingRun { entry: exchange.join_waitlist(&self.claim), until });
        loop {
            let reason = match exchange.claim(&self.claim, exchange.at(*now)) {
                Claim::Matched(removed) => return Found::Here(removed),
                Claim::Miss(reason) => reason,
            };
            let is_retryable = is_retryable(reason);
            if !self.is_local && (is_retryable || reason == MissReason::Draining) {
                let search = || self.shared.remote.get().map(|remote| remote.search(&self.claim));
                self.remote = self.remote.take().or_else(search);
            }
            if let Some(mut remote) = self.remote.take() {
                if entry.is_some() {
                    // This precedes the forward for the same reason.
                    remote.watch();
                }
                let forwarded = remote.forward(&self.to_forward(task));
                self.remote = Some(remote);
                if let Some(pending) = forwarded {
                    return Found::Elsewhere(pending);
                }
            }
            let Some(waiting) = entry.take().filter(|_| is_retryable) else {
                return Found::Nowhere(match &self.remote {
                    None => reason,
                    // A drain in a cluster goes on matching: the core does not say why nobody is left.
                    Some(_) if exchange.is_draining() => MissReason::Draining,
                    Some(remote) => remote.miss(reason),
                });
            };
            entry = waiting.wait(self.remote.as_deref_mut()).await;
            *now = Instant::now();
        }
    }

    fn to_forward<'a>(&'a self, task: &'a OfferTask) -> RemoteRun<'a> {
        RemoteRun {
            claim: self.claim,
            run: &task.run,
            policy: task.policy,
            names_controller: task.names_controller,
            since: task.record.since(),
            idempotency_key: self.idempotency_key,
            content: self.content,
            deadline: self.deadline,
            times: self.times,
        }
    }
}

/// Whether waiting for a controller could turn this miss into a hit.
fn is_retryable(reason: MissReason) -> bool {
    match reason {
        MissReason::NoPool
        | MissReason::WrongVersion
        | MissReason::WrongMachine
        | MissReason::AllTaken
        | MissReason::NotAMessage
        | MissReason::NoProof => true,
        MissReason::Draining
        | MissReason::Undelivered
        | MissReason::Unknown
        | MissReason::TooLargeToForward
        | MissReason::NoDeployment
        | MissReason::Overloaded
        | MissReason::NoReplyRoute => false,
    }
}

/// A run on the waitlist, and when it leaves it.
struct WaitingRun {
    entry: WaitlistEntry<Waiter>,
    until: Instant,
}

impl WaitingRun {
    /// Waits until a waiter is parked here, or announced by another broker. None if its time is over: the next claim is the last
    /// one.
    async fn wait(self, remote: Option<&mut (dyn RemoteSearch + 'static)>) -> Option<Self> {
        let announced = async {
            match remote {
                Some(remote) => remote.announced().await,
                None => std::future::pending().await,
            }
        };
        let came = async {
            tokio::select! {
                () = self.entry.notified() => {}
                () = announced => {}
            }
        };
        tokio::time::timeout_at(self.until.into(), came).await.is_ok().then_some(self)
    }
}

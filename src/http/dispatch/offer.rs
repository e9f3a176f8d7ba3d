//! Owns one offer of a run: brought to its end even if the supervisor leaves meanwhile.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::runtime::Handle;

use super::inferred_proxies::InferredProxies;
use super::record::RunLabels;
use super::{Hit, HttpState, Leader};
use crate::broker::RemovedWaiter;
use crate::journal;
use crate::logging::Throttle;
use crate::model::MissReason;
use crate::model::{DispatchOutcome, Verdict};
use crate::transport::{Delivery, DeliveryRequirements, Run, Waiter};

/// One offer with everything it needs, so that it can outlive its POST.
pub(super) struct OfferTask {
    pub(super) front: Arc<HttpState>,
    pub(super) run: Arc<Run>,
    pub(super) named: RunLabels,
    /// The POST's last byte.
    pub(super) since: Instant,
    pub(super) requirements: DeliveryRequirements,
    pub(super) offers: u32,
    /// Whether another waiter may get the run after one may have got it.
    pub(super) redeliver: bool,
    /// An earlier offer of the same run was sent and not proved.
    pub(super) is_again: bool,
    pub(super) first: Option<Leader>,
    /// The offers before this one.
    pub(super) before: Vec<journal::OfferRecord>,
}

/// How an attempt ended.
pub(super) struct OfferResult {
    /// All offers so far.
    pub(super) told: Vec<journal::OfferRecord>,
    pub(super) result: Result<Hit, Unproven>,
}

/// An offer that did not reach the proof.
pub(super) struct Unproven {
    pub(super) verdict: Verdict,
    /// The run may be with somebody, and must not go to anybody else. If it may, the next attempt is given `first`.
    pub(super) is_unknown: bool,
    pub(super) first: Option<Leader>,
}

impl OfferTask {
    async fn offer(mut self, taken: RemovedWaiter<Waiter>) -> OfferResult {
        let RemovedWaiter { waiter, controller, host: machine, .. } = taken;
        let address = waiter.origin();
        let matched = Instant::now();
        let delivery = waiter.offer(&self.run, self.requirements).await;
        let took = matched.elapsed();
        self.front.metrics.offered(delivery.verdict, took);
        if self.is_again && delivery.verdict != Verdict::Gone {
            self.front.metrics.redelivered();
        }
        if delivery.verdict == Verdict::Received {
            self.front.inferred_proxies.remove(address);
        }
        match delivery.verdict {
            Verdict::Received | Verdict::Hop | Verdict::Acked => self.front.exchange.trust(machine),
            Verdict::Unacked | Verdict::Lost => self.front.exchange.suspect(machine),
            Verdict::Written | Verdict::Gone | Verdict::Frozen | Verdict::Slow => {}
        }
        if delivery.by_budget || delivery.verdict == Verdict::Slow {
            self.say_that_time_was_short(delivery.verdict);
        }
        let mut told = std::mem::take(&mut self.before);
        told.push(journal::OfferRecord {
            controller: controller.clone(),
            verdict: delivery.verdict,
            since: matched.saturating_duration_since(self.since),
            took,
        });
        let proof = delivery.verdict.proof().filter(|&proof| proof >= self.requirements.proof);
        let result = if let Some(proof) = proof {
            let hit = Hit { proof, controller };
            if let Some(first) = self.first {
                first.complete((self.offers, Ok(hit.clone())));
            }
            Ok(hit)
        } else {
            Err(self.unproven(delivery, address))
        };
        OfferResult { told, result }
    }

    fn unproven(&mut self, delivery: Delivery, address: IpAddr) -> Unproven {
        let may_be_read = may_be_read(&self.front.inferred_proxies, address, delivery);
        let is_unknown = !delivery.nothing_sent && (!self.redeliver || may_be_read);
        let mut first = self.first.take();
        // Nobody else is to get it: that is the answer to whoever posts it again, too.
        if is_unknown && let Some(first) = first.take() {
            first.complete((self.offers, Err(MissReason::Unknown)));
        }
        Unproven { verdict: delivery.verdict, is_unknown, first }
    }

    /// The budget ended the offer, not what the controller did: whoever wonders about such a miss can set it.
    fn say_that_time_was_short(&self, verdict: Verdict) {
        static LINES: Throttle = Throttle::new();
        if LINES.is_open() {
            tracing::warn!(
                run = self.named.names.get(0),
                verdict = verdict.text(),
                bytes = self.run.payload.len(),
                "the run did not reach its controller within the POST's budget; for large runs or slow links raise --dispatch-budget"
            );
        }
    }

    /// The offer, which ends even if nobody waits for it: then it gets a task of its own, and tells the journal itself.
    pub(super) fn detach_on_drop(self, taken: RemovedWaiter<Waiter>) -> DetachOnDrop {
        let (front, named, since) = (self.front.clone(), self.named.clone(), self.since);
        DetachOnDrop { offer: Some(Box::pin(self.offer(taken))), front, named, since }
    }
}

/// Whether a run whose connection was reset may be with its controller nevertheless, because a proxy in between ends so.
fn may_be_read(inferred: &InferredProxies, address: IpAddr, delivery: Delivery) -> bool {
    static LINES: Throttle = Throttle::new();
    let now = Instant::now();
    if delivery.verdict != Verdict::Lost {
        return false;
    }
    if !delivery.acked {
        // The reset of a proxy can be quicker than the acknowledgement.
        return inferred.contains(address, now);
    }
    if inferred.add(address, now) && LINES.is_open() {
        tracing::warn!(
            %address,
            "a run was acknowledged whole, and its connection reset: its controller was killed, or a proxy that does not say so \
             stands in between. Such runs are answered `unknown` and go to nobody else. If it is a proxy, name it in --behind-proxy, \
             or let it add X-Forwarded-For (haproxy: option forwardfor)"
        );
    }
    true
}

/// An offer that is brought to its end.
pub(super) struct DetachOnDrop {
    offer: Option<Pin<Box<dyn Future<Output = OfferResult> + Send>>>,
    front: Arc<HttpState>,
    named: RunLabels,
    since: Instant,
}

impl Future for DetachOnDrop {
    type Output = OfferResult;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<OfferResult> {
        let Some(offer) = &mut self.offer else { return Poll::Pending };
        let ended = ready!(offer.as_mut().poll(cx));
        self.offer = None;
        Poll::Ready(ended)
    }
}

impl Drop for DetachOnDrop {
    fn drop(&mut self) {
        let (Some(offer), Ok(runtime)) = (self.offer.take(), Handle::try_current()) else { return };
        let (front, named, since) = (self.front.clone(), self.named.clone(), self.since);
        // It ends within its POST's budget; the runtime owns it until then.
        runtime.spawn(Detached::new(front, named, since).finish(offer));
    }
}

/// The account of an offer that goes on without its POST: it counts as one that is under way, so that the end waits for it,
/// and is told to the journal even if the end did not wait so long.
struct Detached {
    front: Arc<HttpState>,
    named: RunLabels,
    since: Instant,
    ended: Option<OfferResult>,
}

impl Detached {
    fn new(front: Arc<HttpState>, named: RunLabels, since: Instant) -> Self {
        front.admission.post_came();
        Self { front, named, since, ended: None }
    }

    async fn finish(mut self, offer: impl Future<Output = OfferResult> + Send) {
        self.ended = Some(offer.await);
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        let (proof, told) = match self.ended.take() {
            Some(OfferResult { told, result }) => (result.ok().map(|hit| hit.proof), told),
            None => (None, Vec::new()),
        };
        self.front.journal.record(self.named.ended(self.since, DispatchOutcome::Aborted, proof, told));
        // Only now, as the journal is closed when nothing is under way.
        self.front.admission.post_left();
    }
}

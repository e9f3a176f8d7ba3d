//! Owns one offer of a run to one waiter, which is completed even if the supervisor leaves meanwhile.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::runtime::Handle;

use super::inferred_proxies::InferredProxies;
use super::policy::{DeliveryPolicy, OfferEnd, Step};
use super::record::Record;
use super::remote::{ForwardEnd, ForwardResult, ForwardedRun, PendingForward};
use super::request::{Hit, NamedController};
use super::shared::Leader;
use crate::broker::{HostId, RemovedWaiter};
use crate::journal::OfferRecord;
use crate::logging::Throttle;
use crate::model::{MissReason, Proof, Verdict};
use crate::reply::Reply;
use crate::transport::{Delivery, DeliveryRequirements, PendingProof, Run, Waiter};

/// Another broker did not answer, so that one of its waiters may have the run.
const SILENT: OfferEnd =
    OfferEnd { verdict: Verdict::Silent, nothing_sent: false, may_have_been_relayed: false };

/// A run that is being offered, with all that an offer needs to outlive its POST.
pub(super) struct OfferTask {
    pub(super) run: Run,
    pub(super) requirements: DeliveryRequirements,
    pub(super) policy: DeliveryPolicy,
    /// Whether the answer names the controller that got the run.
    pub(super) names_controller: bool,
    /// How many waiters have been offered the run.
    pub(super) offers: u32,
    /// Held until other POSTs of this run may be answered.
    pub(super) leader: Option<Leader>,
    pub(super) record: Box<Record>,
    /// The reply that the POST awaits.
    pub(super) reply: Option<Arc<Reply>>,
}

/// The waiter of an offer, and the time of its match.
struct Offered {
    controller: Box<str>,
    /// What the controller says to whoever claims it, if the answer names the controller.
    metadata: Option<Box<str>>,
    host: HostId,
    address: IpAddr,
    /// Whether the end of its connection is what proves the delivery.
    ends_with_run: bool,
    matched: Instant,
}

/// An offer whose proof takes time.
pub(super) struct PendingOffer {
    offered: Offered,
    proof: PendingProof,
}

/// What follows an offer, the controller that was offered the run if the answer names it, and when the offer ended.
pub(super) struct OfferResult {
    pub(super) step: Step,
    pub(super) controller: Option<NamedController>,
    pub(super) ended: Instant,
}

impl OfferTask {
    /// If a reply is awaited, the next offer gets a token of its own, and no earlier one is worth anything any more. An error if an
    /// earlier offer must be the last one.
    pub(super) fn name_reply(&mut self) -> Result<(), MissReason> {
        match (&self.reply, &self.run.reply) {
            // The token of a forwarded run is another broker's, and good for one offer.
            (None, Some(_)) if self.offers > 0 && self.policy.is_redelivering() => {
                Err(self.policy.unproven_reason())
            }
            (None, _) => Ok(()),
            (Some(reply), _) => {
                self.run.reply = reply.begin_offer(&self.run.id);
                // The caller has left.
                if self.run.reply.is_some() { Ok(()) } else { Err(self.policy.unproven_reason()) }
            }
        }
    }

    /// Why the run misses, if this is why no waiter was found.
    pub(super) fn miss(&self, reason: MissReason) -> MissReason {
        if self.offers > 0 {
            return self.policy.unproven_reason();
        }
        // Whoever waits there cannot reply.
        let cannot_reply = self.reply.is_some() && reason == MissReason::NotAMessage;
        if cannot_reply { MissReason::NoProof } else { reason }
    }

    /// Whether the worker of an offer that was not proved has opened its reply, and so has the run. If not, it cannot any more.
    fn is_replied_to(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| !reply.withdraw())
    }

    /// Offers the run to this waiter. `Break` if the offer has ended; `Continue` if its proof takes time.
    pub(super) fn offer(
        &mut self,
        removed: RemovedWaiter<Waiter>,
        matched: Instant,
    ) -> ControlFlow<OfferResult, PendingOffer> {
        self.offers += 1;
        let RemovedWaiter { waiter, controller, host, .. } = removed;
        let (address, ends_with_run) = (waiter.origin(), waiter.ends_with_run());
        let metadata = waiter.metadata().filter(|_| self.names_controller).map(Box::from);
        let offered = Offered { controller, metadata, host, address, ends_with_run, matched };
        match waiter.offer(&self.run, self.requirements) {
            ControlFlow::Break(delivery) => ControlFlow::Break(self.end(offered, delivery)),
            ControlFlow::Continue(proof) => ControlFlow::Continue(PendingOffer { offered, proof }),
        }
    }

    /// Completes an offer whose proof takes time. If the returned future is dropped early, the offer is completed in a task of
    /// its own.
    pub(super) fn prove(mut self, PendingOffer { offered, proof }: PendingOffer) -> DetachOnDrop {
        DetachOnDrop(Some(Box::pin(async move {
            let delivery = proof.prove().await;
            let result = self.end(offered, delivery);
            (self, result)
        })))
    }

    /// Completes a forward to another broker. If the returned future is dropped early, it is completed in a task of its own.
    pub(super) fn forward(mut self, pending: PendingForward) -> DetachOnDrop {
        DetachOnDrop(Some(Box::pin(async move {
            let end = pending.await;
            let result = self.end_forward(end);
            (self, result)
        })))
    }

    /// Accounts for a forward that has ended. The other broker has counted its offers.
    fn end_forward(&mut self, ForwardEnd { offers, result }: ForwardEnd) -> OfferResult {
        let ended = Instant::now();
        let (step, controller) = match result {
            ForwardResult::Delivered(hit) => (Step::Delivered(hit.proof), hit.controller),
            ForwardResult::Miss { unproven } => (self.policy.after_miss(unproven), None),
            ForwardResult::Unknown => (Step::GiveUp(MissReason::Unknown), None),
            ForwardResult::Silent => (self.policy.after(SILENT), None),
        };
        let is_delivered = matches!(step, Step::Delivered(_));
        // The other broker has answered like an earlier POST.
        if is_delivered
            && offers.is_empty()
            && let Some(reply) = &self.reply
        {
            reply.set_unoffered();
        }
        let step =
            if !is_delivered && self.is_replied_to() { Step::Delivered(Proof::Received) } else { step };
        self.offers += u32::try_from(offers.len()).unwrap_or(u32::MAX);
        for offer in offers {
            self.record.add_offer(offer, step);
        }
        self.cache(step, controller.as_ref(), ended);
        OfferResult { step, controller, ended }
    }

    /// Waits for the payload of a forwarded run, now that a waiter is claimed. An error if it does not come.
    pub(super) async fn receive_payload(&mut self, forwarded: ForwardedRun) -> Result<(), MissReason> {
        let ForwardedRun { claimed, payload, .. } = forwarded;
        // An error means that nobody waits for it.
        let _ = claimed.send(());
        let Some((payload, within)) = payload else { return Ok(()) };
        match tokio::time::timeout(within, payload).await {
            Ok(Ok(payload)) => {
                self.run.payload = payload;
                Ok(())
            }
            Ok(Err(_)) | Err(_) => Err(MissReason::Undelivered),
        }
    }

    /// Accounts for a waiter to which nothing was sent, because the payload did not come. Its connection is closed.
    pub(super) fn end_without_payload(&mut self, removed: RemovedWaiter<Waiter>, matched: Instant) {
        let took = matched.elapsed();
        let since = matched.saturating_duration_since(self.record.since());
        self.record.shared().metrics.offered(Verdict::Gone, took);
        self.offers += 1;
        let offer =
            OfferRecord { controller: removed.controller, broker: None, verdict: Verdict::Gone, since, took };
        self.record.add_offer(offer, Step::OfferAgain);
    }

    /// Accounts for an offer that has ended.
    fn end(&mut self, offered: Offered, mut delivery: Delivery) -> OfferResult {
        let Offered { controller, metadata, host, address, ends_with_run, matched } = offered;
        let ended = Instant::now();
        let took = ended.saturating_duration_since(matched);
        let is_proved = delivery.verdict.proof().is_some_and(|proof| proof >= self.policy.proof());
        if !is_proved && self.is_replied_to() {
            delivery.verdict = Verdict::Received;
        }
        let shared = self.record.shared();
        let verdict = delivery.verdict;
        shared.metrics.offered(verdict, took);
        if self.policy.is_redelivering() && verdict.is_attempt() {
            shared.metrics.redelivered();
        }
        if verdict == Verdict::Received && ends_with_run {
            shared.inferred_proxies.remove(address);
        }
        match verdict {
            Verdict::Received | Verdict::Hop | Verdict::Acked => shared.exchange.trust(host),
            Verdict::Unacked | Verdict::Lost => shared.exchange.suspect(host),
            Verdict::Written
            | Verdict::Gone
            | Verdict::Frozen
            | Verdict::Slow
            | Verdict::Stale
            | Verdict::Silent
            | Verdict::Busy => {}
        }
        let may_have_been_relayed =
            ends_with_run && may_have_been_relayed(&shared.inferred_proxies, address, delivery);
        if delivery.by_budget || verdict == Verdict::Slow {
            self.warn_of_short_budget(verdict);
        }
        let since = matched.saturating_duration_since(self.record.since());
        let step = self.policy.after(OfferEnd {
            verdict,
            nothing_sent: delivery.nothing_sent,
            may_have_been_relayed,
        });
        let named = self.names_controller.then(|| NamedController::new(&controller, metadata.as_deref()));
        self.record.add_offer(OfferRecord { controller, broker: None, verdict, since, took }, step);
        self.cache(step, named.as_ref(), ended);
        OfferResult { step, controller: named, ended }
    }

    /// A run that a waiter has, or may have, is not offered again: its later POSTs get the same outcome.
    fn cache(&mut self, step: Step, controller: Option<&NamedController>, now: Instant) {
        let result = match step {
            Step::Delivered(proof) => Ok(Hit { proof, controller: controller.cloned() }),
            Step::GiveUp(MissReason::Unknown) => Err(MissReason::Unknown),
            Step::OfferAgain | Step::GiveUp(_) => return,
        };
        if let Some(leader) = self.leader.take() {
            leader.complete((self.offers, result), now);
        }
    }

    /// A run that no waiter can be offered any more, but that one may have, is not offered again either.
    pub(super) fn cache_unknown(&mut self, result: &Result<Hit, MissReason>, now: Instant) {
        if let Err(MissReason::Unknown) = result {
            self.cache(Step::GiveUp(MissReason::Unknown), None, now);
        }
    }

    /// Logs that the POST's budget ended the offer, not the controller: an operator can raise the budget.
    fn warn_of_short_budget(&self, verdict: Verdict) {
        static LINES: Throttle = Throttle::new();
        if LINES.is_open() {
            tracing::warn!(
                run = self.record.run_name(),
                verdict = verdict.text(),
                bytes = self.run.payload.len(),
                "the run did not reach its controller within the POST's budget; for large runs or slow links raise --dispatch-budget"
            );
        }
    }
}

/// Whether a run whose connection was reset may still have reached its controller, because a proxy in between ends its
/// connections with a reset.
fn may_have_been_relayed(inferred: &InferredProxies, address: IpAddr, delivery: Delivery) -> bool {
    static LINES: Throttle = Throttle::new();
    if delivery.verdict != Verdict::Lost || delivery.nothing_sent {
        return false;
    }
    let now = Instant::now();
    if !delivery.acked {
        // The reset of a proxy can be quicker than the acknowledgement.
        return inferred.contains(address, now);
    }
    if inferred.add(address, now) && LINES.is_open() {
        tracing::warn!(
            %address,
            "every byte of a run was acknowledged, and then its connection was reset: its controller was killed, or a proxy without \
             proxy headers is in between. Such runs are answered `unknown` and not offered again. If it is a proxy, name it in \
             --behind-proxy, or let it add X-Forwarded-For (haproxy: option forwardfor)"
        );
    }
    true
}

/// An offer in progress. If it is dropped before its end, because the POST's client has left, it continues in a task of its
/// own.
pub(super) struct DetachOnDrop(Option<Pin<Box<dyn Future<Output = ProvedOffer> + Send>>>);

/// The task after an offer, and what follows the offer.
type ProvedOffer = (OfferTask, OfferResult);

impl Future for DetachOnDrop {
    type Output = ProvedOffer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(offer) = &mut self.0 else { return Poll::Pending };
        let result = ready!(offer.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(result)
    }
}

impl Drop for DetachOnDrop {
    fn drop(&mut self) {
        let (Some(offer), Ok(runtime)) = (self.0.take(), Handle::try_current()) else { return };
        // It ends within its POST's budget, and its record, which is dropped with it, counts as in flight until then.
        runtime.spawn(async { drop(offer.await) });
    }
}

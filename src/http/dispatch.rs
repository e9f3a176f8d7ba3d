//! Owns one run's way to a waiter, the same for both dialects: match, offer, and again while that is safe.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::Front;
use crate::broker::{Ask, KeyRef, Miss, Offer, Taken};
use crate::exchange::{First, Hope};
use crate::metrics::{DispatchOutcome, Proof, Verdict};
use crate::transport::{Delivery, Demand, Run, Waiter};

/// So many offers may follow the first that was sent and not proved.
const REDELIVERIES: u32 = 2;

/// An acknowledgement may usually take so long.
const USUAL_ACK: Duration = Duration::from_millis(250);
/// The last look after a wait comes a little late.
const LAST_LOOK: Duration = Duration::from_millis(20);

/// A valid run and what its supervisor allows.
pub(super) struct Order<'a> {
    pub(super) key: KeyRef<'a>,
    /// Whether the payload is a run message of Trigger.dev.
    pub(super) is_message: bool,
    pub(super) run: Arc<Run>,
    /// What makes an offer a delivery.
    pub(super) proof: Proof,
    /// Whether another waiter may get the run after one may have got it.
    pub(super) redeliver: bool,
    /// To remember the delivery by, if the run has a name of its own.
    pub(super) first: Option<First<Delivered>>,
    /// How long to wait for a controller to come.
    pub(super) wait: Duration,
    /// The POST is answered by then.
    pub(super) until: Instant,
}

/// How an order ended.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) offers: u32,
    pub(super) result: Result<Hit, Miss>,
}

/// What is remembered of a delivered run, and answered when it is posted again.
pub(super) type Delivered = (u32, Hit);

/// A delivery.
#[derive(Debug, Clone)]
pub(super) struct Hit {
    pub(super) proof: Proof,
    pub(super) controller: Box<str>,
}

/// Delivers a run before the order's time is over.
///
/// A supervisor that leaves before the match claims nobody; after it, the offer under way is finished.
pub(super) async fn dispatch(front: &Arc<Front>, mut order: Order<'_>) -> Outcome {
    let until = order.until;
    // An offer that could not be proved any more would take a waiter and a run for nothing.
    let last_offer = until.checked_sub(reserve(front, order.proof)).unwrap_or(until);
    // The hope stands before the first look: whoever parks in between is not missed.
    let mut hope = (!order.wait.is_zero()).then(|| front.exchange.hope(order.key));
    let wait_until = (Instant::now() + order.wait.min(front.terms.dispatch_budget)).min(last_offer);
    let ask = Ask { key: order.key, is_message: order.is_message };
    let demand = Demand { proof: order.proof, fin: front.terms.proof_timeout, until };
    let (mut offers, mut unproven) = (0, 0);
    let mut last_miss = Miss::Undelivered;
    loop {
        if Instant::now() > last_offer + LAST_LOOK {
            return Outcome { offers, result: Err(last_miss) };
        }
        let taken = match front.exchange.offer(&ask) {
            Offer::Matched(taken) => taken,
            Offer::Cold(miss) => {
                if offers == 0 {
                    last_miss = miss;
                }
                if !may_pass(miss) || hope.is_none() {
                    return Outcome { offers, result: Err(last_miss) };
                }
                wait_for_one(&mut hope, wait_until).await;
                continue;
            }
        };
        offers += 1;
        last_miss = Miss::Undelivered;
        let (run, first) = (order.run.clone(), order.first.take());
        let attempt = Attempt { front: front.clone(), run, demand, offers, is_again: unproven > 0, first };
        let delivery = match Finished::new(attempt.offer(taken)).await {
            Ok(hit) => return Outcome { offers, result: Ok(hit) },
            Err((delivery, first)) => {
                order.first = first;
                delivery
            }
        };
        if !delivery.untouched && !order.redeliver {
            return Outcome { offers, result: Err(Miss::Unknown) };
        }
        unproven += u32::from(delivery.verdict != Verdict::Gone);
        if unproven > REDELIVERIES {
            return Outcome { offers, result: Err(Miss::Undelivered) };
        }
    }
}

/// What must be left of the budget for an offer: time for its proof, but never more than half of the whole.
fn reserve(front: &Front, proof: Proof) -> Duration {
    let needed = match proof {
        Proof::Written => Duration::ZERO,
        Proof::Acked => USUAL_ACK,
        Proof::Received | Proof::Hop => USUAL_ACK + front.terms.proof_timeout,
    };
    needed.min(front.terms.dispatch_budget / 2)
}

/// One offer with everything it needs, so that it can outlive its POST.
struct Attempt {
    front: Arc<Front>,
    run: Arc<Run>,
    demand: Demand,
    offers: u32,
    /// An earlier offer of the same run was sent and not proved.
    is_again: bool,
    first: Option<First<Delivered>>,
}

/// What a failed attempt gives back for the next one.
type Failed = (Delivery, Option<First<Delivered>>);

impl Attempt {
    async fn offer(self, taken: Taken<Waiter>) -> Result<Hit, Failed> {
        let Taken { waiter, controller, machine, .. } = taken;
        let matched = Instant::now();
        let delivery = waiter.offer(&self.run, self.demand).await;
        self.front.metrics.offered(delivery.verdict, matched.elapsed());
        if self.is_again && delivery.verdict != Verdict::Gone {
            self.front.metrics.redelivered();
        }
        match delivery.verdict {
            Verdict::Received | Verdict::Hop | Verdict::Acked => self.front.exchange.trust(machine),
            Verdict::Unacked | Verdict::Lost => self.front.exchange.suspect(machine),
            Verdict::Written | Verdict::Gone | Verdict::Frozen => {}
        }
        match delivery.verdict.proof().filter(|&proof| proof >= self.demand.proof) {
            Some(proof) => {
                let hit = Hit { proof, controller };
                if let Some(first) = self.first {
                    first.delivered((self.offers, hit.clone()));
                }
                Ok(hit)
            }
            None => Err((delivery, self.first)),
        }
    }
}

/// A future that is brought to its end even if the one who waits for it leaves: then it gets a task of its own.
struct Finished<F: Future<Output: Send> + Send + 'static>(Option<Pin<Box<F>>>);

impl<F: Future<Output: Send> + Send + 'static> Finished<F> {
    fn new(future: F) -> Self {
        Self(Some(Box::pin(future)))
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for Finished<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = &mut self.0 else { return Poll::Pending };
        let done = ready!(future.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(done)
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Finished<F> {
    fn drop(&mut self) {
        if let (Some(future), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            // It ends within its POST's budget; the runtime owns it until then.
            runtime.spawn(future);
        }
    }
}

/// Whether waiting for a controller could turn this miss into a hit.
fn may_pass(miss: Miss) -> bool {
    match miss {
        Miss::NoPool | Miss::WrongVersion | Miss::WrongMachine | Miss::AllTaken | Miss::NotAMessage => true,
        Miss::Draining | Miss::Undelivered | Miss::Unknown | Miss::NoDeployment | Miss::Overloaded => false,
    }
}

/// Waits until somebody came. When the time is over, the hope is given up, and one last look is due.
async fn wait_for_one(hope: &mut Option<Hope<Waiter>>, until: Instant) {
    if let Some(waiting) = hope
        && tokio::time::timeout_at(until.into(), waiting.somebody_came()).await.is_err()
    {
        *hope = None;
    }
}

/// Counts one POST, whichever way it ends; dropped without a word, its client left.
pub(super) struct Count<'a> {
    front: &'a Front,
    since: Instant,
    outcome: DispatchOutcome,
}

impl<'a> Count<'a> {
    pub(super) fn new(front: &'a Front) -> Self {
        front.posts.fetch_add(1, Ordering::Relaxed);
        Self { front, since: Instant::now(), outcome: DispatchOutcome::Aborted }
    }

    /// The body is there: the time to the answer counts from here. Returns the moment.
    pub(super) fn body_read(&mut self) -> Instant {
        self.since = Instant::now();
        self.since
    }

    pub(super) fn refused(&mut self) {
        self.outcome = DispatchOutcome::Refused;
    }

    pub(super) fn done(&mut self, result: &Result<Hit, Miss>) {
        self.outcome = match result {
            Ok(_) => DispatchOutcome::Hit,
            Err(miss) => DispatchOutcome::Miss(*miss),
        };
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.front.posts.fetch_sub(1, Ordering::Relaxed);
        self.front.metrics.dispatched(self.outcome, self.since.elapsed());
    }
}

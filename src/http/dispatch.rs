//! Owns one run's way to a waiter, the same for both dialects: match, offer, and again while that is safe.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::Front;
use crate::broker::{Ask, KeyRef, Miss, Offer, Taken};
use crate::exchange::Hope;
use crate::metrics::{DispatchOutcome, Proof, Verdict};
use crate::transport::{Run, Waiter};

/// One offer may take so long to write.
const OFFER_TIME: Duration = Duration::from_secs(1);
/// So many offers may follow one that broke after bytes of it were sent.
const REDELIVERIES: u32 = 2;

/// A valid run and what its supervisor allows.
pub(super) struct Order<'a> {
    pub(super) key: KeyRef<'a>,
    /// Whether the payload is a run message of Trigger.dev.
    pub(super) is_message: bool,
    pub(super) run: Arc<Run>,
    /// Whether another waiter may get the run after one may have got it.
    pub(super) redeliver: bool,
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

/// A delivery.
#[derive(Debug, Clone)]
pub(super) struct Hit {
    pub(super) proof: Proof,
    pub(super) controller: Box<str>,
}

/// Delivers a run before the order's time is over.
///
/// A supervisor that leaves before the match claims nobody; after it, the offer under way is finished.
pub(super) async fn dispatch(front: &Arc<Front>, order: &Order<'_>) -> Outcome {
    let until = order.until;
    let wait_until = (Instant::now() + order.wait).min(until);
    // The hope stands before the first look: whoever parks in between is not missed.
    let hope = (!order.wait.is_zero()).then(|| front.exchange.hope(order.key));
    let ask = Ask { key: order.key, is_message: order.is_message };
    let mut offers = 0;
    let mut lost = 0;
    loop {
        let taken = match front.exchange.offer(&ask) {
            Offer::Matched(taken) => taken,
            Offer::Cold(miss) if may_pass(miss) && wait_for_one(hope.as_ref(), wait_until).await => continue,
            Offer::Cold(miss) => {
                let miss = if offers == 0 { miss } else { Miss::Undelivered };
                return Outcome { offers, result: Err(miss) };
            }
        };
        offers += 1;
        let Taken { waiter, controller, .. } = taken;
        match finish(Box::pin(offer(front.clone(), waiter, order.run.clone(), until))).await {
            Ok(proof) => {
                return Outcome { offers, result: Ok(Hit { proof, controller }) };
            }
            Err(Verdict::Gone) => {}
            Err(_) => lost += 1,
        }
        let may_go_on = lost == 0 || (order.redeliver && lost <= REDELIVERIES);
        if !may_go_on || Instant::now() >= until {
            return Outcome { offers, result: Err(Miss::Undelivered) };
        }
        if lost > 0 {
            front.metrics.redelivered();
        }
    }
}

async fn offer(front: Arc<Front>, waiter: Waiter, run: Arc<Run>, until: Instant) -> Result<Proof, Verdict> {
    let matched = Instant::now();
    let verdict = waiter.offer(&run, until.min(matched + OFFER_TIME)).await;
    front.metrics.offered(verdict, matched.elapsed());
    verdict.proof().ok_or(verdict)
}

/// Brings an offer to its end even if the supervisor leaves meanwhile.
///
/// Nearly every offer ends within its first poll; only one that must wait gets a task of its own.
async fn finish(
    mut offer: Pin<Box<impl Future<Output = Result<Proof, Verdict>> + Send + 'static>>,
) -> Result<Proof, Verdict> {
    let first = poll_fn(|cx| Poll::Ready(offer.as_mut().poll(cx))).await;
    match first {
        Poll::Ready(verdict) => verdict,
        Poll::Pending => {
            #[expect(
                clippy::disallowed_methods,
                reason = "it ends within the budget, and its verdict is awaited"
            )]
            let rest = tokio::spawn(offer);
            rest.await.unwrap_or(Err(Verdict::Lost))
        }
    }
}

/// Whether waiting for a controller could turn this miss into a hit.
fn may_pass(miss: Miss) -> bool {
    match miss {
        Miss::NoPool | Miss::WrongVersion | Miss::WrongMachine | Miss::AllTaken | Miss::NotAMessage => true,
        Miss::Draining | Miss::Undelivered | Miss::NoDeployment | Miss::Overloaded => false,
    }
}

/// Waits until somebody came; false if nobody did in time.
async fn wait_for_one(hope: Option<&Hope<Waiter>>, until: Instant) -> bool {
    match hope {
        Some(hope) => tokio::time::timeout_at(until.into(), hope.somebody_came()).await.is_ok(),
        None => false,
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

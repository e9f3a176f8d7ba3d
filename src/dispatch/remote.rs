//! Owns the interface between a dispatch and the other brokers of a cluster, which implements it: their waiters for runs of this
//! broker, and runs that they forward. Without a cluster there are none.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::policy::DeliveryPolicy;
use super::request::{DispatchTimes, Hit, IdempotencyKey, Outcome, RunNameConflict};
use crate::broker::{ClaimRequest, KeyRef};
use crate::exchange::ContentHash;
use crate::journal::OfferRecord;
use crate::model::MissReason;
use crate::transport::Run;

/// The waiters of other brokers.
pub trait RemotePools: Send + Sync {
    /// Begins the search for a waiter for one run.
    fn search(&self, request: &ClaimRequest<'_>) -> Box<dyn RemoteSearch>;

    /// The key by which all brokers remember this run.
    fn idempotency_key(&self, run: &str, snapshot: &str, key: KeyRef<'_>) -> IdempotencyKey;

    /// A hash of the payload that is the same on all brokers.
    fn content_hash(&self, payload: &[u8]) -> ContentHash;

    /// A waiter of this broker was claimed for a run whose name counts at all brokers.
    fn claimed(&self, run: IdempotencyKey);

    /// How an earlier POST of a run ended for which another broker has claimed a waiter; none if there is none. It ends before the
    /// deadline.
    fn earlier(&self, run: &EarlierRun) -> Option<EarlierOutcome>;
}

/// A named run that may have been posted before.
#[derive(Debug, Clone, Copy)]
pub struct EarlierRun {
    /// By what it is remembered.
    pub key: IdempotencyKey,
    /// A hash of the payload that is posted now.
    pub content: ContentHash,
    /// Runs are remembered for this long.
    pub remember_for: Duration,
    /// The outcome is waited for until then.
    pub deadline: Instant,
}

/// The outcome of an earlier POST at another broker, once it is known; none if it has delivered the run to nobody.
pub type EarlierOutcome = Pin<Box<dyn Future<Output = Option<Result<Outcome, RunNameConflict>>> + Send>>;

/// The search for a waiter of another broker, for one run.
pub trait RemoteSearch: Send {
    /// Forwards the run to a broker that has not had it yet. None if no other broker is known to have a waiter.
    fn forward(&mut self, run: &RemoteRun<'_>) -> Option<PendingForward>;

    /// Why the run found no waiter anywhere, if this is why it found none here.
    fn miss(&self, local: MissReason) -> MissReason;

    /// From now on no announcement of a waiter is missed by [`Self::announced`].
    fn watch(&mut self);

    /// Returns when another broker may have a waiter for the run.
    fn announced(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// A forward in progress. It ends before the run's deadline.
pub type PendingForward = Pin<Box<dyn Future<Output = ForwardEnd> + Send>>;

/// A run that may be forwarded.
pub struct RemoteRun<'a> {
    /// What the run needs from a waiter.
    pub claim: ClaimRequest<'a>,
    /// The run.
    pub run: &'a Run,
    /// The rules for its offers, and their results so far.
    pub policy: DeliveryPolicy,
    /// By what the run is remembered.
    pub idempotency_key: Option<IdempotencyKey>,
    /// A hash of the payload.
    pub content: ContentHash,
    /// Whether the answer names the controller.
    pub names_controller: bool,
    /// When the POST's last byte arrived.
    pub since: Instant,
    /// The POST is answered by then.
    pub deadline: Instant,
    /// The times that are set for all dispatches.
    pub times: DispatchTimes,
}

/// How a forward ended.
pub struct ForwardEnd {
    /// The offers that the other broker made, or one that says why it made none.
    pub offers: Vec<OfferRecord>,
    /// What follows from it.
    pub result: ForwardResult,
}

/// What a forward has led to.
pub enum ForwardResult {
    /// A waiter of the other broker has the run.
    Delivered(Hit),
    /// No waiter of that broker can have the run. So many offers of the whole POST were sent and not proved.
    Miss {
        /// Offers of the whole POST that were sent and not proved.
        unproven: u32,
    },
    /// A waiter of that broker may have the run, which must not be offered again.
    Unknown,
    /// The broker did not answer: one of its waiters may have the run.
    Silent,
}

/// What only a forwarded run has.
pub struct ForwardedRun {
    /// The broker that sent it gives up if no waiter is claimed by then. An earlier POST of the run is not waited for any longer.
    pub claim_by: Instant,
    /// Offers of the POST that were sent and not proved before it was forwarded.
    pub unproven: u32,
    /// Told when the first waiter is claimed.
    pub claimed: oneshot::Sender<()>,
    /// The payload, if it comes only then, and how long to wait for it.
    pub payload: Option<(oneshot::Receiver<Bytes>, Duration)>,
}

/// Where the waiters of other brokers are set, once, before the first dispatch.
pub(super) type RemoteSlot = OnceLock<Arc<dyn RemotePools>>;

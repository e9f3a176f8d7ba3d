//! Owns what requests are served with: the pools, the dispatcher, the limits, and what is measured and recorded.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use ipnet::IpNet;
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;

use super::admission::Admission;
use super::h1::{FieldName, RequestHead};
use super::peers::PeerClient;
use super::problem::Problem;
use super::shared_names::SharedNameDetector;
use crate::auth::{Authorizer, TokenError};
use crate::cluster::{self, Cluster, ClusterConfig};
use crate::config::{FunctionTable, MessageCheck};
use crate::dispatch::{DispatchTimes, Dispatcher};
use crate::journal::{Journal, TraceParent};
use crate::metrics::Metrics;
use crate::model::Proof;
use crate::reply::Replies;
use crate::transport::{Exchange, IdleConnections, Sessions};

/// What requests are served with.
pub struct HttpState {
    /// The pools.
    pub exchange: Arc<Exchange>,
    /// The controllers that wait with several slots on one connection.
    pub sessions: Arc<Sessions>,
    /// The replies that callers wait for.
    pub replies: Arc<Replies>,
    /// Counts everything.
    pub metrics: Arc<Metrics>,
    /// Records what happens.
    pub journal: Arc<Journal>,
    /// Replaced as a whole when the settings are reloaded.
    limits: ArcSwap<RequestLimits>,
    /// Whether POSTs have a listener of their own.
    pub(super) separate_dispatch: bool,
    /// Dispatches runs.
    pub dispatcher: Dispatcher,
    /// The other brokers, if this one is in a cluster.
    pub cluster: Option<Arc<Cluster>>,
    /// Sends receipts to the brokers that they are for.
    pub(super) peers: PeerClient,
    pub(super) shared_names: SharedNameDetector,
    /// Decides which requests are refused because of load.
    pub admission: Admission,
    /// The connections that are idle between two requests.
    pub idle: Arc<IdleConnections>,
}

/// The limits, times and rules for requests.
#[derive(Debug)]
pub struct RequestLimits {
    /// Advertised to controllers; a poll is held for this long at most.
    pub connection_timeout: Duration,
    /// Advertised to controllers; zero turns warm starts off.
    pub keepalive: Duration,
    /// The origin to which a drain sends stock controllers; None for the one that they polled.
    pub redirect_to: Option<String>,
    /// Every POST is answered within this time, counted from its last byte.
    pub dispatch_budget: Duration,
    /// The largest accepted body, in bytes.
    pub body_limit: usize,
    /// The largest accepted event of a function that is called through the Invoke API, in bytes.
    pub event_limit: usize,
    /// The proof that makes an offer a delivery.
    pub proof: Proof,
    /// How long an acknowledged run may stay unread.
    pub proof_timeout: Duration,
    /// Trusted proxies: the addresses that they forward are believed, and what they acknowledge is not proof of receipt.
    pub proxies: Vec<IpNet>,
    /// Whether these proxies begin each connection with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// A run posted again within this time is answered like the first time; zero makes every POST a run of its own.
    pub remember_runs: Duration,
    /// How strictly a Trigger.dev message is checked.
    pub message_check: MessageCheck,
    /// The longest time until a reply's first byte that a POST may ask for.
    pub max_reply_wait: Duration,
    /// How long a reply may make no progress after its first byte.
    pub reply_idle: Duration,
    /// Which pool each function is that is called through the Invoke API.
    pub functions: FunctionTable,
    /// The most POSTs in flight.
    pub max_posts: usize,
    /// The most POSTs per second, if that is limited.
    pub max_post_rate: Option<u32>,
    /// Whether `/livez` is served on the public listeners, too.
    pub public_livez: bool,
    /// Decides who may poll, dispatch and operate.
    pub access: Authorizer,
}

impl RequestLimits {
    pub(super) fn dispatch_times(&self) -> DispatchTimes {
        let Self {
            dispatch_budget: budget, proof_timeout: read_timeout, remember_runs: remember_for, ..
        } = *self;
        DispatchTimes { budget, read_timeout, remember_for }
    }
}

impl HttpState {
    /// A state without waiters. With `separate_dispatch`, POSTs have a listener of their own.
    pub fn new(
        exchange: Arc<Exchange>,
        metrics: Arc<Metrics>,
        journal: Arc<Journal>,
        limits: RequestLimits,
        separate_dispatch: bool,
    ) -> Self {
        Self {
            dispatcher: Dispatcher::new(exchange.clone(), metrics.clone(), journal.clone()),
            sessions: Arc::new(Sessions::new(exchange.clone(), &metrics, None)),
            replies: Arc::new(Replies::new(metrics.clone(), None)),
            exchange,
            metrics,
            journal,
            limits: ArcSwap::from_pointee(limits),
            separate_dispatch,
            cluster: None,
            peers: PeerClient::new(None),
            shared_names: SharedNameDetector::default(),
            admission: Admission::default(),
            idle: Arc::default(),
        }
    }

    /// The same as a part of a cluster, if there is one. `authorities` are those that are trusted for the certificates of its
    /// brokers; none for the system's.
    #[must_use]
    pub fn in_cluster(self, config: Option<ClusterConfig>, authorities: Option<RootCertStore>) -> Self {
        let Some(config) = config else { return self };
        let Self { exchange, metrics, dispatcher, .. } = &self;
        let id = cluster::random_id();
        let sessions = Arc::new(Sessions::new(exchange.clone(), metrics, Some(id)));
        let replies = Arc::new(Replies::new(metrics.clone(), Some(id)));
        let (exchange, metrics) = (exchange.clone(), metrics.clone());
        let cluster =
            Cluster::join(config, id, exchange, sessions.clone(), replies.clone(), metrics, dispatcher);
        let peers = PeerClient::new(authorities.map(Arc::new));
        Self { cluster: Some(Arc::new(cluster)), peers, sessions, replies, ..self }
    }

    /// From now on, other brokers that ask for a certificate are presented this one.
    pub fn present_certificate(&self, certificate: Option<Arc<CertifiedKey>>) {
        self.peers.present(certificate);
    }

    /// Begins a drain. In a cluster, this broker goes on matching: the waiters that it still has are matched until each is sent
    /// to another broker.
    pub fn drain(&self) {
        if self.cluster.is_some() {
            self.exchange.begin_drain();
        } else {
            self.exchange.drain();
        }
    }

    /// Gives back unused memory, and forgets old runs.
    pub fn shrink(&self) {
        self.exchange.shrink();
        let remember_for = self.limits().remember_runs;
        self.dispatcher.forget_old(remember_for);
        let cluster = self.cluster.as_deref();
        self.replies.forget_old(remember_for, |run| {
            if let Some(cluster) = cluster {
                cluster.claimed(run);
            }
        });
    }

    /// Clears some of the memory of runs that are forgotten. To be called often.
    pub fn clear_forgotten_runs(&self) {
        self.dispatcher.clear_forgotten();
    }

    /// Whether the connection ends with the response to this request.
    pub(super) fn closes_after(&self, head: &RequestHead<'_>) -> bool {
        !head.is_reusable() || self.admission.closes_connections()
    }

    /// The current limits.
    pub fn limits(&self) -> Guard<Arc<RequestLimits>> {
        self.limits.load()
    }

    /// Replaces the limits for the next requests. Polls that are held keep their times.
    pub fn set_limits(&self, limits: RequestLimits) {
        self.limits.store(Arc::new(limits));
    }

    /// POSTs in flight.
    pub fn posts_in_flight(&self) -> usize {
        self.dispatcher.in_flight()
    }

    /// Refuses a poll because of its credential, and counts that.
    pub(super) fn refuse_token(&self, what: &str, error: TokenError) -> Problem {
        self.metrics.denied(error.failure());
        Problem::bad_token(what, error)
    }

    /// The supervisor's trace, if traces are exported and this one can be continued.
    pub(super) fn trace_parent(&self, head: &RequestHead<'_>) -> Option<TraceParent> {
        let header = self.journal.exports_traces().then(|| head.fields.single(FieldName::TraceParent));
        header?.ok().flatten().and_then(TraceParent::parse)
    }
}

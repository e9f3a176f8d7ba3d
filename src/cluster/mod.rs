//! Owns the cluster: several brokers that answer as one, over NATS.
//!
//! A broker announces its own pools to all others, and forwards a run for which it has no waiter to one broker that has. The
//! directory, this broker's announcements and the rules of a forward are pure; `tests/cluster_simulation` drives them.
//!
//! ```text
//! dispatch ─► router ─► search ─ forward ─► NATS ─► owner ─► dispatch of the other broker
//!                ▲         ▲ └──── answers ◄── inbox ◄── NATS ◄─┘
//!                │         └ directory (pure)
//! service (on each serving thread): takes forwards in; the first one hears and announces for `member` (pure), wakes `watchers`
//! ```

mod answer_tail;
pub mod claims;
mod clock;
pub mod codec;
pub mod digest;
pub mod directory;
pub mod forward;
mod forward_tail;
mod gather;
mod inbox;
pub mod link;
mod link_config;
pub mod member;
pub mod own_pools;
mod owner;
mod preflight;
mod router;
mod search;
mod service;
mod shared;
pub mod subjects;
mod watchers;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::broker::{Filter, PoolSummary, WaiterSummary};
use crate::dispatch::Dispatcher;
use crate::metrics::Metrics;
use crate::reply::Replies;
use crate::transport::{Exchange, Sessions};
use codec::BrokerId;
use digest::Digest;
pub use directory::{Contact, PeerSummary};
pub use gather::Gathered;
pub use link_config::{Credentials, LinkConfig};
use member::Member;
use owner::Owner;
pub use preflight::{NatsReport, preflight};
use router::Router;
use service::Service;
pub use shared::random_id;
use shared::{Shared, set_thread};
use subjects::Subjects;

/// So long after the start, or after the first connection, a broker is ready without having heard of the others: they may be
/// absent, or NATS.
const READY_AFTER: Duration = Duration::from_secs(2);
const READY_AFTER_GREETING: Duration = Duration::from_millis(500);
/// What an announcement takes to reach the other brokers, at most, as a rule.
const ANNOUNCED_WITHIN: Duration = Duration::from_millis(50);

/// How this broker takes part in a cluster.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// How to connect to NATS.
    pub link: LinkConfig,
    /// This broker's name for people.
    pub name: String,
    /// The origin at which other brokers reach this one over HTTP, if it has one.
    pub advertise: Option<String>,
    /// How many threads serve.
    pub threads: usize,
    /// The most forwards of other brokers in progress at once.
    pub max_forwards: usize,
    /// The most bytes of their payloads together.
    pub max_forward_bytes: usize,
    /// Named runs are remembered for at least this long.
    pub remember_runs: Duration,
}

/// The cluster, as the rest of the broker sees it.
pub struct Cluster {
    shared: Arc<Shared>,
    owner: Arc<Owner>,
    link: LinkConfig,
    started: Instant,
}

impl Cluster {
    /// Joins with an id that no other broker has: [`random_id`]. From now on, runs without a waiter here may get one of other brokers, once [`Self::serve`] has connected. To be called
    /// before the first waiter is parked and the first run is dispatched.
    pub fn join(
        config: ClusterConfig,
        id: BrokerId,
        exchange: Arc<Exchange>,
        sessions: Arc<Sessions>,
        replies: Arc<Replies>,
        metrics: Arc<Metrics>,
        dispatcher: &Dispatcher,
    ) -> Self {
        exchange.watch_pools();
        metrics.cluster.expose_connection();
        let ClusterConfig { link, name, advertise, threads, max_forwards, max_forward_bytes, remember_runs } =
            config;
        let advertised = advertise.unwrap_or_default();
        let member = Member::new(id, &name, &advertised, remember_runs, exchange.now());
        let shared = Arc::new(Shared {
            subjects: Subjects::new(&link.cluster),
            member: Mutex::new(member),
            exchange,
            sessions,
            replies,
            metrics,
            inbox: Arc::default(),
            watchers: Arc::default(),
            links: (0..threads).map(|_| OnceLock::new()).collect(),
            id: watch::Sender::new(id),
            met_since: OnceLock::new(),
            has_news: Notify::new(),
        });
        dispatcher.set_remote_pools(Arc::new(Router(shared.clone())));
        let owner = Owner::new(shared.clone(), dispatcher.clone(), max_forwards, max_forward_bytes);
        Self { shared, owner: Arc::new(owner), link, started: Instant::now() }
    }

    /// Connects the serving thread with this number to NATS, as soon as it is there, and takes part in the cluster until the
    /// returned future is dropped. To be run on that thread. An error if the settings cannot be used.
    pub async fn serve(&self, thread: usize) -> anyhow::Result<()> {
        set_thread(thread);
        let id = self.shared.id.subscribe();
        let (link, inbound) = link::open(&self.link, *id.borrow(), thread)?;
        if let Some(slot) = self.shared.links.get(thread) {
            let _ = slot.set(link);
        }
        let service = Service { shared: self.shared.clone(), owner: self.owner.clone(), thread };
        service.run(inbound, id).await;
        Ok(())
    }

    /// Tells the other brokers that this one has no pools any more, and waits until they know it.
    pub async fn leave(&self) {
        let message = self.shared.member.lock().leave();
        self.announce_last(message).await;
    }

    /// Tells the other brokers to forget this one, whose process ends.
    pub async fn end(&self) {
        let message = self.shared.member.lock().end();
        self.announce_last(message).await;
    }

    async fn announce_last(&self, message: Vec<u8>) {
        if self.shared.publish(self.shared.subjects.directory(), message).is_ok() {
            tokio::time::sleep(ANNOUNCED_WITHIN).await;
        }
    }

    /// Whether this broker has heard of the others, or has waited for them long enough: before, runs would miss here although another
    /// broker has a waiter.
    pub fn is_ready(&self) -> bool {
        let greeted = self.shared.met_since.get();
        greeted.is_some_and(|since| since.elapsed() >= READY_AFTER_GREETING)
            || self.started.elapsed() >= READY_AFTER
    }

    /// Tells the other brokers that this one knows of a named run, by the digest of its name.
    pub fn claimed(&self, run: [u8; 16]) {
        self.shared.member.lock().claimed(Digest::new(run));
        self.shared.has_news.notify_one();
    }

    /// Whether the connection to NATS is up.
    pub fn is_connected(&self) -> bool {
        self.shared.is_connected()
    }

    /// This broker's name for people.
    pub fn name(&self) -> String {
        self.shared.member.lock().name().to_owned()
    }

    /// This broker's id.
    pub fn id(&self) -> BrokerId {
        self.shared.member.lock().id()
    }

    /// The origin at which other brokers reach this one over HTTP, if it has one.
    pub fn advertised(&self) -> Option<String> {
        self.shared.member.lock().advertised().map(str::to_owned)
    }

    /// How another broker is reached over HTTP; none if it is not known, or forgotten.
    pub fn contact(&self, id: BrokerId) -> Option<Contact> {
        self.shared.member.lock().directory.contact(id)
    }

    /// The name of the cluster.
    pub fn cluster_name(&self) -> &str {
        &self.link.cluster
    }

    /// The other brokers that are not forgotten, in the order of their names.
    pub fn peers(&self) -> Vec<PeerSummary> {
        let now = self.shared.now();
        self.shared.member.lock().directory.peers(now)
    }

    /// The pools of all other brokers that this filter selects. Each broker answers within two seconds, or is missing.
    pub async fn pools(&self, filter: &Filter) -> Gathered<Vec<PoolSummary>> {
        gather::pools(&self.shared, filter).await
    }

    /// At most `limit` waiters of each other broker that this filter selects. Each broker answers within two seconds, or is
    /// missing.
    pub async fn waiters(&self, filter: &Filter, limit: usize) -> Gathered<Vec<WaiterSummary>> {
        gather::waiters(&self.shared, filter, limit).await
    }

    /// Retires the waiters that this filter selects at all other brokers, and returns how many they were at each. Each broker
    /// answers within two seconds, or is missing: then it may have retired them, or not.
    pub async fn retire(&self, filter: &Filter) -> Gathered<u64> {
        gather::retire(&self.shared, filter).await
    }
}

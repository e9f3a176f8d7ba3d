//! Owns the process's outline: bind, run, end. It creates all parts and connects them.
//!
//! ```text
//! ops runtime (the caller's)     keeper thread                 one runtime per serving thread
//!   ops listeners                  expiry and drain of polls     its own sockets on the shared addresses (SO_REUSEPORT)
//!   supervision, signals           memory                        its connections, from accept to end
//! ```
//!
//! All of them run until the shutdown. If one ends earlier, the process ends, and a service manager restarts it.

mod accept;
mod certificate;
mod cluster;
mod connection_limit;
mod context;
mod health;
mod housekeeping;
mod listen;
mod memory;
mod ops_listener;
mod phase;
mod preflight;
mod reload;
mod shutdown;
mod socket;
mod socket_activation;
mod systemd;
mod threads;
mod tls;
mod unix;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, watch};

use crate::config::{Endpoint, LimitSettings, Listeners, Settings};
use crate::exchange::Exchange;
use crate::http::HttpState;
use crate::journal::{self, Journal};
use crate::metrics::{Listener, Metrics};
use crate::ops::ConnectionSlots;
use connection_limit::{ConnectionLimiter, ConnectionLimits};
use context::ListenerContext;
use health::Health;
use listen::BoundAddress;
use memory::MemoryBudget;
pub use memory::container_limit;
use ops_listener::OpsListener;
use phase::Phase;
pub use phase::Signal;
pub use preflight::{Preflight, preflight};
pub use socket::BACKLOG;
pub use socket_activation::{InheritedAddresses, InheritedSockets};
use threads::Threads;
use tls::Certificates;
pub use tls::read_authorities;

/// Ops listeners are accepted from when all other sockets are, or after this time.
const OPS_DELAY: Duration = Duration::from_secs(1);
/// How long the threads may take to drop their connections at the end,
const THREADS_TIMEOUT: Duration = Duration::from_secs(5);
/// and how long the journal may take to write its last records.
const JOURNAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often to check that the journal's threads run.
const JOURNAL_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A broker whose addresses are bound, and which serves once it is run.
pub struct Server {
    context: ListenerContext,
    addresses: Vec<BoundAddress>,
    ops_addresses: Vec<BoundAddress>,
    ops_slots: Arc<ConnectionSlots>,
    threads: usize,
    drain_window: Duration,
    memory: MemoryBudget,
}

impl Server {
    /// Binds all addresses that have no inherited sockets; from then on connections queue. `open_files` is the process's
    /// limit of open files.
    pub fn bind(
        settings: &Settings,
        listeners: &Listeners,
        open_files: u64,
        mut inherited: InheritedSockets,
    ) -> anyhow::Result<Self> {
        let request_limits = reload::request_limits(settings)?;
        let certificates = Certificates::read(&settings.tls)?;
        let threads = settings.process.thread_count();
        let Listeners { public, dispatch, ops } = listeners;
        let mut addresses = BoundAddress::bind_all(Listener::Public, public, threads, &mut inherited)?;
        addresses.extend(BoundAddress::bind_all(Listener::Dispatch, dispatch, threads, &mut inherited)?);
        let ops_addresses = BoundAddress::bind_all(Listener::Ops, ops, 1, &mut inherited)?;
        let metrics = Arc::new(Metrics::new().context("the metrics cannot be registered")?);
        let journal = Arc::new(Journal::open(&settings.into(), metrics.clone())?);
        let limits = settings.limits.of_broker(open_files);
        let exchange =
            Arc::new(Exchange::new(limits, settings.delivery.pick.into(), metrics.clone(), journal.clone()));
        let separate_dispatch = !dispatch.is_empty();
        let bound: Vec<_> = addresses.iter().map(|address| address.endpoint.clone()).collect();
        let cluster = cluster::cluster_config(settings, &bound)?;
        let authorities = cluster::peer_authorities(&settings.cluster)?;
        let state = HttpState::new(exchange, metrics, journal, request_limits, separate_dispatch)
            .in_cluster(cluster, authorities);
        state.sessions.limit(limits.waiters);
        state.replies.limit(settings.replies.most(open_files));
        let state = Arc::new(state);
        state.idle.set_timeout(settings.waiting.idle_timeout);
        let limits = ConnectionLimits {
            connections: settings.limits.public_connections(open_files),
            polls: LimitSettings::polls_of(open_files),
            per_source: settings.limits.max_connections_per_source,
            separate_dispatch,
        };
        let limiter = Arc::new(ConnectionLimiter::new(state.clone(), limits));
        let context = ListenerContext { state, limiter, tls: Arc::default(), ops_tls: Arc::default() };
        context.replace_certificates(&certificates);
        let is_ops_local = listeners.ops.iter().all(Endpoint::is_local);
        if settings.access.ops_token_file.is_some() && certificates.ops.is_none() && !is_ops_local {
            tracing::warn!(
                "operators' bearer tokens are sent in clear; give --ops-tls-cert and --ops-tls-key, unless only operators reach that network"
            );
        }
        let memory = MemoryBudget::new(settings.limits.memory_limit.map(|size| size.as_u64()));
        let ops_slots = ConnectionSlots::new(settings.limits.ops_connections(open_files));
        let drain_window = settings.process.drain_window;
        Ok(Self { context, addresses, ops_addresses, ops_slots, threads, drain_window, memory })
    }

    /// The bound addresses, with the ports that the system chose.
    pub fn listeners(&self) -> Listeners {
        let of = |addresses: &[BoundAddress], listener| {
            let selected = addresses.iter().filter(|address| address.listener == listener);
            selected.map(|address| address.endpoint.clone()).collect()
        };
        Listeners {
            public: of(&self.addresses, Listener::Public),
            dispatch: of(&self.addresses, Listener::Dispatch),
            ops: of(&self.ops_addresses, Listener::Ops),
        }
    }

    /// Serves until `signals` ends it: the first signal to end begins the drain, the second ends it at once. An error if a
    /// part of the broker ends earlier.
    pub async fn run(self, mut signals: mpsc::Receiver<Signal>) -> anyhow::Result<()> {
        let public: Arc<[Endpoint]> = self.listeners().public.into();
        let Self { context, addresses, ops_addresses, ops_slots, threads, drain_window, memory } = self;
        let (phase, phases) = watch::channel(Phase::Serving);
        let names = (0..threads).map(|number| format!("serve-{number}"));
        let accept_loops = threads * addresses.len();
        let health = Arc::new(Health::new(names.clone().chain(["keeper".to_owned()]), accept_loops));
        // The files of Unix sockets are removed when `files` is dropped, at the end.
        let (mut sockets, mut files): (Vec<_>, Vec<_>) =
            addresses.into_iter().map(BoundAddress::into_thread_sockets).unzip();
        let mut running = Threads::default();
        for (number, name) in names.enumerate() {
            let sockets: Vec<_> = sockets.iter_mut().filter_map(Vec::pop).collect();
            let (context, phases, health) = (context.clone(), phases.clone(), health.clone());
            let heartbeat = health.heartbeat(number);
            let work = move || accept::run_thread(number, &context, sockets, &health, heartbeat, &phases);
            running.spawn(&name, work)?;
        }
        let (state, heartbeat) = (context.state.clone(), health.heartbeat(threads));
        running.spawn("keeper", move || {
            housekeeping::run(&state, drain_window, memory, &heartbeat, &phases);
            Ok(())
        })?;
        let ops = OpsListener::all(ops_addresses, &context, &public, &health, &ops_slots, &mut files)?;
        let serve_ops = async {
            // If the timeout ends first, `/readyz` answers that the broker is starting.
            let _ = tokio::time::timeout(OPS_DELAY, health.started()).await;
            ops_listener::accept_all(ops).await
        };
        let notify = async {
            health.started().await;
            systemd::notify_ready();
            systemd::feed_watchdog(&health).await
        };
        let journal = context.state.journal.clone();
        let done = tokio::select! {
            error = serve_ops => Err(error),
            error = running.first_ended() => Err(error),
            error = journal_ended(&journal) => Err(error),
            never = notify => match never {},
            never = memory::purge_periodically() => match never {},
            done = shutdown::run_phases(&context, &mut signals, drain_window, &phase) => done,
        };
        if let Err(error) = &done {
            tracing::error!("{error:#}; the broker ends");
        }
        // An error means that all threads have ended.
        let _ = phase.send(Phase::Stopped);
        running.join_all(THREADS_TIMEOUT).await;
        let closing = tokio::task::spawn_blocking(move || journal.close());
        if let Ok(closed) = tokio::time::timeout(JOURNAL_TIMEOUT, closing).await {
            closed?;
        } else {
            tracing::error!("the journal does not end; its last records are lost");
        }
        drop(files);
        done
    }
}

/// Waits for a thread of the journal to end, and returns which one.
async fn journal_ended(journal: &Journal) -> anyhow::Error {
    loop {
        if let Some(name) = journal.stopped_thread() {
            return anyhow::anyhow!("the thread {name} has ended");
        }
        tokio::time::sleep(JOURNAL_CHECK_INTERVAL).await;
    }
}

impl From<&Settings> for journal::JournalConfig {
    fn from(settings: &Settings) -> Self {
        Self {
            history: settings.records.history.clone(),
            history_age: settings.records.history_age,
            history_size: settings.records.history_size.as_u64(),
            otlp: settings.records.otlp.clone(),
        }
    }
}

/// Raises the limit of open files as far as the system allows, and returns it.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current.unwrap_or(u64::MAX);
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

//! Owns the process's outline: bind, run, end. Wires everything, decides nothing.
//!
//! ```text
//! ops runtime (the caller's)     keeper's thread        one runtime per serving thread
//!   ops listener                   expiry, goodbyes       its own listeners on the shared addresses (SO_REUSEPORT)
//!   supervision, signals           memory                 its connections, from accept to end
//! ```
//!
//! None of them ends before the others: whichever does, ends the process, and a service manager starts it again.

mod accept;
mod certificate;
mod connection_limit;
mod health;
mod housekeeping;
mod listen;
mod memory;
mod ops;
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

use crate::config::{Endpoint, Listeners, Settings};
use crate::exchange::Exchange;
use crate::http::HttpState;
use crate::journal::{self, Journal};
use crate::metrics::{Listener, Metrics};
use accept::ListenerContext;
use connection_limit::{ConnectionLimiter, ConnectionLimits};
use health::Health;
pub use listen::BACKLOG;
use listen::Group;
use memory::Memory;
pub use memory::container_limit;
use ops::OpsState;
pub use preflight::{Preflight, preflight};
use socket::Acceptor;
pub use socket_activation::{InheritedAddresses, InheritedSockets};
use threads::Threads;
use tls::Certificates;
use unix::SocketFile;

/// Operators are answered when every listener is accepted from, or after this time.
const FIRST_LOOPS: Duration = Duration::from_secs(1);
/// The serving threads drop their connections within this time,
const LAST_CONNECTIONS: Duration = Duration::from_secs(5);
/// and the journal writes what is still on its way.
const LAST_RECORDS: Duration = Duration::from_secs(10);
/// How often the journal is looked at.
const PACE: Duration = Duration::from_millis(100);

/// A broker whose addresses are bound and which serves once it is run.
pub struct Server {
    entrance: ListenerContext,
    groups: Vec<Group>,
    ops: Vec<Group>,
    ops_room: Arc<ops::ConnectionSlots>,
    threads: usize,
    drain_window: Duration,
    memory: Memory,
}

/// How far the end has come, as the serving threads need to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Everyone is served.
    Serving,
    /// Whoever comes to a socket that outlives this process waits there for the next one.
    Draining,
    /// Nobody is served any more.
    Stopped,
}

/// What the process tells its server.
#[derive(Debug)]
pub enum Signal {
    /// End politely; said again, at once.
    End,
    /// The settings have been read again, or could not be.
    Reload(anyhow::Result<Box<Settings>>),
}

impl Server {
    /// Binds every address that is not inherited; from here on connections queue. `open_files` is how many files the
    /// process may open.
    pub fn bind(
        settings: &Settings,
        listeners: &Listeners,
        open_files: u64,
        mut inherited: InheritedSockets,
    ) -> anyhow::Result<Self> {
        let terms = reload::request_limits(settings)?;
        let certificates = Certificates::read(&settings.tls)?;
        let threads = settings.process.thread_count();
        let Listeners { public, dispatch, ops } = listeners;
        let mut groups = Group::all(Listener::Public, public, threads, &mut inherited)?;
        groups.extend(Group::all(Listener::Dispatch, dispatch, threads, &mut inherited)?);
        let ops = Group::all(Listener::Ops, ops, 1, &mut inherited)?;
        let metrics = Arc::new(Metrics::new().context("the metrics cannot be registered")?);
        let journal = Arc::new(Journal::open(&settings.into(), metrics.clone())?);
        let limits = settings.limits.of_broker(open_files);
        let exchange =
            Arc::new(Exchange::new(limits, settings.delivery.pick.into(), metrics.clone(), journal.clone()));
        let separate_dispatch = !dispatch.is_empty();
        let front = Arc::new(HttpState::new(exchange, metrics, journal, terms, separate_dispatch));
        front.idle.set_timeout(settings.waiting.idle_timeout);
        let room = ConnectionLimits {
            connections: settings.limits.public_connections(open_files),
            per_source: settings.limits.max_connections_per_source,
            separate_dispatch,
        };
        let door = Arc::new(ConnectionLimiter::new(front.clone(), room));
        let entrance = ListenerContext { front, door, tls: Arc::default(), ops_tls: Arc::default() };
        entrance.report_certificate_expiry(&certificates);
        if settings.access.ops_token_file.is_some()
            && certificates.ops.is_none()
            && !listeners.ops.iter().all(Endpoint::is_local)
        {
            tracing::warn!(
                "operators' bearers go over the network in clear; give --ops-tls-cert and --ops-tls-key, unless it is closed to strangers"
            );
        }
        let memory = Memory::new(settings.limits.memory_limit.map(|size| size.as_u64()));
        let ops_room = ops::ConnectionSlots::new(settings.limits.ops_connections(open_files));
        Ok(Self {
            entrance,
            groups,
            ops,
            ops_room,
            threads,
            drain_window: settings.process.drain_window,
            memory,
        })
    }

    /// Where it listens, with the ports that the system chose.
    pub fn listeners(&self) -> Listeners {
        let of = |groups: &[Group], listener| {
            let these = groups.iter().filter(|group| group.listener == listener);
            these.map(|group| group.endpoint.clone()).collect()
        };
        Listeners {
            public: of(&self.groups, Listener::Public),
            dispatch: of(&self.groups, Listener::Dispatch),
            ops: of(&self.ops, Listener::Ops),
        }
    }

    /// Serves until `signals` says so: the first end drains and ends, the second ends at once. An error if a part of the
    /// broker ends before.
    pub async fn run(self, mut signals: mpsc::Receiver<Signal>) -> anyhow::Result<()> {
        let Self { entrance, groups, ops, ops_room, threads, drain_window, memory } = self;
        let (phase, phases) = watch::channel(Phase::Serving);
        let public = groups.iter().filter(|group| group.listener == Listener::Public);
        let public: Arc<[Endpoint]> = public.map(|group| group.endpoint.clone()).collect();
        let names = (0..threads).map(|number| format!("serve-{number}"));
        let health =
            Arc::new(Health::new(names.clone().chain(["keeper".to_owned()]), threads * groups.len()));
        // Kept until the end, which removes them.
        let (mut shares, mut files): (Vec<_>, Vec<_>) = groups.into_iter().map(Group::into_shares).unzip();
        let mut running = Threads::default();
        for (number, name) in names.enumerate() {
            let share: Vec<_> = shares.iter_mut().filter_map(Vec::pop).collect();
            let (entrance, phases, pulse) = (entrance.clone(), phases.clone(), health.pulse(number));
            let health = health.clone();
            let work = move || accept::serve_shares(&entrance, share, &health, pulse, &phases);
            running.spawn(&name, work)?;
        }
        let (front, pulse) = (entrance.front.clone(), health.pulse(threads));
        running.spawn("keeper", move || {
            housekeeping::run(&front, drain_window, memory, &pulse, &phases);
            Ok(())
        })?;
        let front = &entrance.front;
        let desks = ops_listeners(ops, &entrance, &public, &health, &ops_room, &mut files)?;
        let operators = async {
            // Nearly always it has begun before anybody asks; if not, they are told so.
            let _ = tokio::time::timeout(FIRST_LOOPS, health.begun()).await;
            ops::serve(desks).await
        };
        let lives = async {
            health.begun().await;
            systemd::ready();
            systemd::feed_watchdog(&health).await
        };
        let done = tokio::select! {
            error = operators => Err(error),
            error = running.ended() => Err(error),
            error = ended(&front.journal) => Err(error),
            never = lives => match never {},
            never = memory::give_back() => match never {},
            done = shutdown::run_phases(&entrance, &mut signals, drain_window, &phase) => done,
        };
        if let Err(error) = &done {
            tracing::error!("{error:#}; the broker ends");
        }
        // The receivers are the threads; if all have ended already, nobody needs to be told.
        let _ = phase.send(Phase::Stopped);
        running.end(LAST_CONNECTIONS).await;
        let journal = front.journal.clone();
        let closing = tokio::task::spawn_blocking(move || journal.close());
        if let Ok(closed) = tokio::time::timeout(LAST_RECORDS, closing).await {
            closed?;
        } else {
            tracing::error!("the journal does not end; what it had still to write is lost");
        }
        drop(files);
        done
    }
}

/// A desk at each of the operators' sockets. The files among them are kept until the end, which removes them.
fn ops_listeners(
    ops: Vec<Group>,
    entrance: &ListenerContext,
    public: &Arc<[Endpoint]>,
    health: &Arc<Health>,
    room: &Arc<ops::ConnectionSlots>,
    files: &mut Vec<Option<SocketFile>>,
) -> anyhow::Result<Vec<(Acceptor, OpsState)>> {
    let long_work: Arc<tokio::sync::Mutex<()>> = Arc::default();
    let mut desks = Vec::with_capacity(ops.len());
    for group in ops {
        let is_local = group.endpoint.ip().is_some() && group.endpoint.is_local();
        let (shares, file) = group.into_shares();
        files.push(file);
        for share in shares {
            let socket = share.socket.into_acceptor()?;
            let desk = OpsState {
                front: entrance.front.clone(),
                public: public.clone(),
                is_local,
                health: health.clone(),
                room: room.clone(),
                // Whoever reaches a file is on this machine.
                tls: if socket.is_unix() { Arc::default() } else { entrance.ops_tls.clone() },
                long_work: long_work.clone(),
            };
            desks.push((socket, desk));
        }
    }
    Ok(desks)
}

/// Waits for a thread of the journal to end, and says which.
async fn ended(journal: &Journal) -> anyhow::Error {
    loop {
        if let Some(name) = journal.stopped_thread() {
            return anyhow::anyhow!("the thread {name} has ended");
        }
        tokio::time::sleep(PACE).await;
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

/// Lifts the limit of open files as far as the system allows, and says how far that is.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current.unwrap_or(u64::MAX);
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

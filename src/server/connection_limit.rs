//! Owns who comes in: as many connections as there is room for, of one address no more than its share.
//!
//! When there is no room, the connection that has been silent for longest makes some: whoever has something to say says it
//! at once, so a flood of silent sockets only ever displaces itself.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use ahash::RandomState;
use parking_lot::Mutex;

use crate::address;
use crate::http::HttpState;
use crate::metrics::{Listener, OpenConnection, RejectReason};
use crate::transport::Connection;

/// The public listener leaves so many places to a listener for dispatch alone.
const KEPT_FOR_DISPATCH: usize = 64;
/// So many newcomers of one thread are remembered as possibly silent.
const REMEMBERED: usize = 4096;

/// How many may be inside.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionLimits {
    /// Connections on all public listeners together.
    pub(super) connections: usize,
    /// Connections of one address, if that has a limit.
    pub(super) per_source: Option<usize>,
    /// Whether there is a listener for dispatch alone.
    pub(super) separate_dispatch: bool,
}

impl ConnectionLimits {
    /// With more connections than this, nine of ten, a connection ends with its answer: none that rests keeps the last place.
    fn unhurried(self) -> usize {
        self.connections - self.connections.div_ceil(10)
    }

    fn kept_for_dispatch(self) -> usize {
        if self.separate_dispatch { KEPT_FOR_DISPATCH.min(self.connections / 2) } else { 0 }
    }
}

/// The door of all public listeners.
pub(super) struct ConnectionLimiter {
    front: Arc<HttpState>,
    room: ConnectionLimits,
    inside: AtomicUsize,
    sources: Mutex<HashMap<IpAddr, usize, RandomState>>,
}

/// A connection that was let in; its place is free again when this is dropped.
pub(super) struct PendingConnection {
    door: Arc<ConnectionLimiter>,
    connection: Arc<Connection>,
    _counted: OpenConnection,
}

/// One within its address's share, which it gives back when this is dropped.
pub(super) struct ConnectionPermit(PendingConnection);

/// One thread's newcomers who have not said anything yet, the oldest first.
#[derive(Default)]
pub(super) struct SilentConnections(VecDeque<Weak<Connection>>);

impl ConnectionLimiter {
    pub(super) fn new(front: Arc<HttpState>, room: ConnectionLimits) -> Self {
        Self { front, room, inside: AtomicUsize::new(0), sources: Mutex::default() }
    }

    /// Whether an address may come in at all, before anything is spent on it. What it may do is asked with each request.
    pub(super) fn is_address_known(&self, peer: IpAddr) -> bool {
        let terms = self.front.limits();
        let is_known = terms.access.may_connect_from(peer) || address::is_in_any(&terms.proxies, peer);
        if !is_known {
            self.front.metrics.rejected(RejectReason::Address);
        }
        is_known
    }

    /// Lets a connection in, if need be in the place of a silent one. None if there is no room for it.
    pub(super) fn admit(
        self: &Arc<Self>,
        listener: Listener,
        connection: Connection,
        newcomers: &mut SilentConnections,
    ) -> Option<ConnectionPermit> {
        if !self.is_within_source_share(connection.origin()) {
            return None;
        }
        // Without room it gives its share back.
        let (newcomer, has_room) = self.enter(listener, connection, newcomers);
        let guest = ConnectionPermit(newcomer);
        has_room.then_some(guest)
    }

    /// The same for one that a proxy is still to introduce: it takes no share of the proxy's address.
    pub(super) fn admit_pending(
        self: &Arc<Self>,
        listener: Listener,
        connection: Connection,
        newcomers: &mut SilentConnections,
    ) -> Option<PendingConnection> {
        let (newcomer, has_room) = self.enter(listener, connection, newcomers);
        has_room.then_some(newcomer)
    }

    /// Counts a connection in, and says whether there is room for it.
    fn enter(
        self: &Arc<Self>,
        listener: Listener,
        connection: Connection,
        newcomers: &mut SilentConnections,
    ) -> (PendingConnection, bool) {
        let metrics = &self.front.metrics;
        let counted = metrics.connected(listener, connection.is_tls());
        let newcomer =
            PendingConnection { door: self.clone(), connection: Arc::new(connection), _counted: counted };
        let inside = self.inside.fetch_add(1, Ordering::Relaxed) + 1;
        let kept = if listener == Listener::Dispatch { 0 } else { self.room.kept_for_dispatch() };
        if inside > self.room.connections - kept {
            let Some(silent) = newcomers.take_oldest_silent() else {
                metrics.rejected(RejectReason::Connections);
                return (newcomer, false);
            };
            silent.shutdown();
            metrics.rejected(RejectReason::Silent);
        }
        self.report_occupancy(inside);
        newcomers.remember(&newcomer.connection);
        (newcomer, true)
    }

    fn report_occupancy(&self, inside: usize) {
        self.front.admission.set_short_of_connections(inside > self.room.unhurried());
    }

    /// Takes a place of the address's share, if there is one left.
    fn is_within_source_share(&self, source: IpAddr) -> bool {
        let Some(most) = self.room.per_source else { return true };
        let mut sources = self.sources.lock();
        let here = sources.entry(source).or_default();
        let has = *here < most;
        *here += usize::from(has);
        if !has {
            self.front.metrics.rejected(RejectReason::Source);
        }
        has
    }

    /// Whether the connections of this peer begin with a PROXY protocol header.
    pub(super) fn expects_proxy_header(&self, peer: IpAddr) -> bool {
        let terms = self.front.limits();
        terms.proxy_protocol && address::is_in_any(&terms.proxies, peer)
    }
}

impl PendingConnection {
    /// Reads whom the proxy in between passes on, and asks whether and how often that one may come in. None if the connection
    /// is over with it.
    pub(super) async fn read_proxy_header(self) -> Option<ConnectionPermit> {
        if let Err(error) = self.connection.read_proxy_header().await {
            // A health check may connect and leave without a word.
            if error.kind() == io::ErrorKind::InvalidData {
                tracing::debug!(%error, "a proxy's connection did not begin with a PROXY protocol header");
                self.door.front.metrics.rejected(RejectReason::ProxyProtocol);
            }
            return None;
        }
        let client = self.connection.origin();
        // Who is not named is refused with each request that needs a name; a check needs none.
        let is_known = client.is_unspecified() || self.door.is_address_known(client);
        (is_known && self.door.is_within_source_share(client)).then(|| ConnectionPermit(self))
    }
}

impl AsRef<Arc<Connection>> for ConnectionPermit {
    fn as_ref(&self) -> &Arc<Connection> {
        &self.0.connection
    }
}

impl Drop for PendingConnection {
    fn drop(&mut self) {
        let inside = self.door.inside.fetch_sub(1, Ordering::Relaxed) - 1;
        self.door.report_occupancy(inside);
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let PendingConnection { door, connection, .. } = &self.0;
        if door.room.per_source.is_none() {
            return;
        }
        let mut sources = door.sources.lock();
        if let Some(here) = sources.get_mut(&connection.origin()) {
            *here -= 1;
            if *here == 0 {
                sources.remove(&connection.origin());
            }
        }
    }
}

impl SilentConnections {
    fn remember(&mut self, connection: &Arc<Connection>) {
        while self.0.front().is_some_and(|newcomer| !is_silent(newcomer)) {
            self.0.pop_front();
        }
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(Arc::downgrade(connection));
    }

    fn take_oldest_silent(&mut self) -> Option<Arc<Connection>> {
        while let Some(newcomer) = self.0.pop_front() {
            if let Some(connection) = newcomer.upgrade().filter(|connection| !connection.has_received()) {
                return Some(connection);
            }
        }
        None
    }
}

fn is_silent(newcomer: &Weak<Connection>) -> bool {
    newcomer.upgrade().is_some_and(|connection| !connection.has_received())
}

//! Owns the limits of open connections: in total, and for each source address.
//!
//! When the total is reached, a new connection replaces the one that has sent nothing for longest. Real clients send their
//! request at once, so a flood of silent connections only replaces itself.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use ahash::RandomState;
use parking_lot::Mutex;

use crate::address;
use crate::http::HttpState;
use crate::metrics::{Listener, OpenConnection, RejectReason};
use crate::transport::Connection;

/// Connections that the public listeners leave to the listeners for dispatches.
const RESERVED_FOR_DISPATCH: usize = 64;
/// How many new connections each listener of a thread remembers as possibly silent.
const MAX_REMEMBERED: usize = 4096;

/// How many connections may be open.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionLimits {
    /// Connections on all public listeners and those for dispatches together.
    pub(super) connections: usize,
    /// So many of them may hold polls while replies are awaited, less one for each reply: its worker comes with a new connection.
    pub(super) polls: usize,
    /// Connections of one source address, if they are limited.
    pub(super) per_source: Option<usize>,
    /// Whether dispatches have listeners of their own.
    pub(super) separate_dispatch: bool,
}

impl ConnectionLimits {
    /// With more connections than this (nine tenths), each is closed after its response, so that idle ones do not take the
    /// last places.
    fn keep_alive_limit(self) -> usize {
        self.connections - self.connections.div_ceil(10)
    }

    fn reserved_for_dispatch(self) -> usize {
        if self.separate_dispatch { RESERVED_FOR_DISPATCH.min(self.connections / 2) } else { 0 }
    }
}

/// Counts the connections of all public listeners and those for dispatches.
pub(super) struct ConnectionLimiter {
    state: Arc<HttpState>,
    limits: ConnectionLimits,
    open: AtomicUsize,
    sources: Mutex<HashMap<IpAddr, usize, RandomState>>,
}

/// A connection that counts in the total, and not yet for its source address. No longer counted when dropped.
pub(super) struct PendingConnection {
    limiter: Arc<ConnectionLimiter>,
    connection: Arc<Connection>,
    _counted: OpenConnection,
}

/// A connection that counts in the total and for its source address. No longer counted when dropped.
pub(super) struct ConnectionPermit(PendingConnection);

/// New connections of one listener of a thread that may have sent nothing yet, the oldest first.
#[derive(Default)]
pub(super) struct SilentConnections(VecDeque<Weak<Connection>>);

impl ConnectionLimiter {
    pub(super) fn new(state: Arc<HttpState>, limits: ConnectionLimits) -> Self {
        Self { state, limits, open: AtomicUsize::new(0), sources: Mutex::default() }
    }

    /// Whether an address may connect at all: checked before a connection costs anything. What its requests may do is
    /// checked for each of them.
    pub(super) fn is_address_known(&self, peer: IpAddr) -> bool {
        let limits = self.state.limits();
        let is_known = limits.access.may_connect_from(peer) || address::is_in_any(&limits.proxies, peer);
        if !is_known {
            self.state.metrics.rejected(RejectReason::Address);
        }
        is_known
    }

    /// Counts a connection, if necessary in place of a silent one. `None` if it exceeds a limit.
    pub(super) fn admit(
        self: &Arc<Self>,
        listener: Listener,
        connection: Connection,
        silent: &mut SilentConnections,
    ) -> Option<ConnectionPermit> {
        if !self.count_source(connection.origin()) {
            return None;
        }
        let (pending, is_within_limit) = self.count(listener, connection, silent);
        // Made in any case: its drop undoes the count of the source.
        let permit = ConnectionPermit(pending);
        is_within_limit.then_some(permit)
    }

    /// The same for a connection whose proxy has not sent its PROXY protocol header yet. It does not count for the proxy's
    /// address.
    pub(super) fn admit_pending(
        self: &Arc<Self>,
        listener: Listener,
        connection: Connection,
        silent: &mut SilentConnections,
    ) -> Option<PendingConnection> {
        let (pending, is_within_limit) = self.count(listener, connection, silent);
        is_within_limit.then_some(pending)
    }

    /// Counts a connection in the total, and returns whether it is within the limit.
    fn count(
        self: &Arc<Self>,
        listener: Listener,
        connection: Connection,
        silent: &mut SilentConnections,
    ) -> (PendingConnection, bool) {
        let metrics = &self.state.metrics;
        let counted = metrics.connected(listener, connection.is_tls());
        let pending =
            PendingConnection { limiter: self.clone(), connection: Arc::new(connection), _counted: counted };
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        let reserved = if listener == Listener::Dispatch { 0 } else { self.limits.reserved_for_dispatch() };
        if open > self.limits.connections - reserved {
            let Some(oldest) = silent.take_oldest() else {
                metrics.rejected(RejectReason::Connections);
                return (pending, false);
            };
            oldest.shutdown();
            metrics.rejected(RejectReason::Silent);
        }
        self.report_occupancy(open);
        silent.remember(&pending.connection);
        (pending, true)
    }

    fn report_occupancy(&self, open: usize) {
        let HttpState { admission, replies, .. } = &*self.state;
        admission.set_short_of_connections(open > self.limits.keep_alive_limit());
        let awaited = replies.count();
        admission.set_connections_for_replies(awaited > 0 && open + awaited > self.limits.polls);
    }

    /// Counts a connection for its source address. False if that would exceed the limit.
    fn count_source(&self, source: IpAddr) -> bool {
        let Some(limit) = self.limits.per_source else { return true };
        let mut sources = self.sources.lock();
        let count = sources.entry(source).or_default();
        let is_within_limit = *count < limit;
        *count += usize::from(is_within_limit);
        if !is_within_limit {
            self.state.metrics.rejected(RejectReason::Source);
        }
        is_within_limit
    }

    /// Whether this peer is a proxy whose connections begin with a PROXY protocol header.
    pub(super) fn expects_proxy_header(&self, peer: IpAddr) -> bool {
        let limits = self.state.limits();
        limits.proxy_protocol && address::is_in_any(&limits.proxies, peer)
    }
}

impl PendingConnection {
    /// Reads the client's address from the PROXY protocol header, checks whether it may connect, and counts it. Breaks if
    /// the connection is over.
    pub(super) async fn read_proxy_header(self) -> ControlFlow<(), ConnectionPermit> {
        if let Err(error) = self.connection.read_proxy_header().await {
            // A proxy's health check may connect and close without sending anything.
            if error.kind() == io::ErrorKind::InvalidData {
                tracing::debug!(%error, "a proxy's connection did not begin with a PROXY protocol header");
                self.limiter.state.metrics.rejected(RejectReason::ProxyProtocol);
            }
            return ControlFlow::Break(());
        }
        let client = self.connection.origin();
        // The header may name no client, as for a proxy's health check. Requests that need an address are refused later.
        let is_known = client.is_unspecified() || self.limiter.is_address_known(client);
        if is_known && self.limiter.count_source(client) {
            ControlFlow::Continue(ConnectionPermit(self))
        } else {
            ControlFlow::Break(())
        }
    }
}

impl AsRef<Arc<Connection>> for ConnectionPermit {
    fn as_ref(&self) -> &Arc<Connection> {
        &self.0.connection
    }
}

impl Drop for PendingConnection {
    fn drop(&mut self) {
        let open = self.limiter.open.fetch_sub(1, Ordering::Relaxed) - 1;
        self.limiter.report_occupancy(open);
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let PendingConnection { limiter, connection, .. } = &self.0;
        if limiter.limits.per_source.is_none() {
            return;
        }
        let mut sources = limiter.sources.lock();
        if let Some(count) = sources.get_mut(&connection.origin()) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&connection.origin());
            }
        }
    }
}

impl SilentConnections {
    fn remember(&mut self, connection: &Arc<Connection>) {
        while self.0.front().is_some_and(|oldest| !is_silent(oldest)) {
            self.0.pop_front();
        }
        if self.0.len() >= MAX_REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(Arc::downgrade(connection));
    }

    /// Removes the oldest connection that is still silent.
    fn take_oldest(&mut self) -> Option<Arc<Connection>> {
        while let Some(oldest) = self.0.pop_front() {
            if let Some(connection) = oldest.upgrade().filter(|connection| !connection.has_received()) {
                return Some(connection);
            }
        }
        None
    }
}

fn is_silent(connection: &Weak<Connection>) -> bool {
    connection.upgrade().is_some_and(|connection| !connection.has_received())
}

//! Owns accepting from the ops listeners: a slot and the TLS handshake for each connection, before its requests.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::accept::{AcceptLoop, HANDSHAKE_TIMEOUT};
use super::context::ListenerContext;
use super::health::Health;
use super::listen::BoundAddress;
use super::socket::Acceptor;
use super::tls::ReloadableTls;
use super::unix::SocketFile;
use crate::config::Endpoint;
use crate::metrics::{Listener, RejectReason};
use crate::ops::{ConnectionSlot, ConnectionSlots, OpsState, serve_connection};

/// One socket of operators, and what its connections are served with.
pub(super) struct OpsListener {
    acceptor: Acceptor,
    slots: Arc<ConnectionSlots>,
    tls: Arc<ReloadableTls>,
    ops_state: OpsState,
}

impl OpsListener {
    /// A listener for each socket of these addresses. The files of Unix sockets are added to `files`.
    pub(super) fn all(
        addresses: Vec<BoundAddress>,
        context: &ListenerContext,
        public: &Arc<[Endpoint]>,
        health: &Arc<Health>,
        slots: &Arc<ConnectionSlots>,
        files: &mut Vec<Option<SocketFile>>,
    ) -> anyhow::Result<Vec<Self>> {
        let (health, cluster) = (health.clone(), context.state.cluster.clone());
        let not_joined = move || cluster.as_ref().is_some_and(|cluster| !cluster.is_ready());
        let ops_state = OpsState {
            http_state: context.state.clone(),
            public: public.clone(),
            is_local: false,
            readiness: Arc::new(move || {
                health.not_ready_reason().or_else(|| not_joined().then_some("joining the cluster\n"))
            }),
            large_responses: Arc::default(),
        };
        let mut listeners = Vec::with_capacity(addresses.len());
        for address in addresses {
            let is_local = address.endpoint.ip().is_some() && address.endpoint.is_local();
            let (sockets, file) = address.into_thread_sockets();
            files.push(file);
            for socket in sockets {
                let acceptor = socket.socket.into_acceptor()?;
                // A Unix socket's connections do not leave this machine, so they need no TLS.
                let tls = if acceptor.is_unix() { Arc::default() } else { context.ops_tls.clone() };
                let ops_state = OpsState { is_local, ..ops_state.clone() };
                listeners.push(Self { acceptor, slots: slots.clone(), tls, ops_state });
            }
        }
        Ok(listeners)
    }

    async fn accept(self) -> anyhow::Error {
        let Self { acceptor, slots, tls, ops_state } = self;
        let metrics = &ops_state.http_state.metrics;
        let mut accepting = AcceptLoop::new(&acceptor, metrics);
        loop {
            let (stream, _) = match accepting.next().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    return anyhow::anyhow!("nothing can be accepted from the ops listener: {error}");
                }
            };
            let Some(slot) = slots.take() else {
                metrics.rejected(RejectReason::Connections);
                continue;
            };
            let (tls, ops_state) = (tls.config(), ops_state.clone());
            #[expect(
                clippy::disallowed_methods,
                reason = "owned by the ops runtime, ends with its connection"
            )]
            tokio::spawn(async move {
                let open = ops_state.http_state.metrics.connected(Listener::Ops, tls.is_some());
                // Nagle's algorithm would delay events.
                let _ = stream.set_nodelay(true);
                tokio::select! {
                    () = slot.revoked() => ops_state.http_state.metrics.rejected(RejectReason::Silent),
                    () = serve(stream, tls, &ops_state, &slot) => {}
                }
                drop(open);
            });
        }
    }
}

/// Accepts from all of these listeners. Returns the error of the first one that cannot be accepted from any more.
pub(super) async fn accept_all(listeners: Vec<OpsListener>) -> anyhow::Error {
    let mut all: Vec<_> = listeners.into_iter().map(|listener| Box::pin(listener.accept())).collect();
    poll_fn(|cx| {
        all.iter_mut().map(|one| one.as_mut().poll(cx)).find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

/// Serves one connection, after the handshake if it uses TLS.
async fn serve(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    ops_state: &OpsState,
    slot: &ConnectionSlot,
) {
    let Some(tls) = tls else { return serve_connection(stream, ops_state, slot).await };
    match timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(tls).accept(stream)).await {
        Ok(Ok(stream)) => serve_connection(stream, ops_state, slot).await,
        Ok(Err(error)) => {
            ops_state.http_state.metrics.rejected(RejectReason::Tls);
            tracing::debug!(%error, "a TLS handshake on the ops listener failed");
        }
        Err(_) => ops_state.http_state.metrics.rejected(RejectReason::Tls),
    }
}

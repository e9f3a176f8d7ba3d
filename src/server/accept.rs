//! Owns accepting: one thread with its own runtime and listeners, one task per connection.

use std::convert::Infallible;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::connection_limit::{ConnectionPermit, PendingConnection, SilentConnections};
use super::context::ListenerContext;
use super::health::{AcceptGuard, Health, Heartbeat};
use super::listen::ThreadSocket;
use super::phase::Phase;
use super::socket::Acceptor;
use super::{memory, systemd};
use crate::address::canonical;
use crate::http::{HttpState, serve};
use crate::metrics::{Listener, Metrics, RejectReason};
use crate::transport::Connection;

/// The first delay after a failed accept. It doubles with each failure, so that a lack of descriptors costs little CPU.
const MIN_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// Failures that follow each other within this time are logged once, and do not reset the delay.
const FAILURE_WINDOW: Duration = Duration::from_secs(10);
/// The interval at which a thread measures its lag.
const LAG_INTERVAL: Duration = Duration::from_millis(250);

/// The time for a PROXY protocol header to arrive.
const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// The time for a TLS handshake.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs one serving thread: accepts from its sockets until the phase is `Stopped`. An error if a socket cannot be accepted
/// from any more.
pub(super) fn run_thread(
    number: usize,
    context: &ListenerContext,
    sockets: Vec<ThreadSocket>,
    health: &Arc<Health>,
    heartbeat: Heartbeat,
    phases: &watch::Receiver<Phase>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let metrics = context.state.metrics.clone();
        tasks.spawn(async move { match measure_lag(&metrics, &heartbeat).await {} });
        tasks.spawn(async { match memory::purge_periodically().await {} });
        if let Some(cluster) = context.state.cluster.clone() {
            tasks.spawn(async move { cluster.serve(number).await.context("the cluster cannot be joined") });
        }
        for socket in sockets {
            tasks.spawn(accept(socket, context.clone(), health.begin_accepting(), phases.clone()));
        }
        until_stopped(tasks, phases.clone()).await
    });
    // Held polls have been answered by now. The runtime drops all connections that are still open.
    runtime.shutdown_background();
    done
}

/// Waits for the phase `Stopped`. A task that ends before is an error, unless it left its socket to the next process in the
/// phase `Draining`.
async fn until_stopped(
    mut tasks: JoinSet<anyhow::Result<()>>,
    mut phases: watch::Receiver<Phase>,
) -> anyhow::Result<()> {
    let mut stopped = phases.clone();
    loop {
        tokio::select! {
            // An error means that the server is gone: then this thread ends as well.
            _ = stopped.wait_for(|phase| *phase == Phase::Stopped) => return Ok(()),
            Some(ended) = tasks.join_next() => {
                ended.context("a task has panicked")??;
                anyhow::ensure!(*phases.borrow_and_update() >= Phase::Draining, "a task has ended without a reason");
            }
        }
    }
}

/// Measures how much later than scheduled this thread wakes, and records a heartbeat each time.
async fn measure_lag(metrics: &Metrics, heartbeat: &Heartbeat) -> Infallible {
    let interval = systemd::watchdog_timeout().map_or(LAG_INTERVAL, |time| LAG_INTERVAL.min(time / 8));
    loop {
        heartbeat.beat();
        let due = Instant::now() + interval;
        tokio::time::sleep_until(due).await;
        metrics.lagged(due.elapsed());
    }
}

async fn accept(
    socket: ThreadSocket,
    context: ListenerContext,
    guard: AcceptGuard,
    mut phases: watch::Receiver<Phase>,
) -> anyhow::Result<()> {
    let ThreadSocket { listener, socket, outlives_process } = socket;
    let ListenerContext { state, limiter, tls, .. } = context;
    let socket = socket.into_acceptor().context("a listener could not be served")?;
    let mut silent = SilentConnections::default();
    let mut accepting = AcceptLoop::new(&socket, &state.metrics);
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            _ = phases.wait_for(|phase| outlives_process && *phase >= Phase::Draining) => break,
            accepted = accepting.next() => {
                accepted.with_context(|| format!("nothing can be accepted from the {} listener", listener.text()))?
            }
        };
        let peer = canonical(peer.ip());
        if !limiter.is_address_known(peer) {
            continue;
        }
        let session = if socket.is_unix() { None } else { tls.new_session() };
        let connection = Connection::new(stream, peer, session, state.idle.clone());
        let state = state.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "owned by this thread's runtime, ends with its connection"
        )]
        if !socket.is_unix() && limiter.expects_proxy_header(peer) {
            let admitted = limiter.admit_pending(listener, connection, &mut silent);
            let Some(pending) = admitted else { continue };
            tokio::spawn(serve_proxied(state, listener, pending));
        } else {
            let Some(permit) = limiter.admit(listener, connection, &mut silent) else { continue };
            if permit.as_ref().is_tls() {
                tokio::spawn(serve_tls(state, listener, permit));
            } else {
                tokio::spawn(serve(state, listener, permit));
            }
        }
    }
    drop(guard);
    Ok(())
}

/// Serves a connection after its PROXY protocol header.
async fn serve_proxied(state: Arc<HttpState>, listener: Listener, pending: PendingConnection) {
    let header = Box::pin(timeout(PROXY_HEADER_TIMEOUT, pending.read_proxy_header()));
    match header.await {
        Ok(ControlFlow::Continue(permit)) if permit.as_ref().is_tls() => {
            serve_tls(state, listener, permit).await;
        }
        Ok(ControlFlow::Continue(permit)) => serve(state, listener, permit).await,
        Ok(ControlFlow::Break(())) => {}
        Err(_) => state.metrics.rejected(RejectReason::ProxyProtocol),
    }
}

/// Serves a connection after its TLS handshake.
async fn serve_tls(state: Arc<HttpState>, listener: Listener, permit: ConnectionPermit) {
    // Boxed, so that a held poll does not keep the memory of the handshake.
    let handshake = Box::pin(timeout(HANDSHAKE_TIMEOUT, permit.as_ref().handshake()));
    match handshake.await {
        Ok(Ok(())) => serve(state, listener, permit).await,
        Ok(Err(error)) => {
            state.metrics.rejected(RejectReason::Tls);
            tracing::debug!(%error, "a TLS handshake failed");
        }
        Err(_) => state.metrics.rejected(RejectReason::Tls),
    }
}

/// Accepts connections from one socket, with a growing delay after failures. A success alone does not reset the delay:
/// without descriptors, each one that becomes free is used at once, and the next accept fails again.
pub(super) struct AcceptLoop<'a> {
    socket: &'a Acceptor,
    metrics: &'a Metrics,
    delay: Duration,
    failed: Option<Instant>,
}

impl<'a> AcceptLoop<'a> {
    pub(super) fn new(socket: &'a Acceptor, metrics: &'a Metrics) -> Self {
        Self { socket, metrics, delay: MIN_BACKOFF, failed: None }
    }

    /// The next connection. After a failure it counts it, waits and tries again; it returns only errors after which the
    /// socket yields no connection any more.
    pub(super) async fn next(&mut self) -> io::Result<(TcpStream, std::net::SocketAddr)> {
        loop {
            match self.socket.accept().await {
                Ok(accepted) => return Ok(accepted),
                Err(error) if is_peer_error(&error) => {}
                Err(error) if is_socket_error(&error) => return Err(error),
                Err(error) => self.back_off(&error).await,
            }
        }
    }

    async fn back_off(&mut self, error: &io::Error) {
        let no_fds = matches!(error.raw_os_error(), Some(NO_FDS_PROCESS | NO_FDS_SYSTEM));
        self.metrics.rejected(if no_fds { RejectReason::NoFds } else { RejectReason::AcceptFailed });
        if self.failed.is_none_or(|failed| failed.elapsed() > FAILURE_WINDOW) {
            self.delay = MIN_BACKOFF;
            tracing::error!(%error, "accepting fails; held polls are not affected");
        }
        self.failed = Some(Instant::now());
        tokio::time::sleep(self.delay).await;
        self.delay = (self.delay * 2).min(MAX_BACKOFF);
    }
}

const NO_FDS_PROCESS: i32 = rustix::io::Errno::MFILE.raw_os_error();
const NO_FDS_SYSTEM: i32 = rustix::io::Errno::NFILE.raw_os_error();

/// Whether the peer closed the connection before it was accepted. The next one may be fine.
fn is_peer_error(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// Whether the socket does not listen, or no longer: another process that shares it can shut it down.
fn is_socket_error(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errors = [Errno::INVAL, Errno::BADF, Errno::NOTSOCK].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|error| errors.contains(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::HeldPoll;

    fn tasks(one: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> JoinSet<anyhow::Result<()>> {
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending());
        tasks.spawn(one);
        tasks
    }

    #[tokio::test]
    async fn a_task_that_ends_before_the_end_is_an_error() {
        let (_phase, phases) = watch::channel(Phase::Serving);
        let panicking = tasks(async { panic!("as a test") });
        let error = until_stopped(panicking, phases.clone()).await.unwrap_err();
        assert!(format!("{error:#}").contains("as a test"), "{error:#}");
        assert!(until_stopped(tasks(async { anyhow::bail!("no more") }), phases.clone()).await.is_err());
        assert!(until_stopped(tasks(async { Ok(()) }), phases).await.is_err());
    }

    #[tokio::test]
    async fn a_task_that_leaves_its_socket_to_the_next_process_is_no_error() {
        let (phase, phases) = watch::channel(Phase::Draining);
        let mut waiting = std::pin::pin!(until_stopped(tasks(async { Ok(()) }), phases));
        assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err());
        phase.send(Phase::Stopped).unwrap();
        waiting.await.unwrap();
    }

    /// The size of a connection's future, in bytes.
    fn size<F: Future>(_: impl Fn(Arc<HttpState>, Listener, ConnectionPermit) -> F) -> usize {
        size_of::<F>()
    }

    /// Each held connection costs this much memory: the bench reports it as bytes per held connection.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_held_connection_keeps_no_more_than_this() {
        let [hold, plain, tls] =
            [size_of::<HeldPoll<'_>>(), size(serve::<ConnectionPermit>), size(serve_tls)];
        assert!(hold <= 40 && plain <= 112 && tls <= 192, "hold {hold}, plain {plain}, TLS {tls}");
    }
}

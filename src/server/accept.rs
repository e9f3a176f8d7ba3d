//! Owns accepting: one thread with its own runtime and listeners, one task per connection.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::connection_limit::{ConnectionLimiter, ConnectionPermit, PendingConnection, SilentConnections};
use super::health::{AcceptGuard, Health, Pulse};
use super::listen::Share;
use super::socket::Acceptor;
use super::tls::Tls;
use super::{Phase, memory, systemd};
use crate::address::canonical;
use crate::http::{HttpState, serve};
use crate::metrics::{Listener, Metrics, RejectReason};
use crate::transport::Connection;

/// After a failed accept the loop rests, twice as long each time, so that a full table costs no core.
const MIN_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// Failures that are no further apart than this are one trouble, and one line in the log.
const QUIET_TIME: Duration = Duration::from_secs(10);
/// How often the lag of a thread is measured.
const LAG_PACE: Duration = Duration::from_millis(250);

/// A PROXY protocol header is whole within this time, or the connection is over.
const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A handshake is over within this time, or the connection is.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// What every accept loop needs.
#[derive(Clone)]
pub(super) struct ListenerContext {
    pub(super) front: Arc<HttpState>,
    pub(super) door: Arc<ConnectionLimiter>,
    pub(super) tls: Arc<Tls>,
    /// The operators'.
    pub(super) ops_tls: Arc<Tls>,
}

/// What one serving thread does: it accepts from its listeners, until nobody is served any more. An error if one of them is
/// not accepted from any more.
pub(super) fn serve_shares(
    entrance: &ListenerContext,
    shares: Vec<Share>,
    health: &Arc<Health>,
    pulse: Pulse,
    phases: &watch::Receiver<Phase>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let metrics = entrance.front.metrics.clone();
        tasks.spawn(async move { match measure_lag(&metrics, &pulse).await {} });
        tasks.spawn(async { match memory::give_back().await {} });
        for share in shares {
            tasks.spawn(accept(share, entrance.clone(), health.accepts(), phases.clone()));
        }
        until_stopped(tasks, phases.clone()).await
    });
    // What is open now has had its goodbye: the runtime drops every connection.
    runtime.shutdown_background();
    done
}

/// Waits for the end. A task that ends before, other than to leave its listener to the next process, is an error.
async fn until_stopped(
    mut tasks: JoinSet<anyhow::Result<()>>,
    mut phases: watch::Receiver<Phase>,
) -> anyhow::Result<()> {
    let mut watched = phases.clone();
    loop {
        tokio::select! {
            // An error means that the server is gone: then this thread ends as well.
            _ = watched.wait_for(|phase| *phase == Phase::Stopped) => return Ok(()),
            Some(ended) = tasks.join_next() => {
                ended.context("a task has panicked")??;
                anyhow::ensure!(*phases.borrow_and_update() >= Phase::Draining, "a task has ended without a reason");
            }
        }
    }
}

/// Measures how late this thread wakes, for ever, and shows that it does.
async fn measure_lag(metrics: &Metrics, pulse: &Pulse) -> Infallible {
    let pace = systemd::watchdog().map_or(LAG_PACE, |time| LAG_PACE.min(time / 8));
    loop {
        pulse.beat();
        let due = Instant::now() + pace;
        tokio::time::sleep_until(due).await;
        metrics.lagged(due.elapsed());
    }
}

async fn accept(
    share: Share,
    entrance: ListenerContext,
    accepts: AcceptGuard,
    mut phases: watch::Receiver<Phase>,
) -> anyhow::Result<()> {
    let Share { listener, socket, outlives_us } = share;
    let ListenerContext { front, door, tls, .. } = entrance;
    let socket = socket.into_acceptor().context("a listener could not be served")?;
    let mut newcomers = SilentConnections::default();
    let mut accepting = AcceptLoop::new(&socket, &front.metrics);
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            _ = phases.wait_for(|phase| outlives_us && *phase >= Phase::Draining) => break,
            accepted = accepting.next() => {
                accepted.with_context(|| format!("nothing can be accepted from the {} listener", listener.text()))?
            }
        };
        let peer = canonical(peer.ip());
        if !door.is_address_known(peer) {
            continue;
        }
        let session = if socket.is_unix() { None } else { tls.session() };
        let connection = Connection::new(stream, peer, session, front.idle.clone());
        let front = front.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "owned by this thread's runtime, ends with its connection"
        )]
        if !socket.is_unix() && door.expects_proxy_header(peer) {
            let admitted = door.admit_pending(listener, connection, &mut newcomers);
            let Some(newcomer) = admitted else { continue };
            tokio::spawn(serve_proxied(front, listener, newcomer));
        } else {
            let Some(guest) = door.admit(listener, connection, &mut newcomers) else { continue };
            if guest.as_ref().is_tls() {
                tokio::spawn(serve_tls(front, listener, guest));
            } else {
                tokio::spawn(serve(front, listener, guest));
            }
        }
    }
    drop(accepts);
    Ok(())
}

/// Serves once a proxy has said whom it passes on.
async fn serve_proxied(front: Arc<HttpState>, listener: Listener, newcomer: PendingConnection) {
    let introduced = Box::pin(timeout(PROXY_HEADER_TIMEOUT, newcomer.read_proxy_header()));
    match introduced.await {
        Ok(Some(guest)) if guest.as_ref().is_tls() => serve_tls(front, listener, guest).await,
        Ok(Some(guest)) => serve(front, listener, guest).await,
        Ok(None) => {}
        Err(_) => front.metrics.rejected(RejectReason::ProxyProtocol),
    }
}

/// Serves once hands are shaken.
async fn serve_tls(front: Arc<HttpState>, listener: Listener, guest: ConnectionPermit) {
    // Boxed, so that nothing of it is left while a poll is held.
    let shaking = Box::pin(timeout(HANDSHAKE_TIMEOUT, guest.as_ref().handshake()));
    match shaking.await {
        Ok(Ok(())) => serve(front, listener, guest).await,
        Ok(Err(error)) => {
            front.metrics.rejected(RejectReason::Tls);
            tracing::debug!(%error, "a TLS handshake failed");
        }
        Err(_) => front.metrics.rejected(RejectReason::Tls),
    }
}

/// Accepts connections from one socket. After a failure it rests, and only a while without one makes the rests short again: out of
/// descriptors, each one that becomes free is taken at once, and the next accept fails again.
pub(super) struct AcceptLoop<'a> {
    socket: &'a Acceptor,
    metrics: &'a Metrics,
    rest: Duration,
    failed: Option<Instant>,
}

impl<'a> AcceptLoop<'a> {
    pub(super) fn new(socket: &'a Acceptor, metrics: &'a Metrics) -> Self {
        Self { socket, metrics, rest: MIN_BACKOFF, failed: None }
    }

    /// The next connection; failures are counted and waited out. An error is of the socket, which gives no connection again.
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
        if self.failed.is_none_or(|failed| failed.elapsed() > QUIET_TIME) {
            self.rest = MIN_BACKOFF;
            tracing::error!(%error, "accepting fails; held polls are untouched");
        }
        self.failed = Some(Instant::now());
        tokio::time::sleep(self.rest).await;
        self.rest = (self.rest * 2).min(MAX_BACKOFF);
    }
}

const NO_FDS_PROCESS: i32 = rustix::io::Errno::MFILE.raw_os_error();
const NO_FDS_SYSTEM: i32 = rustix::io::Errno::NFILE.raw_os_error();

/// The connection died in the queue: the next one may be fine.
fn is_peer_error(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// The socket is not, or no more, one that listens: whoever was handed it as well can end it for everyone.
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
        let said = until_stopped(panicking, phases.clone()).await.unwrap_err();
        assert!(format!("{said:#}").contains("as a test"), "{said:#}");
        assert!(until_stopped(tasks(async { anyhow::bail!("no more") }), phases.clone()).await.is_err());
        assert!(until_stopped(tasks(async { Ok(()) }), phases).await.is_err());
    }

    #[tokio::test]
    async fn a_listener_that_is_left_to_the_next_process_is_none() {
        let (phase, phases) = watch::channel(Phase::Draining);
        let mut waiting = std::pin::pin!(until_stopped(tasks(async { Ok(()) }), phases));
        assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err());
        phase.send(Phase::Stopped).unwrap();
        waiting.await.unwrap();
    }

    /// What the future of a connection keeps, in bytes.
    fn size<F: Future>(_: impl Fn(Arc<HttpState>, Listener, ConnectionPermit) -> F) -> usize {
        size_of::<F>()
    }

    /// Each held connection costs this: more of it shows in the bench as bytes per held connection.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_held_connection_keeps_no_more_than_this() {
        let [hold, plain, tls] =
            [size_of::<HeldPoll<'_>>(), size(serve::<ConnectionPermit>), size(serve_tls)];
        assert!(hold <= 40 && plain <= 112 && tls <= 192, "hold {hold}, plain {plain}, TLS {tls}");
    }
}

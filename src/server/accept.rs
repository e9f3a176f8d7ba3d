//! Owns accepting: one thread with its own runtime and listeners, one task per connection.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Phase;
use super::door::{Door, Guest, Newcomers};
use super::listen::Share;
use super::tls::Tls;
use crate::address::canonical;
use crate::http::{Front, serve};
use crate::metrics::{Listener, Metrics, Rejected};
use crate::transport::Connection;

/// After a failed accept the loop rests, twice as long each time, so that a full table costs no core.
const SHORTEST_REST: Duration = Duration::from_millis(10);
const LONGEST_REST: Duration = Duration::from_secs(1);
/// Failures that are no further apart than this are one trouble, and one line in the log.
const QUIET_TIME: Duration = Duration::from_secs(10);
/// How often the lag of a thread is measured.
const LAG_PACE: Duration = Duration::from_millis(250);

/// A handshake is over within this time, or the connection is.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// What every accept loop needs.
#[derive(Clone)]
pub(super) struct Entrance {
    pub(super) front: Arc<Front>,
    pub(super) door: Arc<Door>,
    pub(super) tls: Arc<Tls>,
}

/// A serving thread.
pub(super) struct Worker(JoinHandle<()>);

impl Worker {
    /// Waits for its end, after it was told to stop.
    pub(super) fn end(self) {
        if self.0.join().is_err() {
            tracing::error!("a serving thread ended with a panic");
        }
    }
}

pub(super) fn spawn_worker(
    number: usize,
    entrance: &Entrance,
    shares: Vec<Share>,
    phases: &watch::Receiver<Phase>,
) -> io::Result<Worker> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (entrance, mut phases) = (entrance.clone(), phases.clone());
    let thread = std::thread::Builder::new().name(format!("serve-{number}")).spawn(move || {
        runtime.block_on(async {
            let lag = measure_lag(entrance.front.metrics.clone());
            #[expect(clippy::disallowed_methods, reason = "ends with this thread's runtime, just below")]
            tokio::spawn(lag);
            for share in shares {
                let accepting = accept(share, entrance.clone(), phases.clone());
                #[expect(clippy::disallowed_methods, reason = "ends with this thread's runtime, just below")]
                tokio::spawn(accepting);
            }
            // An error means that the server is gone: then this thread ends as well.
            let _ = phases.wait_for(|phase| *phase == Phase::Over).await;
        });
        // What is open now has had its goodbye: the runtime drops every connection.
        runtime.shutdown_background();
    })?;
    Ok(Worker(thread))
}

/// Measures how late this thread wakes, for ever.
async fn measure_lag(metrics: Arc<Metrics>) -> Infallible {
    loop {
        let due = Instant::now() + LAG_PACE;
        tokio::time::sleep_until(due).await;
        metrics.lagged(due.elapsed());
    }
}

async fn accept(share: Share, entrance: Entrance, mut phases: watch::Receiver<Phase>) {
    let Share { listener, socket, outlives_us } = share;
    let Entrance { front, door, tls } = entrance;
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "a listener could not be served"),
    };
    let mut newcomers = Newcomers::default();
    let mut accepting = Accepting::new(&socket, &front.metrics);
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            _ = phases.wait_for(|phase| outlives_us && *phase >= Phase::Leaving) => return,
            accepted = accepting.next() => accepted,
        };
        let peer = canonical(peer.ip());
        if !door.knows(peer) {
            continue;
        }
        let connection = Connection::new(stream, peer, tls.session());
        let Some(guest) = door.admit(listener, connection, &mut newcomers) else { continue };
        let front = front.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "owned by this thread's runtime, ends with its connection"
        )]
        if guest.as_ref().is_tls() {
            tokio::spawn(serve_secretly(front, listener, guest));
        } else {
            tokio::spawn(serve(front, listener, guest));
        }
    }
}

/// Serves once hands are shaken.
async fn serve_secretly(front: Arc<Front>, listener: Listener, guest: Guest) {
    // Boxed, so that nothing of it is left while a poll is held.
    let shaking = Box::pin(timeout(HANDSHAKE_TIME, guest.as_ref().shake_hands()));
    match shaking.await {
        Ok(Ok(())) => serve(front, listener, guest).await,
        Ok(Err(error)) => {
            front.metrics.rejected(Rejected::Tls);
            tracing::debug!(%error, "a TLS handshake failed");
        }
        Err(_) => front.metrics.rejected(Rejected::Tls),
    }
}

/// Accepts from one socket. After a failure it rests, and only a while without one makes the rests short again: out of
/// descriptors, each one that becomes free is taken at once, and the next accept fails again.
pub(super) struct Accepting<'a> {
    socket: &'a TcpListener,
    metrics: &'a Metrics,
    rest: Duration,
    failed: Option<Instant>,
}

impl<'a> Accepting<'a> {
    pub(super) fn new(socket: &'a TcpListener, metrics: &'a Metrics) -> Self {
        Self { socket, metrics, rest: SHORTEST_REST, failed: None }
    }

    /// The next connection; failures are counted and waited out.
    pub(super) async fn next(&mut self) -> (TcpStream, std::net::SocketAddr) {
        loop {
            match self.socket.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => self.rest_after(&error).await,
            }
        }
    }

    async fn rest_after(&mut self, error: &io::Error) {
        let no_fds = matches!(error.raw_os_error(), Some(NO_FDS_PROCESS | NO_FDS_SYSTEM));
        self.metrics.rejected(if no_fds { Rejected::NoFds } else { Rejected::AcceptFailed });
        if self.failed.is_none_or(|failed| failed.elapsed() > QUIET_TIME) {
            self.rest = SHORTEST_REST;
            tracing::error!(%error, "accepting fails; held polls are untouched");
        }
        self.failed = Some(Instant::now());
        tokio::time::sleep(self.rest).await;
        self.rest = (self.rest * 2).min(LONGEST_REST);
    }
}

const NO_FDS_PROCESS: i32 = rustix::io::Errno::MFILE.raw_os_error();
const NO_FDS_SYSTEM: i32 = rustix::io::Errno::NFILE.raw_os_error();

/// The connection died in the queue: the next one may be fine.
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

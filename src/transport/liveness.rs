//! Owns the check whether the peer of a held connection is alive: its kernel's acknowledgements, and TCP keepalive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::connection::Connection;
use super::socket::TcpInfo;

/// After this much silence, the kernel sends a keepalive probe.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// The same while an answer is urgent; the shortest time that Linux accepts.
const URGENT_KEEPALIVE_IDLE: Duration = Duration::from_secs(1);

/// After this long without an acknowledgement of what was sent, a connection is over (`TCP_USER_TIMEOUT`).
pub const UNACKED_TIMEOUT: Duration = Duration::from_secs(20);
/// How often it is checked whether a slow reader's machine acknowledges what is sent to it.
const SLOW_READER_CHECK: Duration = Duration::from_secs(2);

/// A peer that may leave its window full for long, until this is dropped. Otherwise the kernel ends a connection whose window is full for
/// [`UNACKED_TIMEOUT`], although the peer's machine is alive.
pub struct SlowReader<'a> {
    connection: &'a Connection,
    /// For how long a window may be full.
    longest: Duration,
    /// Whether the kernel knows. Most peers have read everything long before that matters.
    is_set: AtomicBool,
}

impl<'a> SlowReader<'a> {
    /// A window may be full for this long.
    pub fn new(connection: &'a Connection, longest: Duration) -> Self {
        Self { connection, longest: longest.max(UNACKED_TIMEOUT), is_set: AtomicBool::new(false) }
    }

    /// Returns when the peer's machine has vanished: for a while it has acknowledged neither what was sent within its window nor, on an
    /// idle connection, any keepalive probe. With a full window, probes become rare: then nothing is known.
    pub async fn vanished(&self) {
        let has_vanished = |info: TcpInfo| {
            let has_full_window = info.in_flight == 0 && info.unsent > 0;
            !has_full_window && info.last_ack >= UNACKED_TIMEOUT
        };
        loop {
            tokio::time::sleep(SLOW_READER_CHECK).await;
            if !self.is_set.swap(true, Ordering::Relaxed) {
                self.connection.set_user_timeout(self.longest);
            }
            if self.connection.tcp_info().is_some_and(has_vanished) {
                return;
            }
        }
    }
}

impl Drop for SlowReader<'_> {
    fn drop(&mut self) {
        if self.is_set.load(Ordering::Relaxed) {
            self.connection.set_user_timeout(UNACKED_TIMEOUT);
        }
    }
}

/// Watches the peer of a connection without keeping the connection open.
pub struct Liveness {
    connection: Weak<Connection>,
    is_urgent: AtomicBool,
}

impl Liveness {
    pub(super) fn new(connection: &Arc<Connection>) -> Self {
        Self { connection: Arc::downgrade(connection), is_urgent: AtomicBool::new(false) }
    }

    /// Makes the kernel send a keepalive probe, at once if the peer was silent for a second. Undone when this is dropped.
    pub fn send_keepalive_probe(&self) {
        if let Some(connection) = self.connection.upgrade() {
            connection.set_keepalive_idle(URGENT_KEEPALIVE_IDLE);
            self.is_urgent.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the peer's kernel has acknowledged anything within this time.
    pub fn acked_within(&self, time: Duration) -> bool {
        let info = self.connection.upgrade().and_then(|connection| connection.tcp_info());
        info.is_some_and(|info| info.last_ack < time)
    }
}

impl Drop for Liveness {
    fn drop(&mut self) {
        if self.is_urgent.load(Ordering::Relaxed)
            && let Some(connection) = self.connection.upgrade()
        {
            connection.set_keepalive_idle(KEEPALIVE_IDLE);
        }
    }
}

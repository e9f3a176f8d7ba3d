//! Owns the check whether the peer of a held connection is alive: its kernel's acknowledgements, and TCP keepalive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::connection::Connection;

/// After this much silence, the kernel sends a keepalive probe.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// The same while an answer is urgent; the shortest time that Linux accepts.
const URGENT_KEEPALIVE_IDLE: Duration = Duration::from_secs(1);

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

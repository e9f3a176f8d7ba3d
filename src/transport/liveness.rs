//! Owns the signs of life of a held connection: whether its peer's kernel answers, and how to ask it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Connection;

/// A connection without a word for so long is asked whether its peer is still there.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);

/// Shows whether the machine at the other end lives, for as long as the connection does; keeps nothing open.
pub struct Liveness {
    connection: Weak<Connection>,
    asked: AtomicBool,
}

impl Liveness {
    pub(super) fn of(connection: &Arc<Connection>) -> Self {
        Self { connection: Arc::downgrade(connection), asked: AtomicBool::new(false) }
    }

    /// Has the kernel ask the peer's for an acknowledgement, at once if nothing was heard for a second.
    pub fn send_keepalive_probe(&self) {
        if let Some(connection) = self.connection.upgrade() {
            connection.set_keepalive_idle(Duration::from_secs(1));
            self.asked.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the peer's kernel has acknowledged anything within this time.
    pub fn acked_within(&self, time: Duration) -> bool {
        let peer = self.connection.upgrade().and_then(|connection| connection.tcp_info());
        peer.is_some_and(|peer| peer.last_ack < time)
    }
}

impl Drop for Liveness {
    fn drop(&mut self) {
        if self.asked.load(Ordering::Relaxed)
            && let Some(connection) = self.connection.upgrade()
        {
            connection.set_keepalive_idle(KEEPALIVE_IDLE);
        }
    }
}

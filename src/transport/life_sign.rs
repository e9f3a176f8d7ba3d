//! Owns the signs of life of a held connection: whether its peer's kernel answers, and how to ask it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Connection;

/// A connection without a word for so long is asked whether its peer is still there.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);

/// Shows whether the machine at the other end lives, for as long as the connection does; keeps nothing open.
pub struct LifeSign {
    connection: Weak<Connection>,
    asked: AtomicBool,
}

impl LifeSign {
    pub(super) fn of(connection: &Arc<Connection>) -> Self {
        Self { connection: Arc::downgrade(connection), asked: AtomicBool::new(false) }
    }

    /// Has the kernel ask the peer's for an acknowledgement, at once if nothing was heard for a second.
    pub fn ask(&self) {
        if let Some(connection) = self.connection.upgrade() {
            connection.probe_after(Duration::from_secs(1));
            self.asked.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the peer's kernel has acknowledged anything within this time.
    pub fn heard_within(&self, time: Duration) -> bool {
        let peer = self.connection.upgrade().and_then(|connection| connection.peer());
        peer.is_some_and(|peer| peer.last_ack < time)
    }
}

impl Drop for LifeSign {
    fn drop(&mut self) {
        if self.asked.load(Ordering::Relaxed)
            && let Some(connection) = self.connection.upgrade()
        {
            connection.probe_after(KEEPALIVE_IDLE);
        }
    }
}

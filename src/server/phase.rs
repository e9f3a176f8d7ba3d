//! Owns the phases of the server's life, and the signals that the process sends to it.

use crate::config::Settings;

/// The phases that the serving threads distinguish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// All listeners accept connections.
    Serving,
    /// Sockets that outlive this process are not accepted from: new connections wait there for the next process.
    Draining,
    /// The threads drop their connections and end.
    Stopped,
}

/// A signal from the process to its server.
#[derive(Debug)]
pub enum Signal {
    /// Drain and end. A second one ends at once.
    End,
    /// The settings have been read again, with this result.
    Reload(anyhow::Result<Box<Settings>>),
}

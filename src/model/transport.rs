//! Owns the ways in which a waiter can be held.

use super::closed_enum;

closed_enum! {
    /// What holds a waiter.
    Transport {
        /// A held GET.
        Poll = "poll",
        /// A slot of a WebSocket.
        WebSocket = "websocket",
        /// A slot of a stream of server-sent events.
        EventStream = "sse",
    }
}

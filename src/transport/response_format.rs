//! Owns the interface by which a dialect renders what is written to a waiter: a run, or the end of its poll.

use std::borrow::Cow;

use super::delivery::Run;

/// Renders one dialect's responses. The statuses in them are the dialect's decision.
#[derive(Debug)]
pub struct ResponseFormat {
    /// Appends the head of the response that carries a run; the payload follows it in the same write. With `keep_alive`, the
    /// connection stays open, and the head announces for how many seconds it may be idle.
    pub head: fn(run: &Run, keep_alive: Option<u64>, head: &mut Vec<u8>),
    /// Renders the response to a poll that ends without a run; `keep_alive` as above.
    pub close_response: fn(reason: CloseReason<'_>, keep_alive: Option<u64>) -> CloseResponse,
}

/// The response to a poll that ends without a run.
#[derive(Debug, Clone)]
pub struct CloseResponse {
    /// The whole response; if empty, the connection is closed without one.
    pub bytes: Cow<'static, [u8]>,
    /// Whether the connection may carry another request afterwards.
    pub reusable: bool,
}

/// Why a poll ends without a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason<'a> {
    /// Its timeout has passed.
    Expired,
    /// The broker is draining: the controller should poll elsewhere.
    Drained {
        /// The origin at which it should; None for the same one.
        redirect_to: Option<&'a str>,
    },
    /// An operator has retired the controller: it should not poll again.
    Retired,
    /// The same controller polls on a newer connection.
    Replaced,
}

//! Owns what a reply says of itself before its body.

use hyper::header::HeaderValue;

/// The head of a reply, or of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::commands::worker) struct ReplyHead {
    pub(in crate::commands::worker) content_type: HeaderValue,
    /// The value of [`LOG_TAIL`](crate::lambda::LOG_TAIL).
    pub(in crate::commands::worker) log_tail: Option<HeaderValue>,
    /// The names of the trailers that may follow the body.
    pub(in crate::commands::worker) trailers: Option<&'static str>,
}

impl ReplyHead {
    pub(in crate::commands::worker) fn new(content_type: HeaderValue) -> Self {
        Self { content_type, log_tail: None, trailers: None }
    }
}

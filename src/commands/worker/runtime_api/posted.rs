//! Owns what a program posts about an event.

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use tokio::sync::oneshot;

/// The type of an error: a field of a request, or a trailer.
pub(super) const ERROR_TYPE: &str = "lambda-runtime-function-error-type";

/// A request that answers an event. It is answered when this is accepted, refused or dropped: with the same answer, because
/// a program ends on any other.
pub(super) struct Posted {
    pub(super) kind: PostedKind,
    pub(super) body: Incoming,
    /// Gets what is left of the body, which has to be read before the answer.
    answered: oneshot::Sender<Option<Incoming>>,
}

/// What an event is answered with.
pub(super) enum PostedKind {
    Response {
        content_type: Option<HeaderValue>,
        /// Whether it is to be passed on as it comes.
        is_streamed: bool,
    },
    Error {
        /// As the header says.
        kind: Option<String>,
    },
}

impl Posted {
    /// Returns it with what its connection waits for: the rest of the body, if there is one.
    pub(super) fn new(kind: PostedKind, body: Incoming) -> (Self, oneshot::Receiver<Option<Incoming>>) {
        let (answered, rest) = oneshot::channel();
        (Self { kind, body, answered }, rest)
    }

    /// The rest of the body is not needed.
    pub(super) fn refuse(self) {
        let Self { body, answered, .. } = self;
        // An error means that the connection has ended.
        let _ = answered.send(Some(body));
    }
}

//! Owns the name that a POST may give its run, and by what the POST is known if it comes again.

use std::borrow::Cow;

use bytes::Bytes;

use super::interface::PoolKey;
use crate::dispatch::IdempotencyKey;
use crate::exchange::ContentHash;
use crate::http::state::HttpState;

/// The name of a run.
pub(super) struct RunName<'a> {
    pub(super) run: Cow<'a, str>,
    /// None for a name that nobody has given: each such POST is a run of its own.
    pub(super) idempotency_key: Option<IdempotencyKey>,
    pub(super) content: ContentHash,
}

impl<'a> RunName<'a> {
    /// The given name, or a random one if that is empty.
    pub(super) fn new(
        state: &HttpState,
        given: &'a str,
        key: Option<&PoolKey<'_>>,
        payload: &Bytes,
        random: impl FnOnce() -> String,
    ) -> Self {
        if given.is_empty() {
            return Self { run: random().into(), idempotency_key: None, content: None };
        }
        let idempotency_key = key.map(|key| state.dispatcher.idempotency_key(given, "", key.as_ref()));
        Self { run: given.into(), idempotency_key, content: state.dispatcher.content_hash(payload) }
    }
}

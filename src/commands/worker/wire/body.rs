//! Owns the bodies of a worker's requests.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use thiserror::Error;

use crate::commands::client::Connection;

/// Ends a body before its end, which breaks the connection.
#[derive(Debug, Error)]
#[error("the reply was broken off")]
pub(in crate::commands::worker) struct Broken;

pub(in crate::commands::worker) type WorkerBody = UnsyncBoxBody<Bytes, Broken>;

/// A connection to a broker. Polls and replies take turns on it.
pub(in crate::commands::worker) type WorkerConnection = Connection<WorkerBody>;

/// A body that is here already.
pub(super) fn whole(bytes: Bytes) -> WorkerBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

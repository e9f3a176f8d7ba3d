//! Owns what a worker must know of the caller that it answers, and in which style callers are answered.

use std::sync::Arc;

use crate::transport::Connection;

/// How the response to a caller is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ResponseStyle {
    /// As the broker's own dialect: the status says how the run went.
    #[default]
    Native,
    /// As AWS Lambda's Invoke: 200, and a field says whether the function has failed.
    Invoke,
    /// As AWS Lambda's `InvokeWithResponseStream`: 200 and a stream of events, the last of which says whether the function has failed.
    InvokeStream,
}

/// What a caller gets of a reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplyForm {
    /// How the response is written.
    pub style: ResponseStyle,
    /// Whether it has the end of the worker's log, if the worker sends that.
    pub wants_log: bool,
}

/// What a worker must know of the caller to answer it.
pub struct Caller {
    /// Its connection, on which nobody else writes until the reply has ended.
    pub connection: Arc<Connection>,
    /// Whether it reads chunks.
    pub is_http_11: bool,
    /// Whether the connection ends with the response.
    pub closes: bool,
    /// Fields of the response's head, each after a line break.
    pub fields: Vec<u8>,
}

//! Owns what a worker must know of the caller that it answers.

use std::sync::Arc;

use crate::transport::Connection;

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

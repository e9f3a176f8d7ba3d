//! Owns reading more of a request from its connection, by a deadline.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::time::{Instant, timeout_at};

use super::validate::MAX_HEAD_BYTES;
use crate::transport::Connection;

/// Reads the beginning of the next request on a connection that is idle until then. `Break` if the connection has ended, or
/// was idle for too long.
pub(in crate::http) async fn read_idle(
    connection: &Arc<Connection>,
    buffer: &mut BytesMut,
) -> ControlFlow<()> {
    match connection.read_idle(buffer).await {
        Ok(1..) => ControlFlow::Continue(()),
        Ok(_) | Err(_) => ControlFlow::Break(()),
    }
}

/// Reads what comes until the deadline. `Break` if nothing came, or the connection has ended.
pub(in crate::http) async fn read_more(
    connection: &Connection,
    buffer: &mut BytesMut,
    deadline: Instant,
) -> ControlFlow<()> {
    match timeout_at(deadline, connection.read(buffer)).await {
        Ok(Ok(1..)) => ControlFlow::Continue(()),
        Ok(_) | Err(_) => ControlFlow::Break(()),
    }
}

/// Reads more of a partial head, until parsing it again can give another result.
///
/// After the first line only the end of a line changes the result, so a head that arrives byte by byte is parsed once per
/// line, not once per byte.
pub(in crate::http) async fn read_line(
    connection: &Connection,
    buffer: &mut BytesMut,
    deadline: Instant,
) -> ControlFlow<()> {
    loop {
        let known = buffer.len();
        read_more(connection, buffer, deadline).await?;
        let is_first_line = !buffer[..known].contains(&b'\n');
        if is_first_line || buffer[known..].contains(&b'\n') || buffer.len() > MAX_HEAD_BYTES {
            return ControlFlow::Continue(());
        }
    }
}

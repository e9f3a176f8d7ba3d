//! Owns writing a response to its connection, and the end of a connection that the response closes.

use std::io::{self, IoSlice};
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, timeout};

use super::read::read_more;
use crate::http::response::HttpResponse;
use crate::transport::{Connection, with_write_buffer};

/// The client must take a response within this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// After a closing response, keep reading for this long and this much, so that a reset does not overtake it.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;
/// The same for a response whose client must be able to send its whole body.
const READ_BODY_TIME: Duration = Duration::from_secs(10);
const READ_BODY_BYTES: usize = 32 * 1024 * 1024;
/// A client that is cut off has this long to read the response.
const CUT_OFF_AFTER: Duration = Duration::from_millis(100);

/// Writes a response. `Break` if the connection is over with it.
pub(in crate::http) async fn write_response(
    connection: &Connection,
    response: &HttpResponse,
) -> ControlFlow<()> {
    let is_written = match write_now(connection, response) {
        Ok(rest) if rest.is_empty() => true,
        Ok(rest) => {
            timeout(WRITE_TIMEOUT, connection.write_all(&rest)).await.is_ok_and(|written| written.is_ok())
        }
        Err(_) => false,
    };
    if is_written && !response.close { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

/// Writes as much of a response as the kernel takes now, which is nearly always all of it, and returns the rest.
fn write_now(connection: &Connection, response: &HttpResponse) -> io::Result<Vec<u8>> {
    with_write_buffer(|bytes| {
        response.write(connection.keep_alive_seconds(), bytes);
        let written = connection.write_now(&[IoSlice::new(bytes)])?;
        Ok(bytes[written..].to_vec())
    })
}

/// Writes a response that closes the connection, to a client that may never read it. The connection is reset soon after: a client
/// that only writes hears nothing else.
pub(in crate::http) async fn write_and_cut_off(connection: &Connection, response: &HttpResponse) {
    let _ = write_response(connection, response).await;
    connection.shutdown_write();
    let deadline = Instant::now() + CUT_OFF_AFTER;
    let mut bytes = BytesMut::new();
    while read_more(connection, &mut bytes, deadline).await.is_continue() {
        bytes.clear();
    }
    connection.reset();
}

/// Writes a response to a client that may still be sending. If the response closes the connection, what comes is read and
/// discarded for a moment: closing a socket with unread bytes sends a reset, which can overtake the response.
pub(in crate::http) async fn write_and_linger(
    connection: &Connection,
    response: HttpResponse,
) -> ControlFlow<()> {
    let closes = response.close;
    let (time, most) =
        if response.reads_body { (READ_BODY_TIME, READ_BODY_BYTES) } else { (LINGER_TIME, LINGER_BYTES) };
    let written = write_response(connection, &response).await;
    // Its record is complete now, and nothing of its request is needed any more.
    drop(response);
    if closes {
        connection.shutdown_write();
        let deadline = Instant::now() + time;
        let mut discarded = 0;
        let mut bytes = BytesMut::new();
        while discarded < most {
            bytes.clear();
            read_more(connection, &mut bytes, deadline).await?;
            discarded += bytes.len();
        }
    }
    written
}

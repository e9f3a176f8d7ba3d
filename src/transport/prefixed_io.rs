//! Owns a connection as hyper reads and writes it, beginning with bytes that were read before.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Connection;

/// A connection whose reader gets a prefix first.
pub struct PrefixedIo {
    prefix: Bytes,
    connection: Arc<Connection>,
}

impl PrefixedIo {
    /// A connection from which `prefix` has been read already.
    pub fn new(connection: Arc<Connection>, prefix: Bytes) -> Self {
        Self { prefix, connection }
    }

    /// The rest of the prefix, which was not read.
    pub fn into_unread(self) -> Bytes {
        self.prefix
    }
}

impl AsyncRead for PrefixedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let length = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let capacity = buf.remaining();
        loop {
            ready!(self.connection.poll_read_ready(cx))?;
            match self.connection.read_into(buf, capacity) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done.map(drop)),
            }
        }
    }
}

impl AsyncWrite for PrefixedIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.connection.poll_write_ready(cx))?;
            match self.connection.write_now(bufs) {
                Ok(0) if bufs.iter().any(|buf| !buf.is_empty()) => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.shutdown_write();
        Poll::Ready(Ok(()))
    }
}

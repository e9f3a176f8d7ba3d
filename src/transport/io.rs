//! Owns a connection as hyper reads and writes it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Connection;

/// The connection as hyper reads and writes it.
pub struct Io {
    connection: Arc<Connection>,
    unread: Bytes,
}

impl Io {
    /// With what has been read already.
    pub fn new(connection: Arc<Connection>, begun: Bytes) -> Self {
        Self { connection, unread: begun }
    }

    /// What has been read already and was not asked for.
    pub fn into_unread(self) -> Bytes {
        self.unread
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let now = self.unread.len().min(buf.remaining());
            buf.put_slice(&self.unread.split_to(now));
            return Poll::Ready(Ok(()));
        }
        let room = buf.remaining();
        loop {
            ready!(self.connection.poll_read_ready(cx))?;
            match self.connection.read_into(buf, room) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Io {
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

//! Owns the probe of a connection: whether there are bytes, a `close_notify`, an EOF or a reset to read, without reading.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::RecvFlags;
use tokio::io::Interest;

use super::connection::Connection;
use super::flags::Flag;
use super::proof::ReadState;
use super::socket::{self, TcpState};

/// How often the state of a connection is checked where no event announces its end.
const CLOSED_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// A way to check the read side.
pub(super) type Probe = fn(&Connection) -> ReadState;

impl Connection {
    /// Waits until the peer has closed its side, or the connection is broken.
    pub async fn closed(&self) {
        if !matches!(
            poll_fn(|cx| self.poll_probe(cx)).await,
            ReadState::CloseNotify | ReadState::Eof | ReadState::Error
        ) {
            // Unread bytes hide the EOF behind them from every probe. The state of the connection shows it.
            while socket::is_peer_open(&self.stream) {
                tokio::time::sleep(CLOSED_CHECK_INTERVAL).await;
            }
        }
    }

    /// Checks the read side by a system call, without waiting and without taking a byte from it. For the connection's own task, and
    /// where the connection ends if there is anything.
    pub(super) fn probe(&self) -> ReadState {
        let Some(tls) = &self.tls else { return self.probe_socket() };
        match (tls.probe(&self.stream), self.probe_socket()) {
            (ReadState::CloseNotify, ReadState::Idle) => ReadState::CloseNotify,
            (ReadState::CloseNotify | ReadState::Eof, socket) => socket,
            (state @ (ReadState::Idle | ReadState::Data | ReadState::Error), _) => state,
        }
    }

    /// The same beside a task that goes on reading: without the TLS session, into which a probe reads what has come. That task would
    /// not be woken for it.
    pub(super) fn probe_socket(&self) -> ReadState {
        match rustix::net::recv(&self.stream, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) if self.is_clean_eof() => ReadState::Eof,
            Ok((0, _)) => ReadState::Error,
            Ok(_) => ReadState::Data,
            Err(rustix::io::Errno::AGAIN) => ReadState::Idle,
            Err(_) => ReadState::Error,
        }
    }

    /// Distinguishes a clean EOF from one after a reset. The kernel reports a reset as an error to the first call only, from
    /// any task; from then on it reads as EOF, too. `TCP_INFO` distinguishes them while one side is open. Once both sides
    /// are closed, its state is the same after a reset; but then a clean close shows by the peer's FIN, which counts as a
    /// received byte that is never read, and by the acknowledgement of ours.
    fn is_clean_eof(&self) -> bool {
        let Some(info) = self.tcp_info() else { return true };
        match info.state {
            TcpState::PeerClosed => true,
            TcpState::Closed => {
                let read = self.bytes_read.load(Ordering::Relaxed);
                let read = read.wrapping_add(self.tls.as_ref().map_or(0, |tls| tls.bytes_read()));
                let has_fin = info.received.wrapping_sub(read) == 1;
                has_fin && self.flags.has(Flag::WriteShutdown) && self.unacked() == 0
            }
            TcpState::Other => false,
        }
    }

    /// Waits until a probe shows anything but [`ReadState::Idle`].
    pub(super) fn poll_probe(&self, cx: &mut Context<'_>) -> Poll<ReadState> {
        loop {
            if ready!(self.poll_read_ready(cx)).is_err() {
                return Poll::Ready(ReadState::Error);
            }
            let state = self.probe_and_clear(Self::probe);
            if state != ReadState::Idle {
                return Poll::Ready(state);
            }
        }
    }

    /// Waits until the socket itself shows bytes, EOF or an error, by this probe; for a second task, beside the connection's own.
    /// False if the runtime can report nothing more.
    pub(super) async fn activity(&self, probe: Probe) -> bool {
        // A close_notify does not count: the socket's own end follows it.
        while self.stream.readable().await.is_ok() {
            if !matches!(self.probe_and_clear(probe), ReadState::Idle | ReadState::CloseNotify) {
                return true;
            }
        }
        false
    }

    /// Probes inside `try_io`, which clears the readiness if there is nothing to read, so that the next wait sleeps.
    fn probe_and_clear(&self, probe: Probe) -> ReadState {
        let mut probed = None;
        let _ = self.stream.try_io(Interest::READABLE, || {
            let state = probe(self);
            probed = Some(state);
            match state {
                ReadState::Idle | ReadState::CloseNotify => Err(io::ErrorKind::WouldBlock.into()),
                ReadState::Data | ReadState::Eof | ReadState::Error => Ok(()),
            }
        });
        // Without readiness `try_io` does not call the closure, but the TLS session may have something buffered.
        probed.unwrap_or_else(|| if self.has_buffered() { probe(self) } else { ReadState::Idle })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use bytes::BytesMut;

    use super::*;
    use crate::transport::connection::IdleConnections;
    use crate::transport::idle::Idle;
    use crate::transport::tls::tests::{Peer, tls_session};

    /// A connection after its handshake, with its peer.
    pub(in crate::transport) async fn tls_connection() -> (Arc<Connection>, Peer) {
        let (stream, session, peer) = tls_session().await;
        let address = stream.peer_addr().unwrap().ip();
        let idle = Arc::<IdleConnections>::default();
        (Arc::new(Connection::new(stream, address, Some(session), idle)), peer)
    }

    #[tokio::test]
    async fn the_idle_timeout_leaves_what_has_just_come_to_its_connection() {
        let (connection, mut peer) = tls_connection().await;
        let reader = connection.clone();
        #[expect(clippy::disallowed_methods, reason = "awaited below")]
        let read = tokio::spawn(async move { reader.read_idle(&mut BytesMut::new()).await });
        tokio::task::yield_now().await;
        let since = connection.idle_since().expect("nothing has come yet");
        // Nothing has polled for events yet when the idle timeout meets this.
        peer.write_all(b"next").unwrap();
        assert!(!connection.close_idle(since));
        let read = tokio::time::timeout(Duration::from_secs(5), read).await;
        assert_eq!(read.expect("the request has to wake its connection").unwrap().unwrap(), 4);
    }
}

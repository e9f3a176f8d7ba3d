//! Owns one accepted socket, which its reader, the hold and the dispatch share in turns.
//!
//! ```text
//! reader ─GET parks──► hold ──taken──► dispatch ──reuse──► reader (with the next bytes)
//!                        │                └──────close──► gone
//!                        └─ controller gone ─────────────► gone
//! ```

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rustix::net::{RecvFlags, Shutdown};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;

use super::flags::{Flag, Flags};
use super::handover::Handover;
use super::idle::{IdleConnections, IdleEntry};
use super::origin::Origin;
use super::proof::ReadState;
use super::socket::{self, TcpInfo, TcpState};
use super::tls::TlsSession;

/// A usual request fits into one read of this size.
const READ_BYTES: usize = 4096;
/// How often the state of a connection is asked for where no event tells of its end.
const FIN_REORDER_TIME: Duration = Duration::from_millis(50);

/// An accepted socket with what its hold and its dispatch tell each other.
pub struct Connection {
    stream: TcpStream,
    tls: Option<Box<TlsSession>>,
    origin: Origin,
    flags: Flags,
    /// Bytes read from the socket, modulo 2^32; those of TLS are counted there.
    read: AtomicU32,
    /// What the hold is told by whoever took the waiter out.
    pub(super) handover: Handover,
    pub(super) idle_entry: IdleEntry,
    /// Where it stands while it rests.
    pub(super) idle: Arc<IdleConnections>,
}

impl Connection {
    /// Takes over an accepted socket of a peer with this canonical address. With `tls`, hands have to be shaken before anything else.
    pub fn new(
        stream: TcpStream,
        origin: IpAddr,
        tls: Option<TlsSession>,
        idle: Arc<IdleConnections>,
    ) -> Self {
        Self {
            stream,
            tls: tls.map(Box::new),
            origin: Origin::new(origin),
            flags: Flags::new(),
            read: AtomicU32::new(0),
            handover: Handover::new(),
            idle_entry: IdleEntry::default(),
            idle,
        }
    }

    /// The canonical address of the peer, or of the client that a PROXY protocol header has named; the unspecified one if it
    /// has named nobody.
    pub fn origin(&self) -> IpAddr {
        self.origin.address()
    }

    /// Whether a relay in between has passed its client on: what it reads is not yet read by the client.
    pub(super) fn is_relayed(&self) -> bool {
        self.flags.has(Flag::IsRelayed)
    }

    /// Reads the PROXY protocol header that comes before anything else, and nothing behind it. `InvalidData` if there is no
    /// valid one. Bounded in time by the caller.
    pub async fn read_proxy_header(&self) -> io::Result<()> {
        let (read, passes_on) = self.origin.read(&self.stream).await?;
        self.read.fetch_add(modulo(read), Ordering::Relaxed);
        if passes_on {
            self.flags.set(Flag::IsRelayed);
        }
        Ok(())
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether the peer has sent anything that was read.
    pub fn has_received(&self) -> bool {
        self.flags.has(Flag::HasReceived)
    }

    /// Shakes hands where there is TLS. Bounded in time by the caller.
    pub async fn handshake(&self) -> io::Result<()> {
        match &self.tls {
            Some(tls) => tls.handshake(&self.stream).await,
            None => Ok(()),
        }
    }

    /// Reads what is there, waiting for something to be; 0 is the end. Nothing is allocated for the wait.
    pub async fn read(&self, buf: &mut BytesMut) -> io::Result<usize> {
        loop {
            // Of itself the wait takes no part in the runtime's budget: a peer that always has more would keep this thread.
            consume_budget().await;
            self.readable().await?;
            match self.read_now(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    /// Reads what is there; `WouldBlock` if nothing is.
    pub fn read_now(&self, buf: &mut BytesMut) -> io::Result<usize> {
        buf.reserve(READ_BYTES);
        let room = buf.capacity() - buf.len();
        self.read_into(buf, room)
    }

    /// The one place where bytes come from the peer.
    pub(super) fn read_into(&self, buf: &mut impl BufMut, room: usize) -> io::Result<usize> {
        let read = match &self.tls {
            Some(tls) => tls.read(&self.stream, buf)?,
            None => self.stream.try_read_buf(buf)?,
        };
        if read > 0 {
            self.flags.set(Flag::HasReceived);
        }
        if self.tls.is_some() {
            return Ok(read);
        }
        self.read.fetch_add(modulo(read), Ordering::Relaxed);
        if 0 < read && read < room {
            // A short read emptied the socket. Saying so saves the next wait a call that would block.
            let _ = self.stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
        Ok(read)
    }

    /// Whether TLS has something to be read that the socket will not tell of.
    fn has_buffered(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_buffered())
    }

    /// Whether more may be read without waiting, as far as is known without a call.
    pub fn may_have_more(&self) -> bool {
        self.has_buffered() || self.stream.try_io(Interest::READABLE, || Ok(())).is_ok()
    }

    async fn readable(&self) -> io::Result<()> {
        if self.has_buffered() { Ok(()) } else { self.stream.readable().await }
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_buffered() { Poll::Ready(Ok(())) } else { self.stream.poll_read_ready(cx) }
    }

    /// Writes all of it, waiting for the peer to take it.
    pub async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            bytes = &bytes[self.write_now(&[IoSlice::new(bytes)])?..];
            if bytes.is_empty() {
                return Ok(());
            }
            self.writable().await?;
        }
    }

    /// Waits until the peer has ended its side, or the connection is broken.
    pub async fn closed(&self) {
        if !matches!(
            poll_fn(|cx| self.poll_probe(cx)).await,
            ReadState::CloseNotify | ReadState::Eof | ReadState::Error
        ) {
            // Bytes stand before an end, which no look at them can see; the state of the connection tells.
            while socket::is_open(&self.stream) {
                tokio::time::sleep(FIN_REORDER_TIME).await;
            }
        }
    }

    /// How long it may rest between two requests.
    pub fn idle_timeout(&self) -> Duration {
        self.idle.timeout()
    }

    /// What its client is told of that, in whole seconds.
    pub fn keep_alive_seconds(&self) -> u64 {
        self.idle.keep_alive_seconds()
    }

    /// Ends a rest that has lasted too long; false if something has come meanwhile.
    pub(super) fn close_idle(&self, since: u32) -> bool {
        let ends = self.probe() == ReadState::Idle && self.handover.claim_idle(since);
        if ends {
            self.shutdown();
        }
        ends
    }

    /// Looks at the socket itself, without waiting and without taking a byte.
    pub(super) fn probe(&self) -> ReadState {
        let Some(tls) = &self.tls else { return self.probe_socket() };
        match (tls.probe(&self.stream), self.probe_socket()) {
            (ReadState::CloseNotify, ReadState::Idle) => ReadState::CloseNotify,
            (ReadState::CloseNotify | ReadState::Eof, socket) => socket,
            (said @ (ReadState::Idle | ReadState::Data | ReadState::Error), _) => said,
        }
    }

    fn probe_socket(&self) -> ReadState {
        match rustix::net::recv(&self.stream, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) if self.has_ended_cleanly() => ReadState::Eof,
            Ok((0, _)) => ReadState::Error,
            Ok(_) => ReadState::Data,
            Err(rustix::io::Errno::AGAIN) => ReadState::Idle,
            Err(_) => ReadState::Error,
        }
    }

    /// Tells a clean end from a reset, which reads as an error only once, and whoever looks first takes it; from then on
    /// both read alike. After ends of both sides the state is that after a reset, too: but then the peer's end has come,
    /// which counts as a byte that nobody reads, and ours is acknowledged.
    fn has_ended_cleanly(&self) -> bool {
        let Some(peer) = self.tcp_info() else { return true };
        match peer.state {
            TcpState::PeerClosed => true,
            TcpState::Closed => {
                let read = self.read.load(Ordering::Relaxed);
                let read = read.wrapping_add(self.tls.as_ref().map_or(0, |tls| tls.bytes_read()));
                let has_end = peer.received.wrapping_sub(read) == 1;
                has_end && self.flags.has(Flag::WriteShutdown) && self.unacked() == 0
            }
            TcpState::Other => false,
        }
    }

    /// Waits until there is something to read, be it the end.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_read_ready(cx).map(drop)
    }

    /// Waits until a look shows something other than an open, quiet socket.
    pub(super) fn poll_probe(&self, cx: &mut Context<'_>) -> Poll<ReadState> {
        loop {
            if ready!(self.poll_read_ready(cx)).is_err() {
                return Poll::Ready(ReadState::Error);
            }
            let end = self.probe_and_clear();
            if end != ReadState::Idle {
                return Poll::Ready(end);
            }
        }
    }

    /// The same for a second one who waits, beside the hold. False if nothing can be waited for any more.
    pub(super) async fn activity(&self) -> bool {
        // The socket alone tells of its end, whatever was said before.
        while self.stream.readable().await.is_ok() {
            if !matches!(self.probe_and_clear(), ReadState::Idle | ReadState::CloseNotify) {
                return true;
            }
        }
        false
    }

    /// Looks inside `try_io`, so that a quiet socket clears the readiness, and the next wait sleeps.
    fn probe_and_clear(&self) -> ReadState {
        let mut seen = None;
        let _ = self.stream.try_io(Interest::READABLE, || {
            let end = self.probe();
            seen = Some(end);
            match end {
                ReadState::Idle | ReadState::CloseNotify => Err(io::ErrorKind::WouldBlock.into()),
                ReadState::Data | ReadState::Eof | ReadState::Error => Ok(()),
            }
        });
        // A quiet socket is not looked at again, but there may be something behind its TLS.
        seen.unwrap_or_else(|| if self.has_buffered() { self.probe() } else { ReadState::Idle })
    }

    /// Bytes that the peer's kernel has not acknowledged; where that cannot be known, none ever counts as such.
    pub(super) fn unacked(&self) -> usize {
        let unacked = socket::unacked(&self.stream).unwrap_or(usize::MAX);
        // Our end counts as a byte, the last one.
        unacked.saturating_sub(self.flags.has(Flag::WriteShutdown).into())
    }

    /// Has the kernel ask the peer for a sign of life when nothing was heard for so long: at least a second.
    pub(super) fn set_keepalive_idle(&self, idle: Duration) {
        // Where that cannot be, the peer is asked at its usual time.
        let _ = SockRef::from(&self.stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(idle));
    }

    /// What the kernel knows of the peer.
    pub(super) fn tcp_info(&self) -> Option<TcpInfo> {
        socket::tcp_info(&self.stream).ok()
    }

    /// The smoothed round-trip time to the peer, as it was when it was first asked for.
    pub fn round_trip(&self) -> Duration {
        self.flags.round_trip(|| self.tcp_info().map_or(Duration::ZERO, |peer| peer.round_trip))
    }

    /// Writes what the kernel takes now. Who has written a part goes on with the rest.
    pub(super) fn write_now(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = match &self.tls {
            Some(tls) => tls.write(&self.stream, parts),
            None => self.stream.try_write_vectored(parts),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }

    /// Waits until the kernel may take more.
    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_write_ready(cx)
    }

    /// The same for whoever can await it.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.stream.writable().await
    }

    /// Ends the connection with an RST, at once and whoever else holds it.
    pub(super) fn reset(&self) {
        if let Err(error) = rustix::net::connect_unspec(&self.stream) {
            tracing::debug!(%error, "a reset failed; the connection is closed instead");
        }
    }

    /// Ends both directions; the hold wakes by it.
    pub fn shutdown(&self) {
        self.send_close_notify();
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Both);
    }

    /// Ends our direction: nothing more will be written.
    pub fn shutdown_write(&self) {
        self.send_close_notify();
        self.shutdown_write_for_proof();
    }

    /// The same without a goodbye of TLS, which a client that closes after the announced bytes would leave unread: its end
    /// would be a reset, and say that it has not read the run either.
    pub(super) fn shutdown_write_for_proof(&self) {
        // It fails if the connection is over: then our end has never been sent.
        if !self.flags.has(Flag::WriteShutdown)
            && rustix::net::shutdown(&self.stream, Shutdown::Write).is_ok()
        {
            self.flags.set(Flag::WriteShutdown);
        }
    }

    fn send_close_notify(&self) {
        if let Some(tls) = &self.tls {
            tls.send_close_notify(&self.stream);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.idle.remove(&self.idle_entry);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "counted modulo 2^32")]
fn modulo(bytes: usize) -> u32 {
    bytes as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_connection_costs_no_more_than_this() {
        // With the two counts of its `Arc` it fills a block of 128 bytes; the next size has 160.
        assert!(size_of::<Connection>() <= 112, "{}", size_of::<Connection>());
    }
}

//! Owns one accepted socket, which is used in turns by the reader of requests, by the held poll, and by a dispatch.
//!
//! ```text
//! reader ──a poll parks──► held poll ──claimed──► dispatch ──keep alive──► reader (when the next bytes come)
//!                              │                     └───────close───────► closed
//!                              └────controller gone──────────────────────► closed
//! ```

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rustix::net::Shutdown;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;

use super::atomic_addr::AtomicIpAddr;
use super::flags::{Flag, Flags};
use super::handover::Handover;
use super::idle::{Idle, IdleEntry, IdleQueue};
use super::proof::ReadState;
use super::proxy_protocol;
use super::read_buffer::{CAPACITY, take_buffer};
use super::socket::{self, TcpInfo};
use super::tls::TlsSession;

/// The least receive buffer with which a stream is not slowed down, in bytes, which the kernel doubles. A sender on the same machine sends
/// segments of half of the largest window that it has seen, 32 KiB; if the window is smaller, it waits for a timer each time (0.1 MB/s).
/// Before Linux 6.6, a window is at most half of the doubled buffer.
const LEAST_RECEIVE_BUFFER: usize = 33 * 1024;

/// The connections that are idle between two requests.
pub type IdleConnections = IdleQueue<Connection>;

/// An accepted socket, with or without TLS.
pub struct Connection {
    pub(super) stream: TcpStream,
    pub(super) tls: Option<Box<TlsSession>>,
    origin: AtomicIpAddr,
    pub(super) flags: Flags,
    /// Bytes read from the socket, modulo 2^32, without those that the TLS session has read and counted.
    pub(super) bytes_read: AtomicU32,
    /// The decision about the waiter that the connection carries.
    pub(super) handover: Handover,
    idle_entry: IdleEntry,
    pub(super) idle: Arc<IdleConnections>,
}

impl Connection {
    /// Takes over an accepted socket of a peer with this canonical address. With `tls`, [`Connection::handshake`] comes before
    /// any other read or write.
    pub fn new(stream: TcpStream, peer: IpAddr, tls: Option<TlsSession>, idle: Arc<IdleConnections>) -> Self {
        Self {
            stream,
            tls: tls.map(Box::new),
            origin: AtomicIpAddr::new(peer),
            flags: Flags::new(),
            bytes_read: AtomicU32::new(0),
            handover: Handover::new(),
            idle_entry: IdleEntry::default(),
            idle,
        }
    }

    /// The canonical address of the client that a PROXY protocol header has named, unspecified if the header names none;
    /// without a header, the peer's.
    pub fn origin(&self) -> IpAddr {
        self.origin.load()
    }

    /// Whether a layer 4 proxy relays the connection for a client: then the client may not have read yet what the proxy has.
    pub(super) fn is_relayed(&self) -> bool {
        self.flags.has(Flag::IsRelayed)
    }

    /// Reads the PROXY protocol header at the beginning of the connection, and nothing after it. `InvalidData` if there is
    /// no valid one. The caller limits the time.
    pub async fn read_proxy_header(&self) -> io::Result<()> {
        let header = proxy_protocol::read_header(&self.stream).await?;
        self.bytes_read.fetch_add(low_32_bits(header.length), Ordering::Relaxed);
        if let Some(client) = header.client {
            self.origin.store(client);
            self.flags.set(Flag::IsRelayed);
        }
        Ok(())
    }

    /// Whether it uses TLS.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether a byte from the peer was read.
    pub fn has_received(&self) -> bool {
        self.flags.has(Flag::HasReceived)
    }

    /// Completes the TLS handshake, if the connection uses TLS. The caller limits the time.
    pub async fn handshake(&self) -> io::Result<()> {
        match &self.tls {
            Some(tls) => tls.handshake(&self.stream).await,
            None => Ok(()),
        }
    }

    /// Reads the bytes that have come, or waits for some; 0 is EOF. The buffer is not allocated before the wait is over.
    pub async fn read(&self, buf: &mut BytesMut) -> io::Result<usize> {
        loop {
            // `readable` does not use up the task's budget by itself: a peer that never stops sending would block this thread.
            consume_budget().await;
            self.readable().await?;
            match self.try_read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    /// The same on a connection that is idle until then; an error if that was too long.
    pub async fn read_idle(self: &Arc<Self>, buf: &mut BytesMut) -> io::Result<usize> {
        self.idle.insert(self);
        let read = self.read(buf).await;
        if self.handover.end_idle() { read } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    /// Reads the bytes that have come; `WouldBlock` if there are none.
    pub fn try_read(&self, buf: &mut BytesMut) -> io::Result<usize> {
        if buf.capacity() == 0 {
            *buf = take_buffer();
        }
        // The rest of a usual request still fits into the rest of the buffer.
        if buf.capacity() - buf.len() < CAPACITY / 2 {
            buf.reserve(CAPACITY);
        }
        let capacity = buf.capacity() - buf.len();
        self.read_into(buf, capacity)
    }

    /// The only place where bytes from the peer are read.
    pub(super) fn read_into(&self, buf: &mut impl BufMut, capacity: usize) -> io::Result<usize> {
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
        self.bytes_read.fetch_add(low_32_bits(read), Ordering::Relaxed);
        if 0 < read && read < capacity {
            // A short read has emptied the socket. Clearing the readiness now saves the next wait a call that would block.
            let _ = self.stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
        Ok(read)
    }

    /// Whether the TLS session has something to read, for which the socket will not become readable.
    pub(super) fn has_buffered(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_buffered())
    }

    /// Whether there may be more to read, as far as that is known without a system call.
    pub fn may_have_more(&self) -> bool {
        self.has_buffered() || self.stream.try_io(Interest::READABLE, || Ok(())).is_ok()
    }

    async fn readable(&self) -> io::Result<()> {
        if self.has_buffered() { Ok(()) } else { self.stream.readable().await }
    }

    /// Returns once there may be something to read.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_buffered() { Poll::Ready(Ok(())) } else { self.stream.poll_read_ready(cx) }
    }

    /// Writes all of it, and waits for the peer where its window is full.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            bytes = &bytes[self.write_now(&[IoSlice::new(bytes)])?..];
            if bytes.is_empty() {
                return Ok(());
            }
            self.writable().await?;
        }
    }

    /// The idle timeout that is announced to its client, in whole seconds.
    pub fn keep_alive_seconds(&self) -> u64 {
        self.idle.keep_alive_seconds()
    }

    /// Bytes that the peer's kernel has not acknowledged; `usize::MAX` where that is unknown.
    pub(super) fn unacked(&self) -> usize {
        let unacked = socket::unacked(&self.stream).unwrap_or(usize::MAX);
        // Our FIN counts as the last byte.
        unacked.saturating_sub(self.flags.has(Flag::WriteShutdown).into())
    }

    /// Sets after how much silence the kernel sends a keepalive probe: a second at least.
    pub(super) fn set_keepalive_idle(&self, idle: Duration) {
        // If it fails, the probe is sent after the usual time.
        let _ = SockRef::from(&self.stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(idle));
    }

    /// From now on, [`poll_unsent_is_low`](Self::poll_unsent_is_low) waits while more bytes than this are unsent.
    /// Only the first call has an effect.
    pub fn limit_unsent(&self, bytes: u32) {
        if self.flags.has(Flag::LimitsUnsent) {
            return;
        }
        self.flags.set(Flag::LimitsUnsent);
        // A Unix socket has no such limit, but a buffer of its own.
        #[cfg(target_os = "linux")]
        if SockRef::from(&self.stream).set_tcp_notsent_lowat(bytes).is_err() {
            let _ = SockRef::from(&self.stream).set_send_buffer_size(4 * bytes as usize);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = bytes;
    }

    /// Returns once few enough bytes are unsent: what the peer does not read waits with whoever sends it. A write alone would add to the
    /// last segment of the kernel's queue, which can have 64 KiB.
    pub fn poll_unsent_is_low(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            let is_low = self.stream.try_io(Interest::WRITABLE, || {
                if socket::is_writable(&self.stream) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
            });
            match is_low {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                is_low => return Poll::Ready(is_low),
            }
        }
    }

    /// From now on, few bytes that were not read wait in the kernel: about 46 KiB. Only the first call has an effect.
    pub fn limit_unread(&self) {
        if self.flags.has(Flag::LimitsUnread) {
            return;
        }
        self.flags.set(Flag::LimitsUnread);
        let _ = SockRef::from(&self.stream).set_recv_buffer_size(LEAST_RECEIVE_BUFFER);
    }

    /// Sets for how long the peer may acknowledge nothing.
    pub(super) fn set_user_timeout(&self, longest: Duration) {
        // If it fails, the time is as it was.
        #[cfg(target_os = "linux")]
        let _ = SockRef::from(&self.stream).set_tcp_user_timeout(Some(longest));
        #[cfg(not(target_os = "linux"))]
        let _ = longest;
    }

    /// The kernel's state of the connection, where it is available.
    pub(super) fn tcp_info(&self) -> Option<TcpInfo> {
        socket::tcp_info(&self.stream).ok()
    }

    /// The smoothed round-trip time to the peer, measured at the first call.
    pub fn round_trip(&self) -> Duration {
        self.flags.round_trip(|| self.tcp_info().map_or(Duration::ZERO, |info| info.round_trip))
    }

    /// Writes as much as the kernel takes now, and returns how much that was: 0 if it would block. After a partial write, the
    /// next call must begin with the rest.
    pub fn write_now(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = match &self.tls {
            Some(tls) => tls.write(&self.stream, parts),
            None => match parts {
                [whole] => self.stream.try_write(whole),
                parts => self.stream.try_write_vectored(parts),
            },
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }

    /// Returns once the kernel may take more bytes.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_write_ready(cx)
    }

    /// The same as a future.
    pub async fn writable(&self) -> io::Result<()> {
        self.stream.writable().await
    }

    /// Sends an RST at once, even while another task uses the connection.
    pub fn reset(&self) {
        if let Err(error) = rustix::net::connect_unspec(&self.stream) {
            tracing::debug!(%error, "a reset failed; the connection is closed instead");
        }
    }

    /// Closes both directions, which wakes the connection's task.
    pub fn shutdown(&self) {
        self.send_close_notify();
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Both);
    }

    /// Closes our direction: nothing more will be written.
    pub fn shutdown_write(&self) {
        self.send_close_notify();
        self.send_fin();
    }

    /// Closes our direction without a `close_notify`. A client that closes after `content-length` bytes would leave a
    /// `close_notify` unread, so that its kernel would send a reset, as if the run had not been read.
    pub(super) fn send_fin(&self) {
        // Shutdown fails if the connection is over: then our FIN was never sent.
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

impl Idle for Connection {
    fn entry(&self) -> &IdleEntry {
        &self.idle_entry
    }

    fn begin_idle(&self, since: u32) {
        self.handover.begin_idle(since);
    }

    fn idle_since(&self) -> Option<u32> {
        self.handover.idle_since()
    }

    fn close_idle(&self, since: u32) -> bool {
        let is_silent = !self.has_buffered() && self.probe_socket() == ReadState::Idle;
        let closes = is_silent && self.handover.claim_idle(since);
        if closes {
            self.shutdown();
        }
        closes
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.idle.remove(&self.idle_entry);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "counted modulo 2^32")]
fn low_32_bits(bytes: usize) -> u32 {
    bytes as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_fills_an_allocation_of_128_bytes() {
        // 112 bytes and the two counts of its `Arc`; the allocator's next size is 160.
        assert!(size_of::<Connection>() <= 112, "{}", size_of::<Connection>());
    }
}

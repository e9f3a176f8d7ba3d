//! Owns one accepted socket, which its reader, the hold and the dispatch share in turns.
//!
//! ```text
//! reader ─GET parks──► hold ──taken──► dispatch ──reuse──► reader (with the next bytes)
//!                        │                └──────close──► gone
//!                        └─ controller gone ─────────────► gone
//! ```

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use bytes::{Bytes, BytesMut};
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::proof::End;
use super::socket::{self, Peer};

/// A usual request fits into one read of this size.
const READ_BYTES: usize = 4096;
/// How often the state of a connection is asked for where no event tells of its end.
const STATE_TIME: Duration = Duration::from_millis(50);

/// An accepted socket with what its hold and its dispatch tell each other.
pub struct Connection {
    stream: TcpStream,
    origin: IpAddr,
    round_trip_micros: AtomicU32,
    ending: AtomicU8,
    hold: AtomicWaker,
}

/// What becomes of a connection after its waiter was taken out of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The answer is written, the next request may come.
    Reuse,
    /// Nothing more will be written.
    Close,
}

impl Connection {
    /// Takes over an accepted socket.
    pub fn new(stream: TcpStream, peer: SocketAddr) -> Self {
        Self {
            stream,
            origin: peer.ip().to_canonical(),
            round_trip_micros: AtomicU32::new(UNKNOWN),
            ending: AtomicU8::new(UNDECIDED),
            hold: AtomicWaker::new(),
        }
    }

    /// Where the peer connects from, an IPv4 address as such even if it came mapped.
    pub fn origin(&self) -> IpAddr {
        self.origin
    }

    /// Reads what is there, waiting for something to be; 0 is the end. Nothing is allocated for the wait.
    pub async fn read(&self, buf: &mut BytesMut) -> io::Result<usize> {
        loop {
            self.stream.readable().await?;
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
        let read = self.stream.try_read_buf(buf);
        self.rest_after(*read.as_ref().unwrap_or(&0), room);
        read
    }

    /// A short read emptied the socket. Saying so saves the next wait a call that would block.
    fn rest_after(&self, read: usize, room: usize) {
        if 0 < read && read < room {
            let _ = self.stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
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
    pub async fn gone(&self) {
        if !matches!(poll_fn(|cx| self.poll_look(cx)).await, End::Closed | End::Broken) {
            // Bytes stand before an end, which no look at them can see; the state of the connection tells.
            while self.peer().is_some_and(|peer| peer.is_open) {
                tokio::time::sleep(STATE_TIME).await;
            }
        }
    }

    /// Looks at the socket itself, without waiting and without taking a byte.
    pub(super) fn look(&self) -> End {
        match rustix::net::recv(&self.stream, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            // A reset reads as an error only once, and whoever looks first takes it; from then on it reads like a
            // clean end. The state tells them apart for everyone.
            Ok((0, _)) if self.peer().is_some_and(|peer| !peer.closed_cleanly) => End::Broken,
            Ok((0, _)) => End::Closed,
            Ok(_) => End::Talking,
            Err(rustix::io::Errno::AGAIN) => End::Open,
            Err(_) => End::Broken,
        }
    }

    /// Waits until there is something to read, be it the end.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_read_ready(cx).map(drop)
    }

    /// Waits until a look shows something other than an open, quiet socket.
    pub(super) fn poll_look(&self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            if ready!(self.stream.poll_read_ready(cx)).is_err() {
                return Poll::Ready(End::Broken);
            }
            if let Ok(end) = self.look_or_rest() {
                return Poll::Ready(end);
            }
        }
    }

    /// The same for a second one who waits, beside the hold. False if nothing can be waited for any more.
    pub(super) async fn stirred(&self) -> bool {
        while self.stream.readable().await.is_ok() {
            if self.look_or_rest().is_ok() {
                return true;
            }
        }
        false
    }

    /// Runs inside `try_io` so that quiet clears the readiness, and the next wait sleeps.
    fn look_or_rest(&self) -> io::Result<End> {
        self.stream.try_io(Interest::READABLE, || match self.look() {
            End::Open => Err(io::ErrorKind::WouldBlock.into()),
            end @ (End::Talking | End::Closed | End::Broken) => Ok(end),
        })
    }

    /// Bytes that the peer's kernel has not acknowledged; where that cannot be known, none ever counts as such.
    pub(super) fn unacked(&self) -> usize {
        socket::unacked(&self.stream).unwrap_or(usize::MAX)
    }

    /// What the kernel knows of the peer.
    pub(super) fn peer(&self) -> Option<Peer> {
        socket::peer(&self.stream).ok()
    }

    /// The smoothed round-trip time to the peer, as it was when it was first asked for.
    pub fn round_trip(&self) -> Duration {
        let mut micros = self.round_trip_micros.load(Ordering::Relaxed);
        if micros == UNKNOWN {
            let known = self.peer().map_or(Duration::ZERO, |peer| peer.round_trip);
            micros = u32::try_from(known.as_micros()).unwrap_or(u32::MAX - 1);
            self.round_trip_micros.store(micros, Ordering::Relaxed);
        }
        Duration::from_micros(micros.into())
    }

    /// Writes what the kernel takes now, in one call.
    pub(super) fn write_now(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.stream.try_write_vectored(parts) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }

    /// Waits until the kernel may take more.
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
    pub(super) fn shut(&self) {
        // An error means that the peer was quicker.
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both);
    }

    /// What was decided about the present waiter, if anything was.
    pub(super) fn ending(&self) -> Option<Ending> {
        match self.ending.load(Ordering::Acquire) {
            REUSE => Some(Ending::Reuse),
            CLOSE => Some(Ending::Close),
            _ => None,
        }
    }

    /// A new waiter begins: nothing is decided about it.
    pub(super) fn begin(&self) {
        self.ending.store(UNDECIDED, Ordering::Release);
    }

    /// Decides, and wakes the hold if it is waiting for the decision.
    pub(super) fn end(&self, ending: Ending) {
        let ending = match ending {
            Ending::Reuse => REUSE,
            Ending::Close => CLOSE,
        };
        self.ending.store(ending, Ordering::Release);
        self.hold.wake();
    }

    /// Polls for a decision by the one who took the waiter out.
    pub(super) fn poll_ending(&self, cx: &mut Context<'_>) -> Poll<Ending> {
        self.hold.register(cx.waker());
        self.ending().map_or(Poll::Pending, Poll::Ready)
    }
}

const UNKNOWN: u32 = u32::MAX;
const UNDECIDED: u8 = 0;
const REUSE: u8 = 1;
const CLOSE: u8 = 2;

/// The connection as hyper reads and writes it.
pub struct Io {
    connection: Arc<Connection>,
    begun: Bytes,
}

impl Io {
    /// With what has been read already.
    pub fn new(connection: Arc<Connection>, begun: Bytes) -> Self {
        Self { connection, begun }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.begun.is_empty() {
            let now = self.begun.len().min(buf.remaining());
            buf.put_slice(&self.begun.split_to(now));
            return Poll::Ready(Ok(()));
        }
        let connection = &self.connection;
        let stream = &connection.stream;
        let room = buf.remaining();
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read_buf(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => {
                    connection.rest_after(*done.as_ref().unwrap_or(&0), room);
                    return Poll::Ready(done.map(drop));
                }
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
        let stream = &self.connection.stream;
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_write_vectored(bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
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
        Poll::Ready(
            rustix::net::shutdown(&self.connection.stream, rustix::net::Shutdown::Write)
                .map_err(io::Error::from),
        )
    }
}

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

use super::ending::Handover;
use super::facts::{Fact, Facts};
use super::idle::{IdleConnections, Rest};
use super::origin::Origin;
use super::proof::End;
use super::socket::{self, Peer, State};
use super::tls::Session;

/// A usual request fits into one read of this size.
const READ_BYTES: usize = 4096;
/// How often the state of a connection is asked for where no event tells of its end.
const STATE_TIME: Duration = Duration::from_millis(50);

/// An accepted socket with what its hold and its dispatch tell each other.
pub struct Connection {
    stream: TcpStream,
    tls: Option<Box<Session>>,
    origin: Origin,
    facts: Facts,
    /// Bytes read from the socket, modulo 2^32; those of TLS are counted there.
    read: AtomicU32,
    /// What the hold is told by whoever took the waiter out.
    pub(super) handover: Handover,
    pub(super) rest: Rest,
    /// Where it stands while it rests.
    pub(super) idle: Arc<IdleConnections>,
}

impl Connection {
    /// Takes over an accepted socket of a peer with this canonical address. With `tls`, hands have to be shaken before anything else.
    pub fn new(stream: TcpStream, origin: IpAddr, tls: Option<Session>, idle: Arc<IdleConnections>) -> Self {
        Self {
            stream,
            tls: tls.map(Box::new),
            origin: Origin::new(origin),
            facts: Facts::new(),
            read: AtomicU32::new(0),
            handover: Handover::new(),
            rest: Rest::default(),
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
        self.facts.know(Fact::IsRelayed)
    }

    /// Reads the PROXY protocol header that comes before anything else, and nothing behind it. `InvalidData` if there is no
    /// valid one. Bounded in time by the caller.
    pub async fn read_proxy_header(&self) -> io::Result<()> {
        let (read, passes_on) = self.origin.read(&self.stream).await?;
        self.read.fetch_add(modulo(read), Ordering::Relaxed);
        if passes_on {
            self.facts.learn(Fact::IsRelayed);
        }
        Ok(())
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether the peer has sent anything that was read.
    pub fn has_spoken(&self) -> bool {
        self.facts.know(Fact::HasSpoken)
    }

    /// Shakes hands where there is TLS. Bounded in time by the caller.
    pub async fn shake_hands(&self) -> io::Result<()> {
        match &self.tls {
            Some(tls) => tls.shake_hands(&self.stream).await,
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
            self.facts.learn(Fact::HasSpoken);
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
    fn has_news(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_news())
    }

    /// Whether more may be read without waiting, as far as is known without a call.
    pub fn may_have_more(&self) -> bool {
        self.has_news() || self.stream.try_io(Interest::READABLE, || Ok(())).is_ok()
    }

    async fn readable(&self) -> io::Result<()> {
        if self.has_news() { Ok(()) } else { self.stream.readable().await }
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_news() { Poll::Ready(Ok(())) } else { self.stream.poll_read_ready(cx) }
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
        if !matches!(poll_fn(|cx| self.poll_look(cx)).await, End::Leaving | End::Closed | End::Broken) {
            // Bytes stand before an end, which no look at them can see; the state of the connection tells.
            while socket::is_open(&self.stream) {
                tokio::time::sleep(STATE_TIME).await;
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
    pub(super) fn end_rest(&self, since: u32) -> bool {
        let ends = self.look() == End::Open && self.handover.end_rest(since);
        if ends {
            self.shut();
        }
        ends
    }

    /// Looks at the socket itself, without waiting and without taking a byte.
    pub(super) fn look(&self) -> End {
        let Some(tls) = &self.tls else { return self.look_at_socket() };
        match (tls.look(&self.stream), self.look_at_socket()) {
            (End::Leaving, End::Open) => End::Leaving,
            (End::Leaving | End::Closed, socket) => socket,
            (said @ (End::Open | End::Talking | End::Broken), _) => said,
        }
    }

    fn look_at_socket(&self) -> End {
        match rustix::net::recv(&self.stream, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) if self.has_ended_cleanly() => End::Closed,
            Ok((0, _)) => End::Broken,
            Ok(_) => End::Talking,
            Err(rustix::io::Errno::AGAIN) => End::Open,
            Err(_) => End::Broken,
        }
    }

    /// Tells a clean end from a reset, which reads as an error only once, and whoever looks first takes it; from then on
    /// both read alike. After ends of both sides the state is that after a reset, too: but then the peer's end has come,
    /// which counts as a byte that nobody reads, and ours is acknowledged.
    fn has_ended_cleanly(&self) -> bool {
        let Some(peer) = self.peer() else { return true };
        match peer.state {
            State::PeerEnded => true,
            State::Over => {
                let read = self.read.load(Ordering::Relaxed);
                let read = read.wrapping_add(self.tls.as_ref().map_or(0, |tls| tls.bytes_read()));
                let has_end = peer.received.wrapping_sub(read) == 1;
                has_end && self.facts.know(Fact::HasFinished) && self.unacked() == 0
            }
            State::Other => false,
        }
    }

    /// Waits until there is something to read, be it the end.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_read_ready(cx).map(drop)
    }

    /// Waits until a look shows something other than an open, quiet socket.
    pub(super) fn poll_look(&self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            if ready!(self.poll_read_ready(cx)).is_err() {
                return Poll::Ready(End::Broken);
            }
            let end = self.look_or_rest();
            if end != End::Open {
                return Poll::Ready(end);
            }
        }
    }

    /// The same for a second one who waits, beside the hold. False if nothing can be waited for any more.
    pub(super) async fn stirred(&self) -> bool {
        // The socket alone tells of its end, whatever was said before.
        while self.stream.readable().await.is_ok() {
            if !matches!(self.look_or_rest(), End::Open | End::Leaving) {
                return true;
            }
        }
        false
    }

    /// Looks inside `try_io`, so that a quiet socket clears the readiness, and the next wait sleeps.
    fn look_or_rest(&self) -> End {
        let mut seen = None;
        let _ = self.stream.try_io(Interest::READABLE, || {
            let end = self.look();
            seen = Some(end);
            match end {
                End::Open | End::Leaving => Err(io::ErrorKind::WouldBlock.into()),
                End::Talking | End::Closed | End::Broken => Ok(()),
            }
        });
        // A quiet socket is not looked at again, but there may be something behind its TLS.
        seen.unwrap_or_else(|| if self.has_news() { self.look() } else { End::Open })
    }

    /// Bytes that the peer's kernel has not acknowledged; where that cannot be known, none ever counts as such.
    pub(super) fn unacked(&self) -> usize {
        let unacked = socket::unacked(&self.stream).unwrap_or(usize::MAX);
        // Our end counts as a byte, the last one.
        unacked.saturating_sub(self.facts.know(Fact::HasFinished).into())
    }

    /// Has the kernel ask the peer for a sign of life when nothing was heard for so long: at least a second.
    pub(super) fn probe_after(&self, idle: Duration) {
        // Where that cannot be, the peer is asked at its usual time.
        let _ = SockRef::from(&self.stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(idle));
    }

    /// What the kernel knows of the peer.
    pub(super) fn peer(&self) -> Option<Peer> {
        socket::peer(&self.stream).ok()
    }

    /// The smoothed round-trip time to the peer, as it was when it was first asked for.
    pub fn round_trip(&self) -> Duration {
        self.facts.round_trip(|| self.peer().map_or(Duration::ZERO, |peer| peer.round_trip))
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
    pub fn shut(&self) {
        self.say_goodbye();
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Both);
    }

    /// Ends our direction: nothing more will be written.
    pub fn finish(&self) {
        self.say_goodbye();
        self.finish_for_proof();
    }

    /// The same without a goodbye of TLS, which a client that closes after the announced bytes would leave unread: its end
    /// would be a reset, and say that it has not read the run either.
    pub(super) fn finish_for_proof(&self) {
        // It fails if the connection is over: then our end has never been sent.
        if !self.facts.know(Fact::HasFinished) && rustix::net::shutdown(&self.stream, Shutdown::Write).is_ok()
        {
            self.facts.learn(Fact::HasFinished);
        }
    }

    fn say_goodbye(&self) {
        if let Some(tls) = &self.tls {
            tls.say_goodbye(&self.stream);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.idle.forget(&self.rest);
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

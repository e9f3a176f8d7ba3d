//! Owns the queries to the kernel about a socket: unacknowledged bytes, `TCP_INFO`, and whether the peer has closed its side.
#![allow(unsafe_code, reason = "two system calls have no safe wrapper; this file is the only place for them")]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Written bytes that the peer's kernel has not acknowledged (`SIOCOUTQ`).
#[cfg(target_os = "linux")]
pub(super) fn unacked(socket: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; TIOCOUTQ, which is SIOCOUTQ on a
    // socket, writes one int.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(usize::try_from(bytes).unwrap_or(0)) }
}

/// The kernel's state of a TCP connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct TcpInfo {
    /// The smoothed round-trip time.
    pub(super) round_trip: Duration,
    /// Segments that were sent and not acknowledged. None while the peer's window is full, however often that is probed.
    pub(super) in_flight: u32,
    /// Bytes that wait to be sent.
    pub(super) unsent: u32,
    /// The time since the peer's kernel last acknowledged anything.
    pub(super) last_ack: Duration,
    /// Whether it is closed.
    pub(super) state: TcpState,
    /// Bytes that came in order, modulo 2^32. The peer's FIN counts as one.
    pub(super) received: u32,
}

/// The state of a TCP connection, as far as it shows who has closed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TcpState {
    /// The peer has closed its side; ours is open, or our FIN is not acknowledged yet.
    PeerClosed,
    /// It is over: both sides are closed, or it was reset.
    Closed,
    /// Any other state.
    Other,
}

impl TcpState {
    /// The numbers are those of the kernel's `tcp_states.h`.
    fn from_number(number: u8) -> Self {
        match number {
            // TCP_CLOSE
            7 => Self::Closed,
            // TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING
            8 | 9 | 11 => Self::PeerClosed,
            _ => Self::Other,
        }
    }
}

/// Reads `TCP_INFO`.
#[cfg(target_os = "linux")]
pub(super) fn tcp_info(socket: impl AsFd) -> io::Result<TcpInfo> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap_or(0);
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; the kernel writes at most `length` bytes,
    // and zeros are a valid tcp_info where it writes fewer.
    let (done, info) = unsafe {
        let socket = socket.as_fd().as_raw_fd();
        let done = libc::getsockopt(
            socket,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        );
        (done, info.assume_init())
    };
    if done == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(TcpInfo {
        round_trip: Duration::from_micros(info.tcpi_rtt.into()),
        in_flight: info.tcpi_unacked,
        unsent: info.tcpi_notsent_bytes,
        last_ack: Duration::from_millis(info.tcpi_last_ack_recv.into()),
        state: TcpState::from_number(info.tcpi_state),
        received: low_32_bits(info.tcpi_bytes_received),
    })
}

#[cfg(target_os = "linux")]
#[expect(clippy::cast_possible_truncation, reason = "counted modulo 2^32, like the bytes that were read")]
fn low_32_bits(bytes: u64) -> u32 {
    bytes as u32
}

/// Whether the peer has not closed its side, even if unread bytes come before its FIN. Works on a Unix socket, too.
#[cfg(target_os = "linux")]
pub(super) fn is_peer_open(socket: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(&socket, PollFlags::RDHUP)];
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
}

/// Whether the kernel would take more bytes. Unlike a write, this heeds the limit of unsent bytes in any case; if it returns false, an event
/// follows once it would.
pub(super) fn is_writable(socket: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
    !matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_peer_open(_: impl AsFd) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
pub(super) fn unacked(_: impl AsFd) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn tcp_info(_: impl AsFd) -> io::Result<TcpInfo> {
    Err(io::ErrorKind::Unsupported.into())
}

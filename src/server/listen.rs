//! Owns binding: one socket per serving thread on each address, so that threads accept without sharing a queue.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use socket2::{Domain, Socket as Socket2, TcpKeepalive, Type};

use super::socket::{BACKLOG, ListenSocket};
use super::socket_activation::InheritedSockets;
use super::unix::{self, SocketFile};
use crate::config::Endpoint;
use crate::metrics::Listener;
use crate::transport::{KEEPALIVE_IDLE, UNACKED_TIMEOUT};

/// A controller whose machine failed silently is detected while its poll is held: the first keepalive probe is sent after
/// [`KEEPALIVE_IDLE`], the next ones at this interval.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// The connection ends after this many probes without an answer, or after [`UNACKED_TIMEOUT`].
const KEEPALIVE_PROBES: u32 = 3;

/// An address of one listener, with a socket for each thread.
pub(super) struct BoundAddress {
    pub(super) listener: Listener,
    /// Has the port that the system chose.
    pub(super) endpoint: Endpoint,
    sockets: Vec<ListenSocket>,
    /// The service manager has the sockets open, too, so they stay open when this process ends.
    outlives_process: bool,
    /// The file of a Unix socket, which is removed when this process ends.
    file: Option<SocketFile>,
}

/// One thread's socket of an address.
pub(super) struct ThreadSocket {
    pub(super) listener: Listener,
    pub(super) socket: ListenSocket,
    pub(super) outlives_process: bool,
}

impl BoundAddress {
    /// Binds all addresses of one listener. If sockets for it were inherited, uses these instead.
    pub(super) fn bind_all(
        listener: Listener,
        endpoints: &[Endpoint],
        threads: usize,
        inherited: &mut InheritedSockets,
    ) -> anyhow::Result<Vec<Self>> {
        let flag = match listener {
            Listener::Public => "listen",
            Listener::Dispatch => "dispatch-listen",
            Listener::Ops => "ops-listen",
        };
        let inherited = inherited.take_named(flag);
        if !inherited.is_empty() {
            let adopt = |socket| Self::adopt(listener, socket, threads);
            let adopted = inherited.into_iter().map(adopt).collect::<io::Result<_>>();
            return adopted.with_context(|| format!("a socket for --{flag} cannot be used"));
        }
        let bind = |endpoint: &Endpoint| {
            let bound = match endpoint {
                Endpoint::Ip(address) => {
                    Self::bind_tcp(listener, *address, is_beside_ipv4(*address, endpoints), threads)
                }
                Endpoint::Unix(path) => Self::bind_unix(listener, path, threads),
            };
            bound.with_context(|| format!("--{flag} {endpoint} cannot be bound"))
        };
        endpoints.iter().map(bind).collect()
    }

    fn adopt(listener: Listener, socket: ListenSocket, threads: usize) -> io::Result<Self> {
        let socket = match socket {
            ListenSocket::Tcp(socket) => ListenSocket::Tcp(adopt_tcp(socket)?),
            ListenSocket::Unix(socket) => {
                socket.set_nonblocking(true)?;
                ListenSocket::Unix(socket)
            }
        };
        let endpoint = socket.endpoint()?;
        let sockets = duplicates(&socket, threads)?;
        Ok(Self { listener, endpoint, sockets, outlives_process: true, file: None })
    }

    fn bind_tcp(
        listener: Listener,
        address: SocketAddr,
        only_ipv6: bool,
        threads: usize,
    ) -> io::Result<Self> {
        // SO_REUSEPORT would share the port even with another broker. A socket without it detects that broker, and holds
        // the port until all others are bound.
        let exclusive = bind(address, only_ipv6, false)?;
        let endpoint = exclusive.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let bind_shared = |_| {
            let socket = bind(endpoint, only_ipv6, true)?;
            socket.listen(BACKLOG.into())?;
            Ok(ListenSocket::Tcp(socket.into()))
        };
        let sockets = (0..threads).map(bind_shared).collect::<io::Result<_>>()?;
        let endpoint = Endpoint::Ip(endpoint);
        Ok(Self { listener, endpoint, sockets, outlives_process: false, file: None })
    }

    fn bind_unix(listener: Listener, path: &Path, threads: usize) -> io::Result<Self> {
        let (socket, file) = unix::bind(path)?;
        let sockets = duplicates(&ListenSocket::Unix(socket), threads)?;
        let endpoint = Endpoint::Unix(path.to_owned());
        Ok(Self { listener, endpoint, sockets, outlives_process: false, file: Some(file) })
    }

    /// A socket for each thread, and the file to remove when all of them are closed.
    pub(super) fn into_thread_sockets(self) -> (Vec<ThreadSocket>, Option<SocketFile>) {
        let Self { listener, outlives_process, sockets, file, .. } = self;
        let sockets = sockets.into_iter().map(|socket| ThreadSocket { listener, socket, outlives_process });
        (sockets.collect(), file)
    }
}

/// Checks whether a start with these settings could bind an address, without listening: a connection that is never accepted
/// would be an error for its client. `AddrInUse` if another process listens there.
pub(super) fn probe(endpoint: &Endpoint, all: &[Endpoint]) -> io::Result<()> {
    match endpoint {
        Endpoint::Ip(address) => bind(*address, is_beside_ipv4(*address, all), false).map(drop),
        Endpoint::Unix(path) => unix::probe(path),
    }
}

/// Whether an IPv4 address with the same port is bound, too, so that `[::]` must not accept IPv4.
fn is_beside_ipv4(address: SocketAddr, all: &[Endpoint]) -> bool {
    all.iter().any(|other| {
        matches!(other, Endpoint::Ip(other) if other.is_ipv4() && other.port() == address.port() && other.port() != 0)
    })
}

/// File descriptors of the same socket for all threads.
fn duplicates(socket: &ListenSocket, threads: usize) -> io::Result<Vec<ListenSocket>> {
    (0..threads).map(|_| socket.try_clone()).collect()
}

fn adopt_tcp(socket: TcpListener) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    let socket = Socket2::from(socket);
    set_options(&socket)?;
    Ok(socket.into())
}

/// Binds a socket that does not listen. It fails if another process listens on the address, and does not disturb it.
fn bind(address: SocketAddr, only_ipv6: bool, shares_port: bool) -> io::Result<Socket2> {
    let socket = Socket2::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(only_ipv6)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shares_port)?;
    set_options(&socket)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sets options that accepted sockets inherit, so that no system call per connection is needed.
fn set_options(socket: &Socket2) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKED_TIMEOUT))?;
    Ok(())
}

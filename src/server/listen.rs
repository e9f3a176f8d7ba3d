//! Owns binding: one socket per serving thread on each address, so that threads accept without sharing.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use socket2::{Domain, Socket as Socket2, TcpKeepalive, Type};

use super::socket::Socket;
use super::socket_activation::InheritedSockets;
use super::unix::{self, SocketFile};
use crate::config::Endpoint;
use crate::metrics::Listener;
use crate::transport::KEEPALIVE_IDLE;

/// After a restart every controller comes back at once, and waits in a queue of this length.
pub const BACKLOG: u16 = 4096;

/// A controller whose machine died silently is found while it is held: asked after [`KEEPALIVE_IDLE`], then this often,
const INTERVAL: Duration = Duration::from_secs(5);
/// this many times; or when nothing at all was answered for so long.
const PROBES: u32 = 3;
#[cfg(target_os = "linux")]
const UNANSWERED: Duration = Duration::from_secs(20);

/// The sockets of one address.
pub(super) struct Group {
    pub(super) listener: Listener,
    /// Where they listen, with the port that the system chose.
    pub(super) endpoint: Endpoint,
    sockets: Vec<Socket>,
    /// They stay open when this process ends.
    outlives_us: bool,
    /// What is removed when it ends.
    file: Option<SocketFile>,
}

/// One thread's part of a group.
pub(super) struct Share {
    pub(super) listener: Listener,
    pub(super) socket: Socket,
    pub(super) outlives_us: bool,
}

impl Group {
    /// Binds all addresses of one listener, each with a socket for each thread; or takes over those that were handed to
    /// this process in their place.
    pub(super) fn all(
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
        let handed = inherited.sockets(flag);
        if !handed.is_empty() {
            let adopt = |socket| Self::adopt(listener, socket, threads);
            let adopted = handed.into_iter().map(adopt).collect::<io::Result<_>>();
            return adopted.with_context(|| format!("a socket for --{flag} cannot be used"));
        }
        let bind = |endpoint: &Endpoint| {
            let bound = match endpoint {
                Endpoint::Ip(address) => {
                    Self::tcp(listener, *address, is_beside_ipv4(*address, endpoints), threads)
                }
                Endpoint::Unix(path) => Self::unix(listener, path, threads),
            };
            bound.with_context(|| format!("--{flag} {endpoint} cannot be bound"))
        };
        endpoints.iter().map(bind).collect()
    }

    fn adopt(listener: Listener, socket: Socket, threads: usize) -> io::Result<Self> {
        let socket = match socket {
            Socket::Tcp(socket) => Socket::Tcp(take_over(socket)?),
            Socket::Unix(socket) => {
                socket.set_nonblocking(true)?;
                Socket::Unix(socket)
            }
        };
        let endpoint = socket.endpoint()?;
        Ok(Self { listener, endpoint, sockets: shared(&socket, threads)?, outlives_us: true, file: None })
    }

    fn tcp(listener: Listener, address: SocketAddr, only_ipv6: bool, threads: usize) -> io::Result<Self> {
        // SO_REUSEPORT would also share the port with a second broker: a plain bind finds that one first, and keeps the
        // port until all are bound.
        let plain = bound(address, only_ipv6, false)?;
        let endpoint = plain.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let bind = |_| {
            let socket = bound(endpoint, only_ipv6, true)?;
            socket.listen(BACKLOG.into())?;
            Ok(Socket::Tcp(socket.into()))
        };
        let sockets = (0..threads).map(bind).collect::<io::Result<_>>()?;
        Ok(Self { listener, endpoint: Endpoint::Ip(endpoint), sockets, outlives_us: false, file: None })
    }

    fn unix(listener: Listener, path: &Path, threads: usize) -> io::Result<Self> {
        let (socket, file) = unix::bind(path)?;
        let sockets = shared(&Socket::Unix(socket), threads)?;
        let endpoint = Endpoint::Unix(path.to_owned());
        Ok(Self { listener, endpoint, sockets, outlives_us: false, file: Some(file) })
    }

    /// A part for each thread, and what is removed when all end.
    pub(super) fn into_shares(self) -> (Vec<Share>, Option<SocketFile>) {
        let Self { listener, outlives_us, sockets, file, .. } = self;
        (sockets.into_iter().map(|socket| Share { listener, socket, outlives_us }).collect(), file)
    }
}

/// Whether these settings' broker could listen there, without listening: nobody must connect to what serves nobody.
/// `AddrInUse` if somebody does.
pub(super) fn probe(endpoint: &Endpoint, all: &[Endpoint]) -> io::Result<()> {
    match endpoint {
        Endpoint::Ip(address) => bound(*address, is_beside_ipv4(*address, all), false).map(drop),
        Endpoint::Unix(path) => unix::probe(path),
    }
}

/// Whether IPv4 has a socket of its own on the same port, which [::] must leave to it.
fn is_beside_ipv4(address: SocketAddr, all: &[Endpoint]) -> bool {
    all.iter().any(|other| {
        matches!(other, Endpoint::Ip(other) if other.is_ipv4() && other.port() == address.port() && other.port() != 0)
    })
}

/// One socket for several threads.
fn shared(socket: &Socket, threads: usize) -> io::Result<Vec<Socket>> {
    (0..threads).map(|_| socket.try_clone()).collect()
}

fn take_over(socket: TcpListener) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    let socket = Socket2::from(socket);
    set_options(&socket)?;
    Ok(socket.into())
}

/// A socket that is bound and does not listen. Then it is in nobody's way who listens, and finds out who does.
fn bound(address: SocketAddr, only_ipv6: bool, shared: bool) -> io::Result<Socket2> {
    let socket = Socket2::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(only_ipv6)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    set_options(&socket)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Accepted sockets inherit all of these, so that no call per connection is needed.
fn set_options(socket: &Socket2) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(INTERVAL).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNANSWERED))?;
    Ok(())
}

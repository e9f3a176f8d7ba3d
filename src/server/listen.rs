//! Owns binding: one socket per serving thread on each public address, so that threads accept without sharing.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Socket, TcpKeepalive, Type};

use crate::metrics::Listener;

/// After a restart every controller comes back at once.
const BACKLOG: i32 = 4096;

/// A controller whose machine died silently is found while it is held: asked after this time without a word,
const IDLE: Duration = Duration::from_secs(10);
/// then this often,
const INTERVAL: Duration = Duration::from_secs(5);
/// this many times; or when nothing at all was answered for so long.
const PROBES: u32 = 3;
#[cfg(target_os = "linux")]
const UNANSWERED: Duration = Duration::from_secs(20);

/// The sockets of one public address.
pub(super) struct Group {
    pub(super) listener: Listener,
    pub(super) address: SocketAddr,
    sockets: Vec<TcpListener>,
}

/// One thread's part of a group.
pub(super) struct Share {
    pub(super) listener: Listener,
    pub(super) socket: TcpListener,
}

impl Group {
    pub(super) fn bind(listener: Listener, address: SocketAddr, threads: usize) -> io::Result<Self> {
        // SO_REUSEPORT would also share the port with a second broker: a plain bind finds that one first.
        let address = socket(address, false)?.local_addr()?;
        let sockets = (0..threads).map(|_| socket(address, true)).collect::<io::Result<_>>()?;
        Ok(Self { listener, address, sockets })
    }

    pub(super) fn into_shares(self) -> Vec<Share> {
        let listener = self.listener;
        self.sockets.into_iter().map(|socket| Share { listener, socket }).collect()
    }
}

/// A listener that one task serves alone.
pub(super) fn single(address: SocketAddr) -> io::Result<TcpListener> {
    socket(address, false)
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    // Accepted sockets inherit all of these, so that no call per connection is needed.
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(IDLE).with_interval(INTERVAL).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNANSWERED))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

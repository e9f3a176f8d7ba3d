//! Owns binding: one socket per serving thread on each public address, so that threads accept without sharing.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Socket, TcpKeepalive, Type};

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

/// The sockets of one public address.
pub(super) struct Group {
    pub(super) listener: Listener,
    pub(super) address: SocketAddr,
    sockets: Vec<TcpListener>,
    /// They stay open when this process ends.
    pub(super) outlives_us: bool,
}

/// One thread's part of a group.
pub(super) struct Share {
    pub(super) listener: Listener,
    pub(super) socket: TcpListener,
    pub(super) outlives_us: bool,
}

impl Group {
    /// Takes over the socket that was inherited, or binds one for each thread.
    pub(super) fn bind(
        listener: Listener,
        address: SocketAddr,
        threads: usize,
        inherited: Option<TcpListener>,
    ) -> io::Result<Self> {
        if let Some(socket) = inherited {
            let socket = take_over(socket)?;
            let address = socket.local_addr()?;
            let sockets = (0..threads).map(|_| socket.try_clone()).collect::<io::Result<_>>()?;
            return Ok(Self { listener, address, sockets, outlives_us: true });
        }
        // SO_REUSEPORT would also share the port with a second broker: a plain bind finds that one first.
        let address = socket(address, false)?.local_addr()?;
        let sockets = (0..threads).map(|_| socket(address, true)).collect::<io::Result<_>>()?;
        Ok(Self { listener, address, sockets, outlives_us: false })
    }

    pub(super) fn into_shares(self) -> Vec<Share> {
        let Self { listener, outlives_us, sockets, .. } = self;
        sockets.into_iter().map(|socket| Share { listener, socket, outlives_us }).collect()
    }
}

/// A listener that one task serves alone.
pub(super) fn single(address: SocketAddr, inherited: Option<TcpListener>) -> io::Result<TcpListener> {
    inherited.map_or_else(|| socket(address, false), take_over)
}

fn take_over(socket: TcpListener) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    let socket = Socket::from(socket);
    set_options(&socket)?;
    Ok(socket.into())
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    set_options(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG.into())?;
    Ok(socket.into())
}

/// Accepted sockets inherit all of these, so that no call per connection is needed.
fn set_options(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(INTERVAL).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNANSWERED))?;
    Ok(())
}

//! Owns binding: one socket per serving thread on each public address, so that threads accept without sharing.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

use crate::metrics::Listener;

/// After a restart every controller comes back at once.
const BACKLOG: i32 = 4096;

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
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

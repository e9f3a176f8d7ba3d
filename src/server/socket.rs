//! Owns a listening TCP or Unix socket, and accepting from it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use tokio::net::TcpStream;

use crate::config::Endpoint;

/// After a restart all controllers connect at once; this many connections may wait to be accepted.
pub const BACKLOG: u16 = 4096;

/// A listening socket that no runtime polls yet.
#[derive(Debug)]
pub(super) enum ListenSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl ListenSocket {
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }

    /// The address that it is bound to.
    pub(super) fn endpoint(&self) -> io::Result<Endpoint> {
        match self {
            Self::Tcp(socket) => socket.local_addr().map(Endpoint::Ip),
            Self::Unix(socket) => {
                let address = socket.local_addr()?;
                let path = address.as_pathname().ok_or(io::ErrorKind::AddrNotAvailable)?;
                Ok(Endpoint::Unix(path.into()))
            }
        }
    }

    /// Registers it with the runtime of the caller.
    pub(super) fn into_acceptor(self) -> io::Result<Acceptor> {
        match self {
            Self::Tcp(socket) => tokio::net::TcpListener::from_std(socket).map(Acceptor::Tcp),
            Self::Unix(socket) => tokio::net::UnixListener::from_std(socket).map(Acceptor::Unix),
        }
    }
}

/// A listening socket on a runtime.
pub(super) enum Acceptor {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Acceptor {
    /// The next connection, with the address of its peer.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            Self::Tcp(socket) => socket.accept().await,
            Self::Unix(socket) => {
                let stream = OwnedFd::from(socket.accept().await?.0.into_std()?);
                // A connection without a held poll uses only what every stream socket can do, so one type is enough for
                // both kinds. The client is on this machine.
                let stream = TcpStream::from_std(stream.into())?;
                Ok((stream, (Ipv4Addr::LOCALHOST, 0).into()))
            }
        }
    }

    /// Whether file permissions decide who may connect.
    pub(super) fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }
}

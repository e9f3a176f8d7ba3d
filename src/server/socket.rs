//! Owns a listening socket, of TCP or of a Unix socket's file, and what is accepted from it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use tokio::net::TcpStream;

use crate::config::Endpoint;

/// A listening socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }

    /// Where it listens.
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

    /// Begins to accept, on the runtime that this is called on.
    pub(super) fn into_acceptor(self) -> io::Result<Acceptor> {
        match self {
            Self::Tcp(socket) => tokio::net::TcpListener::from_std(socket).map(Acceptor::Tcp),
            Self::Unix(socket) => tokio::net::UnixListener::from_std(socket).map(Acceptor::Unix),
        }
    }
}

/// The same on a runtime.
pub(super) enum Acceptor {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Acceptor {
    /// The next connection, and where it comes from.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            Self::Tcp(socket) => socket.accept().await,
            Self::Unix(socket) => {
                let stream = OwnedFd::from(socket.accept().await?.0.into_std()?);
                // All that is asked of a connection on which nobody waits is what any stream socket can do, so one type
                // is enough for both. The client is on this machine.
                let stream = TcpStream::from_std(stream.into())?;
                Ok((stream, (Ipv4Addr::LOCALHOST, 0).into()))
            }
        }
    }

    /// Whether the permissions of a file say who may connect.
    pub(super) fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }
}

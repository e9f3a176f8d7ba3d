//! Owns how far an answer has come where it is written.

use std::cell::Cell;
use std::net::SocketAddr;

use tokio::net::TcpStream;

/// What a stub or worker of this process has written.
#[derive(Default)]
pub(super) struct Progress {
    /// Bytes of bodies that the kernel has taken.
    pub(super) written: Cell<u64>,
    /// Both ends of the connection that the last answer was written on, its own first.
    pub(super) connection: Cell<Option<(SocketAddr, SocketAddr)>>,
}

impl Progress {
    /// Notes that an answer is written on this connection.
    pub(super) fn writes_on(&self, stream: &TcpStream) -> std::io::Result<()> {
        self.connection.set(Some((stream.local_addr()?, stream.peer_addr()?)));
        Ok(())
    }
}

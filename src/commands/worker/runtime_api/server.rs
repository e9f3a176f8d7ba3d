//! Owns the listener of one program, on a loopback port of its own, and its connections.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::routes::Api;

/// The longest head of a request, in bytes: Python's runtime sends headers of up to 1 MiB, the cause of an error for X-Ray.
const MAX_HEAD: usize = 4 << 20;
/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listener that serves nothing yet.
pub(super) struct Server {
    listener: TcpListener,
    pub(super) address: SocketAddr,
}

/// The connections of one program. They end when this is dropped.
pub(super) struct Connections {
    listener: TcpListener,
    api: Api,
    open: JoinSet<()>,
}

impl Server {
    pub(super) async fn bind() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    pub(super) fn serve(self, api: Api) -> Connections {
        Connections { listener: self.listener, api, open: JoinSet::new() }
    }
}

impl Connections {
    /// Serves while it is awaited.
    pub(super) async fn run(&mut self) -> Infallible {
        loop {
            self.step().await;
        }
    }

    /// Serves until the program, which has ended, has no connection any more: what it has sent is read.
    pub(super) async fn drain(&mut self) {
        while !self.open.is_empty() {
            self.step().await;
        }
    }

    async fn step(&mut self) {
        tokio::select! {
            accepted = self.listener.accept() => match accepted {
                Ok((stream, _)) => {
                    self.open.spawn(serve(stream, self.api.clone()));
                }
                Err(error) => {
                    tracing::warn!("a connection of the program cannot be accepted: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = self.open.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, api: Api) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| async { Ok::<_, Infallible>(api.respond(request).await) });
    // Without a timer, a connection has all the time that it wants. Its end is the program's own affair.
    let _ = Builder::new().max_buf_size(MAX_HEAD).serve_connection(TokioIo::new(stream), service).await;
}

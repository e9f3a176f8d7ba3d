//! Owns a connection to a broker in this process: both ends of a socket, and the task that serves one of them.
//!
//! Nothing waits: a client that has nothing to do gives the server a turn, and a server that does nothing with its turns has
//! nothing to do. So what has not come by then is lost, and no test of it takes any time.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use pilotlight::http::{HttpState, serve};
use pilotlight::metrics::Listener;
use pilotlight::transport::{Connection, TlsSession};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, yield_now};

use crate::front::PEER;

/// So many turns in a row without anything done are rest. The runtime tells the server of new bytes one turn late.
const REST: usize = 3;

/// A clock that stands still, and a runtime that serves.
pub fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    // What is written to a connection that has ended must not end the process, which is not Rust's from its beginning.
    let pipe = async { signal(SignalKind::pipe()).map(drop) };
    runtime.block_on(pipe).expect("a signal");
    runtime
}

struct Guest(Arc<Connection>);

impl AsRef<Arc<Connection>> for Guest {
    fn as_ref(&self) -> &Arc<Connection> {
        &self.0
    }
}

/// What a server has done in one turn.
pub struct Turn<'a> {
    /// Bytes that it took off the socket.
    pub took: u64,
    pub wrote: &'a [u8],
}

/// The server, with each of its turns looked at.
struct Watched<W> {
    serving: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Its socket, so that the kernel can be asked what is left in there.
    socket: UnixStream,
    client: Arc<Client>,
    watch: W,
}

impl<W: FnMut(Turn<'_>) + Unpin> Future for Watched<W> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { serving, socket, client, watch } = &mut *self;
        client.turns.fetch_add(1, Ordering::Relaxed);
        let there = rustix::io::ioctl_fionread(&*socket).expect("bytes are counted");
        let written = client.read_now();
        let done = serving.as_mut().poll(cx);
        let left = rustix::io::ioctl_fionread(&*socket).expect("bytes are counted");
        client.read_now();
        watch(Turn { took: there - left, wrote: &client.read.lock().expect("one thread")[written..] });
        done
    }
}

/// The client's end, and what the server is seen to do from there.
struct Client {
    stream: UnixStream,
    turns: AtomicUsize,
    has_ended: AtomicBool,
    read: Mutex<Vec<u8>>,
}

impl Client {
    /// Reads what is there, and returns how much that is with all before it.
    fn read_now(&self) -> usize {
        let mut read = self.read.lock().expect("one thread");
        let mut buffer = [0; 16 * 1024];
        while !self.has_ended.load(Ordering::Relaxed) {
            match (&self.stream).read(&mut buffer) {
                Ok(0) => self.has_ended.store(true, Ordering::Relaxed),
                Ok(more) => read.extend_from_slice(&buffer[..more]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.has_ended.store(true, Ordering::Relaxed),
            }
        }
        read.len()
    }
}

/// A connection to a broker, from its client's side.
pub struct Served {
    client: Arc<Client>,
    serving: JoinHandle<()>,
}

impl Served {
    /// Connects, on the runtime that this is called on. The kernel keeps so many bytes for the server if it may.
    pub fn begin(
        front: &Arc<HttpState>,
        tls: Option<TlsSession>,
        kept: usize,
        watch: impl FnMut(Turn<'_>) + Send + Unpin + 'static,
    ) -> Self {
        let (stream, socket) = UnixStream::pair().expect("a pair of sockets");
        rustix::net::sockopt::set_socket_send_buffer_size(&stream, kept).expect("a buffer");
        stream.set_nonblocking(true).expect("a socket that does not block");
        socket.set_nonblocking(true).expect("a socket that does not block");
        // As the broker itself has Unix sockets.
        let server = OwnedFd::from(socket.try_clone().expect("a descriptor"));
        let server = TcpStream::from_std(server.into()).expect("a socket on a runtime");
        let connection = Arc::new(Connection::new(server, PEER, tls, front.idle.clone()));
        let front = front.clone();
        let serving = Box::pin(async move {
            if connection.handshake().await.is_ok() {
                serve(front, Listener::Public, Guest(connection)).await;
            }
        });
        let client = Client {
            stream,
            turns: AtomicUsize::new(0),
            has_ended: AtomicBool::new(false),
            read: Mutex::default(),
        };
        let client = Arc::new(client);
        let serving = tokio::spawn(Watched { serving, socket, client: client.clone(), watch });
        Self { client, serving }
    }

    /// Writes what the kernel takes now, and returns how much that is. To a connection that has ended everything is written.
    pub fn write_now(&mut self, bytes: &[u8]) -> usize {
        match (&self.client.stream).write(bytes) {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(_) => bytes.len(),
        }
    }

    /// Writes all of it, and gives the server a turn whenever the kernel takes no more. What a server that rests does not
    /// take is not written: what is wrong shows in what it has not answered.
    pub async fn write(&mut self, mut bytes: &[u8]) {
        let mut idle = 0;
        while idle < REST {
            let written = self.write_now(bytes);
            bytes = &bytes[written..];
            if bytes.is_empty() {
                return;
            }
            idle = if self.turn().await || written > 0 { 0 } else { idle + 1 };
        }
    }

    /// One turn for the server. False if it has nothing to do.
    pub async fn turn(&mut self) -> bool {
        let before = self.client.turns.load(Ordering::Relaxed);
        yield_now().await;
        self.client.turns.load(Ordering::Relaxed) != before
    }

    /// Turns until the server rests.
    pub async fn rest(&mut self) {
        let mut idle = 0;
        while idle < REST {
            idle = if self.turn().await { 0 } else { idle + 1 };
        }
    }

    /// Takes all that was read.
    pub fn take_read(&mut self) -> Vec<u8> {
        self.client.read_now();
        std::mem::take(&mut *self.client.read.lock().expect("one thread"))
    }

    /// Whether the server has ended the connection.
    pub fn has_ended(&self) -> bool {
        self.client.read_now();
        self.client.has_ended.load(Ordering::Relaxed)
    }

    /// Ends our side, and then the server ends, too. Returns all that was read.
    pub async fn end(mut self) -> Vec<u8> {
        // It fails if the server was first.
        let _ = self.client.stream.shutdown(Shutdown::Write);
        self.rest().await;
        assert!(self.serving.is_finished(), "a connection goes on without its client");
        self.take_read()
    }

    /// Leaves in the middle.
    pub async fn leave(self) {
        self.serving.abort();
        // The error says that it was aborted.
        let _ = self.serving.await;
    }
}

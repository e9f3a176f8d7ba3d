//! Owns a connection to a broker in this process: both ends of a socket, and the task that serves one of them.
//!
//! Nothing waits for time: an idle client yields to the server, and a server that does nothing with several turns is idle. A
//! response that has not come by then is lost.

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

use crate::state::PEER;

/// After this many consecutive turns without work, the server is idle. The runtime reports new bytes one turn late.
const IDLE_TURNS: usize = 3;

/// A runtime with a paused clock.
pub fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    // Writing to a closed connection must not end the process: libFuzzer's main does not ignore SIGPIPE as Rust's does.
    let pipe = async { signal(SignalKind::pipe()).map(drop) };
    runtime.block_on(pipe).expect("a signal");
    runtime
}

struct Permit(Arc<Connection>);

impl AsRef<Arc<Connection>> for Permit {
    fn as_ref(&self) -> &Arc<Connection> {
        &self.0
    }
}

/// What the server has done in one turn.
pub struct Turn<'a> {
    /// Bytes that it read from the socket.
    pub took: u64,
    pub wrote: &'a [u8],
}

/// The server, with a callback after each of its turns.
struct Watched<W> {
    serving: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Its socket, to ask the kernel for the bytes left in it.
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

/// The client's end of the connection.
struct Client {
    stream: UnixStream,
    turns: AtomicUsize,
    has_ended: AtomicBool,
    read: Mutex<Vec<u8>>,
}

impl Client {
    /// Reads what has arrived, and returns the number of all bytes read so far.
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
    /// Connects, on the current runtime. The kernel buffers up to `kept` bytes for the server.
    pub fn begin(
        state: &Arc<HttpState>,
        tls: Option<TlsSession>,
        kept: usize,
        watch: impl FnMut(Turn<'_>) + Send + Unpin + 'static,
    ) -> Self {
        let (stream, socket) = UnixStream::pair().expect("a pair of sockets");
        rustix::net::sockopt::set_socket_send_buffer_size(&stream, kept).expect("a buffer");
        stream.set_nonblocking(true).expect("a socket that does not block");
        socket.set_nonblocking(true).expect("a socket that does not block");
        // The broker itself serves Unix sockets in this way.
        let server = OwnedFd::from(socket.try_clone().expect("a descriptor"));
        let server = TcpStream::from_std(server.into()).expect("a socket on a runtime");
        let connection = Arc::new(Connection::new(server, PEER, tls, state.idle.clone()));
        let state = state.clone();
        let serving = Box::pin(async move {
            if connection.handshake().await.is_ok() {
                serve(state, Listener::Public, Permit(connection)).await;
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

    /// Writes what the kernel takes now, and returns the number of bytes. After the end of the connection, that is all of them.
    pub fn write_now(&mut self, bytes: &[u8]) -> usize {
        match (&self.client.stream).write(bytes) {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(_) => bytes.len(),
        }
    }

    /// Writes all of it, and yields to the server whenever the kernel takes no more. Bytes that an idle server does not read
    /// are not written: the fault then shows in a missing response.
    pub async fn write(&mut self, mut bytes: &[u8]) {
        let mut idle = 0;
        while idle < IDLE_TURNS {
            let written = self.write_now(bytes);
            bytes = &bytes[written..];
            if bytes.is_empty() {
                return;
            }
            idle = if self.turn().await || written > 0 { 0 } else { idle + 1 };
        }
    }

    /// One turn for the server. False if it was idle.
    pub async fn turn(&mut self) -> bool {
        let before = self.client.turns.load(Ordering::Relaxed);
        yield_now().await;
        self.client.turns.load(Ordering::Relaxed) != before
    }

    /// Turns until the server is idle.
    pub async fn rest(&mut self) {
        let mut idle = 0;
        while idle < IDLE_TURNS {
            idle = if self.turn().await { 0 } else { idle + 1 };
        }
    }

    /// Takes all that was read.
    pub fn take_read(&mut self) -> Vec<u8> {
        self.client.read_now();
        std::mem::take(&mut *self.client.read.lock().expect("one thread"))
    }

    /// Whether the server has closed the connection.
    pub fn has_ended(&self) -> bool {
        self.client.read_now();
        self.client.has_ended.load(Ordering::Relaxed)
    }

    /// Shuts down the client's side, after which the server ends. Returns all that was read.
    pub async fn end(mut self) -> Vec<u8> {
        // It fails if the server has closed the connection first.
        let _ = self.client.stream.shutdown(Shutdown::Write);
        self.rest().await;
        assert!(self.serving.is_finished(), "a connection stays open without its client");
        self.take_read()
    }

    /// Aborts the connection.
    pub async fn leave(self) {
        self.serving.abort();
        // The error is that it was aborted.
        let _ = self.serving.await;
    }
}

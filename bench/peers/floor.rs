//! Owns the floor: the least work with which a broker can serve this load. One thread, one epoll, no parser.
//!
//! It is correct only for what the bench sends: header names in lower case, compact JSON, numbers written alike. A run goes
//! to the newest waiter of its pool; when a waiter leaves, the newest one takes its place. With `FLOOR_FRESH=1`, the waiter
//! gets `connection: close`, and its close is awaited before the POST is answered.

use std::collections::HashMap;
use std::io::{self, IoSlice, Write};
use std::mem;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};

use memchr::{memchr, memchr2, memmem::Finder};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Bytes read at once; a request up to this size is served where it was read.
const READ_AT_ONCE: usize = 64 * 1024;
/// Bytes of one request.
const LONGEST_REQUEST: usize = 4 * 1024 * 1024;
const BACKLOG: i32 = 4096;
const LISTENER: Token = Token(u64::MAX);

const HIT: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 21\r\n\r\n{\"didWarmStart\":true}";
const MISS: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 22\r\n\r\n\
      {\"didWarmStart\":false}";

fn main() -> io::Result<()> {
    let port = std::env::var_os("PORT").and_then(|port| port.to_str()?.parse::<u16>().ok()).unwrap_or(7070);
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| value == "1");
    let fresh = set("FLOOR_FRESH") || set("FRESH");
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    // Accepted sockets inherit it.
    sockopt::set_tcp_nodelay(&listener, true)?;
    rustix::net::listen(&listener, BACKLOG)?;
    let address = listener.local_addr()?;
    let floor = Floor::new(listener, fresh)?;
    // Stdout flushes at the end of each line.
    io::stdout().write_all(format!("listening on http://{address} \n").as_bytes())?;
    floor.run()
}

/// Identifies a connection: its file descriptor, which is reused, and the number of connections accepted before it.
#[derive(Clone, Copy, PartialEq)]
struct Token(u64);

impl Token {
    fn new(fd: usize, accepted: u64) -> Self {
        Self((accepted << 32) | fd as u64)
    }

    fn fd(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
}

struct Connection {
    socket: OwnedFd,
    token: Token,
    state: State,
    /// The beginning of a request that is not complete yet.
    partial: Vec<u8>,
}

/// ```text
/// Reading ─GET─► Waiting ─match─► Reading       fresh:  Waiting ─match─► Proving ─close─► gone
/// Reading ─POST─► Reading                               Reading ─POST─► Hoping ─proof─► Reading
/// ```
#[derive(Clone, Copy)]
enum State {
    Reading,
    Waiting { pool: usize, place: usize },
    Proving { supervisor: Token },
    Hoping,
}

struct Floor {
    epoll: OwnedFd,
    listener: TcpListener,
    fresh: bool,
    needles: Needles,
    /// By file descriptor.
    connections: Vec<Option<Connection>>,
    accepted: u64,
    /// The newest waiter last. A pool stays when it is empty.
    pools: Vec<Vec<Token>>,
    pool_of: HashMap<Vec<u8>, usize>,
    /// Responses that the socket did not take completely; each ended its connection.
    cut: u64,
    /// Buffers for the current key and the current head.
    key: Vec<u8>,
    head: Vec<u8>,
}

impl Floor {
    fn new(listener: TcpListener, fresh: bool) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER.0), EventFlags::IN)?;
        Ok(Self {
            epoll,
            listener,
            fresh,
            needles: Needles::new(),
            connections: Vec::new(),
            accepted: 0,
            pools: Vec::new(),
            pool_of: HashMap::new(),
            cut: 0,
            key: Vec::new(),
            head: Vec::new(),
        })
    }

    /// Serves until epoll fails.
    fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        let mut scratch = vec![0; READ_AT_ONCE];
        loop {
            if let Err(error) = epoll::wait(&self.epoll, spare_capacity(&mut events), None)
                && error != Errno::INTR
            {
                return Err(error.into());
            }
            for event in events.drain(..) {
                let (flags, token) = (event.flags, Token(event.data.u64()));
                if token == LISTENER { self.accept() } else { self.react(token, flags, &mut scratch) }
            }
        }
    }

    /// Accepts all pending connections; after an error the next event tries again.
    fn accept(&mut self) {
        while let Ok(socket) = accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            let Ok(fd) = usize::try_from(socket.as_raw_fd()) else { continue };
            self.accepted += 1;
            let token = Token::new(fd, self.accepted);
            let wanted = EventFlags::IN | EventFlags::RDHUP;
            if epoll::add(&self.epoll, &socket, EventData::new_u64(token.0), wanted).is_err() {
                continue;
            }
            if self.connections.len() <= fd {
                self.connections.resize_with(fd + 1, || None);
            }
            self.connections[fd] =
                Some(Connection { socket, token, state: State::Reading, partial: Vec::new() });
        }
    }

    fn react(&mut self, token: Token, flags: EventFlags, scratch: &mut [u8]) {
        // The connection may have ended earlier in the same batch.
        let Some(connection) = self.connection(token) else { return };
        match connection.state {
            State::Reading => self.read(token, flags.contains(EventFlags::RDHUP), scratch),
            // A waiting client must not send anything: this is its EOF, or misuse.
            State::Waiting { .. } | State::Hoping => self.close(token),
            State::Proving { supervisor } => {
                let proved = flags.contains(EventFlags::RDHUP) && !flags.contains(EventFlags::ERR);
                self.close(token);
                self.enter(supervisor, State::Reading);
                self.send(supervisor, if proved { HIT } else { MISS });
            }
        }
    }

    fn read(&mut self, token: Token, gone: bool, scratch: &mut [u8]) {
        let Some(connection) = self.connection(token) else { return };
        let count = match rustix::io::read(&connection.socket, &mut *scratch) {
            Err(Errno::AGAIN | Errno::INTR) => return,
            Ok(0) | Err(_) => return self.close(token),
            Ok(count) => count,
        };
        let mut partial = mem::take(&mut connection.partial);
        let bytes = if partial.is_empty() {
            &scratch[..count]
        } else {
            partial.extend_from_slice(&scratch[..count]);
            &partial[..]
        };
        let rest = &bytes[self.serve(token, bytes, gone)..];
        if rest.is_empty() {
            return;
        }
        match self.connection(token) {
            Some(Connection { state: State::Reading, partial, .. }) if rest.len() <= LONGEST_REQUEST => {
                *partial = rest.to_vec();
            }
            // A client that sends while it waits, or sends too much, is closed.
            Some(_) | None => self.close(token),
        }
    }

    /// Serves each complete request; returns the number of bytes consumed.
    fn serve(&mut self, token: Token, bytes: &[u8], gone: bool) -> usize {
        let mut used = 0;
        while let Some(request) = self.needles.request(&bytes[used..]) {
            used += request.head.len() + request.body.len();
            self.route(token, &request, gone);
            if !matches!(self.connection(token), Some(Connection { state: State::Reading, .. })) {
                break;
            }
        }
        used
    }

    fn route(&mut self, token: Token, request: &Request<'_>, gone: bool) {
        let Request { head, body } = request;
        if head.starts_with(b"POST /warm-start ") {
            self.offer(token, body);
        } else if head.starts_with(b"GET /warm-start ") {
            self.park(token, head, gone);
        } else if head.starts_with(b"GET /connect ") {
            self.send(token, &rare(r#"{"connectionTimeoutMs":50000,"keepaliveMs":300000}"#));
        } else if head.starts_with(b"GET /livez ") {
            self.send(token, &rare("ok"));
        } else if head.starts_with(b"GET /cut ") {
            self.send(token, &rare(&self.cut.to_string()));
        } else {
            self.close(token);
        }
    }

    /// Holds the poll. One that has left already, or that has no key, is closed.
    fn park(&mut self, token: Token, head: &[u8], gone: bool) {
        if gone || self.needles.polled(head, &mut self.key).is_none() {
            return self.close(token);
        }
        let pool = if let Some(&pool) = self.pool_of.get(&self.key) {
            pool
        } else {
            self.pools.push(Vec::new());
            self.pool_of.insert(self.key.clone(), self.pools.len() - 1);
            self.pools.len() - 1
        };
        let place = self.pools[pool].len();
        self.pools[pool].push(token);
        self.enter(token, State::Waiting { pool, place });
    }

    /// Writes the run to the newest waiter that takes it. Then answers the POST, or waits for the proof.
    fn offer(&mut self, supervisor: Token, body: &[u8]) {
        let Some(run) = self.needles.posted(body, &mut self.key) else { return self.send(supervisor, MISS) };
        let Some(&pool) = self.pool_of.get(&self.key) else { return self.send(supervisor, MISS) };
        self.head.clear();
        let close = if self.fresh { "connection: close\r\n" } else { "" };
        // A Vec takes everything.
        let _ = write!(
            self.head,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{close}\r\n",
            run.len()
        );
        while let Some(token) = self.pools[pool].pop() {
            let Some(waiter) = self.connections[token.fd()].as_mut() else { continue };
            waiter.state = if self.fresh { State::Proving { supervisor } } else { State::Reading };
            let parts = [IoSlice::new(&self.head), IoSlice::new(run)];
            if rustix::io::writev(&waiter.socket, &parts) != Ok(self.head.len() + run.len()) {
                self.cut += 1;
                self.close(token);
                continue;
            }
            if self.fresh {
                return self.enter(supervisor, State::Hoping);
            }
            return self.send(supervisor, HIT);
        }
        self.send(supervisor, MISS);
    }

    /// Sets the connection's state, if it is still open.
    fn enter(&mut self, token: Token, state: State) {
        if let Some(connection) = self.connection(token) {
            connection.state = state;
        }
    }

    /// Writes a response; a connection that does not take all of it ends.
    fn send(&mut self, token: Token, answer: &[u8]) {
        let Some(connection) = self.connection(token) else { return };
        if rustix::io::write(&connection.socket, answer) != Ok(answer.len()) {
            self.cut += 1;
            self.close(token);
        }
    }

    fn connection(&mut self, token: Token) -> Option<&mut Connection> {
        self.connections.get_mut(token.fd())?.as_mut().filter(|connection| connection.token == token)
    }

    /// Ends a connection, also one that has ended already; a waiter leaves its pool.
    fn close(&mut self, token: Token) {
        let slot = self.connections.get_mut(token.fd());
        let ended = slot.and_then(|slot| slot.take_if(|connection| connection.token == token));
        let Some(State::Waiting { pool, place }) = ended.map(|connection| connection.state) else { return };
        self.pools[pool].swap_remove(place);
        let moved = self.pools[pool].get(place).and_then(|waiter| self.connections[waiter.fd()].as_mut());
        if let Some(moved) = moved {
            moved.state = State::Waiting { pool, place };
        }
    }
}

/// A response that is not part of the load.
fn rare(body: &str) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into()
}

struct Request<'a> {
    /// With the empty line.
    head: &'a [u8],
    body: &'a [u8],
}

/// The searched bytes.
struct Needles {
    head_end: Finder<'static>,
    length: Finder<'static>,
    headers: [Finder<'static>; 4],
    /// The same four in a message: its object's beginning, its own beginning.
    fields: [(Finder<'static>, Finder<'static>); 4],
}

impl Needles {
    fn new() -> Self {
        Self {
            head_end: Finder::new("\r\n\r\n"),
            length: Finder::new("\r\ncontent-length: "),
            headers: [
                Finder::new("\r\nx-trigger-deployment-id: "),
                Finder::new("\r\nx-trigger-deployment-version: "),
                Finder::new("\r\nx-trigger-machine-cpu: "),
                Finder::new("\r\nx-trigger-machine-memory: "),
            ],
            fields: [
                (Finder::new("\"deployment\":{"), Finder::new("\"friendlyId\":\"")),
                (Finder::new("\"backgroundWorker\":{"), Finder::new("\"version\":\"")),
                (Finder::new("\"machine\":{"), Finder::new("\"cpu\":")),
                (Finder::new("\"machine\":{"), Finder::new("\"memory\":")),
            ],
        }
    }

    /// The first request, if it is complete.
    fn request<'a>(&self, bytes: &'a [u8]) -> Option<Request<'a>> {
        let (head, rest) = bytes.split_at(self.head_end.find(bytes)? + 4);
        // A GET has no body, so its length is not searched for.
        let length = if head.starts_with(b"GET ") { 0 } else { after(&self.length, head).map_or(0, number) };
        Some(Request { head, body: rest.get(..length)? })
    }

    /// Writes a poll's key.
    fn polled(&self, head: &[u8], key: &mut Vec<u8>) -> Option<()> {
        key.clear();
        for header in &self.headers {
            let value = after(header, head)?;
            add(key, &value[..memchr(b'\r', value)?]);
        }
        Some(())
    }

    /// Writes a run's key and finds its message.
    fn posted<'a>(&self, body: &'a [u8], key: &mut Vec<u8>) -> Option<&'a [u8]> {
        key.clear();
        for (object, field) in &self.fields {
            let inside = after(object, body)?;
            let value = after(field, &inside[..=memchr(b'}', inside)?])?;
            let quoted = field.needle().ends_with(b"\"");
            let end = if quoted { memchr(b'"', value) } else { memchr2(b',', b'}', value) };
            add(key, &value[..end?]);
        }
        body.strip_prefix(b"{\"dequeuedMessage\":")?.strip_suffix(b"}")
    }
}

/// Neither a header nor a JSON string holds a line break, so no two keys are written alike.
fn add(key: &mut Vec<u8>, part: &[u8]) {
    key.extend_from_slice(part);
    key.push(b'\n');
}

/// The bytes after the needle.
fn after<'a>(needle: &Finder<'_>, bytes: &'a [u8]) -> Option<&'a [u8]> {
    Some(&bytes[needle.find(bytes)? + needle.needle().len()..])
}

/// Up to nine digits: more would exceed any allowed length.
fn number(bytes: &[u8]) -> usize {
    let digits = bytes.iter().take(9).take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}

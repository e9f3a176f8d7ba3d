//! Owns the TLS session of one connection: encrypted records on its socket, plaintext for its readers and writers.
//!
//! It is no stream of its own, because a dispatch writes to a connection while the connection's task waits for it to become
//! readable (`docs/decisions/011-tls-without-a-stream.md`).

use std::io::{self, BufRead, IoSlice, Read, Write};
use std::sync::Arc;

use bytes::BufMut;
use parking_lot::Mutex;
use rustix::net::RecvFlags;
use rustls::{ServerConfig, ServerConnection};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::proof::ReadState;

/// After this many reads without a byte of plaintext the peer counts as broken. A record has 16 KiB at most, so it needs a few
/// reads only.
const MAX_READS_WITHOUT_DATA: u32 = 64;
/// At most this many bytes are encrypted before the kernel has to take them.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

/// One connection's session.
pub struct TlsSession(Mutex<TlsState>);

struct TlsState {
    rustls: ServerConnection,
    /// Plaintext that is encrypted, but not completely with the kernel. Its writer counts it as unsent, and will pass it again.
    buffered_plaintext: usize,
    /// Bytes read from the socket, modulo 2^32.
    bytes_read: u32,
}

/// The socket without the runtime's readiness: a read is tried even if the runtime expects nothing to read.
struct RawSocket<'a>(&'a TcpStream);

impl Read for RawSocket<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(self.0, buf, RecvFlags::DONTWAIT)?.0)
    }
}

impl Write for RawSocket<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(buf)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TlsSession {
    /// A session that begins with a handshake.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let mut rustls = ServerConnection::new(config)?;
        rustls.set_buffer_limit(Some(WRITE_BUFFER_BYTES));
        Ok(Self(Mutex::new(TlsState { rustls, buffered_plaintext: 0, bytes_read: 0 })))
    }

    /// Completes the handshake. The caller limits the time.
    pub(super) async fn handshake(&self, stream: &TcpStream) -> io::Result<()> {
        loop {
            let interest = {
                let state = &mut *self.0.lock();
                if !state.flush(stream)? {
                    Interest::WRITABLE
                } else if !state.rustls.is_handshaking() {
                    return Ok(());
                } else {
                    match stream.try_io(Interest::READABLE, || state.read_records(stream)) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(_) => Interest::READABLE,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Interest::READABLE,
                        Err(error) => return Err(error),
                    }
                }
            };
            if interest == Interest::READABLE {
                stream.readable().await?;
            } else {
                stream.writable().await?;
            }
            // Neither wait uses up the task's budget: a client that never stops sending would block this thread.
            tokio::task::yield_now().await;
        }
    }

    /// Whether there is something to read for which the socket will not become readable: plaintext, `close_notify` or EOF.
    pub(super) fn has_buffered(&self) -> bool {
        !matches!(self.0.lock().plaintext_len(), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Reads plaintext; `WouldBlock` if there is none yet, 0 at EOF.
    pub(super) fn read(&self, stream: &TcpStream, buf: &mut impl BufMut) -> io::Result<usize> {
        let state = &mut *self.0.lock();
        for _ in 0..MAX_READS_WITHOUT_DATA {
            match state.read_plaintext(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // An EOF without close_notify may mean truncation, but HTTP's framing shows that by itself.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Ok(mut read) if read > 0 => {
                    // A record may be short, so one call reads several.
                    while let Ok(more @ 1..) = state.read_plaintext(buf) {
                        read += more;
                    }
                    return Ok(read);
                }
                result => return result,
            }
            // Only this is inside `try_io`, so that the readiness is cleared only when the socket itself is empty.
            stream.try_io(Interest::READABLE, || state.read_records(stream))?;
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "TLS records without data"))
    }

    /// Bytes read from the socket, modulo 2^32.
    pub(super) fn bytes_read(&self) -> u32 {
        self.0.lock().bytes_read
    }

    /// Checks what the peer has sent, without waiting and without taking plaintext. Of a close it reports `close_notify`, as which an
    /// alert counts, or an EOF that came without one; whether the socket had a FIN or a reset is checked separately.
    pub(super) fn probe(&self, stream: &TcpStream) -> ReadState {
        let state = &mut *self.0.lock();
        for _ in 0..MAX_READS_WITHOUT_DATA {
            match state.plaintext_len() {
                Ok(0) => return ReadState::CloseNotify,
                Ok(_) => return ReadState::Data,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return ReadState::Eof,
            }
            match state.read_records(stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return ReadState::Idle,
                // OpenSSL ends with an alert if it misses our `close_notify`.
                Err(error) if is_alert(&error) => return ReadState::CloseNotify,
                Err(_) => return ReadState::Error,
            }
        }
        ReadState::Error
    }

    /// Writes as much as the kernel takes now, and returns how many bytes of plaintext it has taken completely. After a partial
    /// write, the next call must begin with the rest.
    pub(super) fn write(&self, stream: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let state = &mut *self.0.lock();
        if !state.flush(stream)? {
            return Ok(0);
        }
        let mut sent = std::mem::take(&mut state.buffered_plaintext);
        let mut parts = parts.to_vec();
        let mut rest = parts.as_mut_slice();
        IoSlice::advance_slices(&mut rest, sent);
        while !rest.is_empty() {
            let encrypted = state.rustls.writer().write_vectored(rest)?;
            match state.flush(stream) {
                Ok(true) => sent += encrypted,
                Ok(false) => {
                    state.buffered_plaintext = encrypted;
                    return Ok(sent);
                }
                // A part is sent, which the caller must know; the next write reports the error.
                Err(_) if sent > 0 => return Ok(sent),
                Err(error) => return Err(error),
            }
            IoSlice::advance_slices(&mut rest, encrypted);
        }
        Ok(sent)
    }

    /// Sends a `close_notify`, if the kernel takes it.
    pub(super) fn send_close_notify(&self, stream: &TcpStream) {
        let state = &mut *self.0.lock();
        state.rustls.send_close_notify();
        // It fails if the peer has closed the connection before.
        let _ = state.flush(stream);
    }
}

impl TlsState {
    /// How many bytes of plaintext can be read: 0 after a `close_notify`, `WouldBlock` if there are none yet, `UnexpectedEof` after
    /// an EOF without one.
    fn plaintext_len(&mut self) -> io::Result<usize> {
        self.rustls.reader().fill_buf().map(<[u8]>::len)
    }

    /// Moves as much plaintext into the buffer as fits.
    fn read_plaintext(&mut self, buf: &mut impl BufMut) -> io::Result<usize> {
        let mut reader = self.rustls.reader();
        let plaintext = reader.fill_buf()?;
        let length = plaintext.len().min(buf.remaining_mut());
        buf.put_slice(&plaintext[..length]);
        reader.consume(length);
        Ok(length)
    }

    /// Reads the records that have come, and decrypts them.
    fn read_records(&mut self, stream: &TcpStream) -> io::Result<usize> {
        let read = self.rustls.read_tls(&mut RawSocket(stream))?;
        self.bytes_read = self.bytes_read.wrapping_add(u32::try_from(read).unwrap_or(0));
        let processed = self.rustls.process_new_packets();
        // Some records need an answer; a malformed one gets an alert.
        let flushed = self.flush(stream);
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        flushed.map(|_| read)
    }

    /// Writes the encrypted bytes; false if the kernel does not take all of them now.
    fn flush(&mut self, stream: &TcpStream) -> io::Result<bool> {
        while self.rustls.wants_write() {
            match self.rustls.write_tls(&mut RawSocket(stream)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Whether reading records failed because the peer has ended the session with an alert.
fn is_alert(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(error, Some(rustls::Error::AlertReceived(_)))
}

#[cfg(test)]
pub(super) mod tests {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
    use tokio::net::TcpListener;

    use super::*;

    /// The client of a session.
    pub(in crate::transport) type Peer = StreamOwned<ClientConnection, std::net::TcpStream>;

    /// The configurations of both sides.
    fn configurations() -> (ServerConfig, ClientConfig) {
        let own = rcgen::generate_simple_self_signed(["b".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider.clone());
        let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
        (server.with_single_cert(vec![own.cert.der().clone()], key).unwrap(), client)
    }

    /// A session after its handshake, with its socket and its peer.
    pub(in crate::transport) async fn tls_session() -> (TcpStream, TlsSession, Peer) {
        let (server, client) = configurations();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let peer = std::thread::spawn(move || {
            let mut socket = std::net::TcpStream::connect(address).unwrap();
            socket.set_nodelay(true).unwrap();
            let mut tls = ClientConnection::new(Arc::new(client), "b".try_into().unwrap()).unwrap();
            while tls.is_handshaking() || tls.wants_write() {
                tls.complete_io(&mut socket).unwrap();
            }
            StreamOwned::new(tls, socket)
        });
        let (stream, _) = listener.accept().await.unwrap();
        let session = TlsSession::new(Arc::new(server)).unwrap();
        session.handshake(&stream).await.unwrap();
        (stream, session, peer.join().unwrap())
    }

    #[tokio::test]
    async fn an_alert_ends_the_session_and_is_no_failure_of_the_socket() {
        let (stream, session, mut peer) = tls_session().await;
        // What is no record is answered by an alert.
        peer.conn.read_tls(&mut &b"no record"[..]).unwrap();
        peer.conn.process_new_packets().unwrap_err();
        peer.conn.write_tls(&mut peer.sock).unwrap();
        stream.readable().await.unwrap();
        assert_eq!(session.probe(&stream), ReadState::CloseNotify);
    }
}

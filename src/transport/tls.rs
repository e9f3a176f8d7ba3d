//! Owns the TLS of one connection: records on its socket, plain bytes for whoever reads and writes.
//!
//! Not a stream of its own, because the one who hands over a run writes on a connection whose hold sleeps in another task
//! (`docs/decisions/011-tls-without-a-stream.md`).

use std::io::{self, BufRead, IoSlice, Read, Write};
use std::sync::Arc;

use bytes::BufMut;
use parking_lot::Mutex;
use rustix::net::RecvFlags;
use rustls::{ServerConfig, ServerConnection};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::proof::ReadState;

/// So often what is there is received without a byte of plain text in it, before its sender counts as broken: a record has
/// 16 KiB at most, and comes in a few pieces.
const IN_VAIN: u32 = 64;
/// So many bytes are encrypted before the kernel has to take them.
const AHEAD: usize = 16 * 1024;

/// One connection's keys and records.
pub struct TlsSession(Mutex<Records>);

struct Records {
    tls: ServerConnection,
    /// Bytes that were encrypted, but are not all with the kernel: their writer still counts them as unsent, and will
    /// come with them again.
    buffered_plaintext: usize,
    /// Bytes read from the socket, modulo 2^32.
    read: u32,
}

/// The socket itself, whatever the runtime thinks of its readiness.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(self.0, buf, RecvFlags::DONTWAIT)?.0)
    }
}

impl Write for Socket<'_> {
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
    /// Begins with what new handshakes are to use.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let mut tls = ServerConnection::new(config)?;
        tls.set_buffer_limit(Some(AHEAD));
        Ok(Self(Mutex::new(Records { tls, buffered_plaintext: 0, read: 0 })))
    }

    /// Shakes hands. Bounded in time by the caller.
    pub(super) async fn handshake(&self, stream: &TcpStream) -> io::Result<()> {
        loop {
            let interest = {
                let records = &mut *self.0.lock();
                if !records.flush(stream)? {
                    Interest::WRITABLE
                } else if !records.tls.is_handshaking() {
                    return Ok(());
                } else {
                    match stream.try_io(Interest::READABLE, || records.receive(stream)) {
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
            // Neither wait takes part in the runtime's budget: a client that always has more would keep this thread.
            tokio::task::yield_now().await;
        }
    }

    /// Whether there is something to be read that the socket will not tell of: bytes, or the end.
    pub(super) fn has_buffered(&self) -> bool {
        !matches!(self.0.lock().plain(), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Reads plain bytes; `WouldBlock` if there are none yet, 0 at the end.
    pub(super) fn read(&self, stream: &TcpStream, buf: &mut impl BufMut) -> io::Result<usize> {
        let records = &mut *self.0.lock();
        for _ in 0..IN_VAIN {
            match records.take_plain(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Whatever is sent is framed by HTTP, so an end without a word cuts nothing off unseen.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Ok(mut taken) if taken > 0 => {
                    // Records may be short; one call takes them all.
                    while let Ok(more @ 1..) = records.take_plain(buf) {
                        taken += more;
                    }
                    return Ok(taken);
                }
                taken => return taken,
            }
            // This alone may wait, so the readiness is cleared only when the socket itself is empty.
            stream.try_io(Interest::READABLE, || records.receive(stream))?;
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "records without a byte in them"))
    }

    /// Bytes read from the socket, modulo 2^32.
    pub(super) fn bytes_read(&self) -> u32 {
        self.0.lock().read
    }

    /// Looks what the peer has sent, without waiting and without taking a plain byte. What is seen of the end is what
    /// the peer says; what the socket shows is the socket's.
    pub(super) fn probe(&self, stream: &TcpStream) -> ReadState {
        let records = &mut *self.0.lock();
        for _ in 0..IN_VAIN {
            match records.plain() {
                Ok(0) => return ReadState::CloseNotify,
                Ok(_) => return ReadState::Data,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return ReadState::Eof,
            }
            match records.receive(stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return ReadState::Idle,
                Err(_) => return ReadState::Error,
            }
        }
        ReadState::Error
    }

    /// Writes what the kernel takes now, and returns how many plain bytes it has taken in full. Whoever writes a part
    /// comes again with the rest, and nothing else.
    pub(super) fn write(&self, stream: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let records = &mut *self.0.lock();
        if !records.flush(stream)? {
            return Ok(0);
        }
        let mut sent = std::mem::take(&mut records.buffered_plaintext);
        let mut parts = parts.to_vec();
        let mut rest = parts.as_mut_slice();
        IoSlice::advance_slices(&mut rest, sent);
        while !rest.is_empty() {
            let taken = records.tls.writer().write_vectored(rest)?;
            match records.flush(stream) {
                Ok(true) => sent += taken,
                Ok(false) => {
                    records.buffered_plaintext = taken;
                    return Ok(sent);
                }
                // Something is on its way already; the next write tells that there is no way any more.
                Err(_) if sent > 0 => return Ok(sent),
                Err(error) => return Err(error),
            }
            IoSlice::advance_slices(&mut rest, taken);
        }
        Ok(sent)
    }

    /// Says that nothing more comes, if the kernel takes it.
    pub(super) fn send_close_notify(&self, stream: &TcpStream) {
        let records = &mut *self.0.lock();
        records.tls.send_close_notify();
        // An error means that the peer was quicker.
        let _ = records.flush(stream);
    }
}

impl Records {
    /// How many plain bytes are here: 0 after the peer's goodbye, `WouldBlock` if there are none yet, `UnexpectedEof`
    /// after an end without a goodbye.
    fn plain(&mut self) -> io::Result<usize> {
        self.tls.reader().fill_buf().map(<[u8]>::len)
    }

    /// Moves plain bytes into the buffer as far as they fit.
    fn take_plain(&mut self, buf: &mut impl BufMut) -> io::Result<usize> {
        let mut reader = self.tls.reader();
        let plain = reader.fill_buf()?;
        let taken = plain.len().min(buf.remaining_mut());
        buf.put_slice(&plain[..taken]);
        reader.consume(taken);
        Ok(taken)
    }

    /// Reads and decrypts what is there.
    fn receive(&mut self, stream: &TcpStream) -> io::Result<usize> {
        let read = self.tls.read_tls(&mut Socket(stream))?;
        self.read = self.read.wrapping_add(u32::try_from(read).unwrap_or(0));
        let processed = self.tls.process_new_packets();
        // Some records have to be answered, a wrong one with an alert.
        let flushed = self.flush(stream);
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        flushed.map(|_| read)
    }

    /// Hands encrypted bytes to the kernel; false if it does not take all of them now.
    fn flush(&mut self, stream: &TcpStream) -> io::Result<bool> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Socket(stream)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

//! Owns reading a request's body as it comes, for requests that are acted on before it is complete. It has a buffer only while there
//! is something in it.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};

use super::body_decoder::{BadBody, BodyDecoder, BodyFraming, Trailers};
use super::parse::BodyBegin;
use crate::transport::{Connection, return_buffer};

/// So much of a body that comes fast is read at once.
const FAST_READ_BYTES: usize = 16 * 1024;

/// What asks a client for the body that it holds back.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A body that is still on its connection, at least in part.
#[derive(Debug)]
pub(in crate::http) struct BodyReader {
    decoder: BodyDecoder,
    /// What was read and not decoded: at first what came with the head, in the end what follows the body.
    unread: BytesMut,
    announced: Option<u64>,
    /// The client waits until it is asked.
    expects: bool,
    /// The last read has filled its buffer.
    comes_fast: bool,
}

/// A body without a byte.
impl Default for BodyReader {
    fn default() -> Self {
        let framing = BodyFraming::Length(0);
        Self::new(Bytes::new(), BodyBegin { at: 0, framing, expects: false })
    }
}

impl BodyReader {
    /// The body of a request of which these bytes have come, with its whole head.
    pub(in crate::http) fn new(request: Bytes, begin: BodyBegin) -> Self {
        let BodyBegin { at, framing, expects } = begin;
        let mut unread = BytesMut::new();
        if request.len() > at {
            unread = request.into();
            unread.advance(at);
        } else {
            return_buffer(request);
        }
        Self {
            decoder: BodyDecoder::new(framing),
            unread,
            announced: begin.length(),
            expects,
            comes_fast: false,
        }
    }

    /// The length of the body, if it was announced.
    pub(in crate::http) fn announced(&self) -> Option<u64> {
        self.announced
    }

    /// Whether all of it was read.
    pub(in crate::http) fn has_ended(&self) -> bool {
        self.decoder.has_ended()
    }

    /// The fields behind the body, once it has ended.
    pub(in crate::http) fn trailers(&self) -> Trailers<'_> {
        self.decoder.trailers()
    }

    /// What was read behind the body.
    pub(in crate::http) fn take_unread(&mut self) -> BytesMut {
        std::mem::take(&mut self.unread)
    }

    /// The next bytes of the body, as many as have come and none of them empty; none at its end.
    pub(in crate::http) fn poll_next(
        &mut self,
        connection: &Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BadBody>>> {
        loop {
            if self.decoder.has_ended() {
                return Poll::Ready(None);
            }
            if self.decoder.is_broken() {
                return Poll::Ready(Some(Err(BadBody)));
            }
            let mut bytes = self.take_unread();
            if bytes.is_empty() {
                match ready!(self.poll_read(connection, cx)) {
                    Ok(read) => bytes = read,
                    Err(_) => return Poll::Ready(Some(Err(BadBody))),
                }
            }
            match self.decode(bytes) {
                Ok(body) if body.is_empty() => {}
                decoded => return Poll::Ready(Some(decoded)),
            }
        }
    }

    /// Reads what has come; an error at the end of the connection.
    fn poll_read(&mut self, connection: &Connection, cx: &mut Context<'_>) -> Poll<io::Result<BytesMut>> {
        if std::mem::take(&mut self.expects)
            && connection.write_now(&[IoSlice::new(CONTINUE)])? < CONTINUE.len()
        {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        loop {
            ready!(connection.poll_read_ready(cx))?;
            let mut bytes = BytesMut::new();
            if self.comes_fast {
                bytes.reserve(FAST_READ_BYTES);
            }
            match connection.try_read(&mut bytes) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {
                    self.comes_fast = bytes.len() == bytes.capacity();
                    return Poll::Ready(Ok(bytes));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return_buffer(bytes.freeze()),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn decode(&mut self, mut bytes: BytesMut) -> Result<Bytes, BadBody> {
        let decoded = self.decoder.decode(&mut bytes)?;
        if decoded.used < bytes.len() {
            self.unread = bytes.split_off(decoded.used);
        }
        if decoded.body.is_empty() {
            return_buffer(bytes.freeze());
            return Ok(Bytes::new());
        }
        bytes.truncate(decoded.body.end);
        bytes.advance(decoded.body.start);
        Ok(bytes.freeze())
    }
}

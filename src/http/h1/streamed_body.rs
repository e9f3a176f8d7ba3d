//! Owns a request's body that is read as it comes, by our reader or by hyper.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Incoming};
use hyper::header::{HeaderMap, HeaderValue};

use super::body_decoder::BadBody;
use super::body_reader::BodyReader;
use crate::transport::Connection;

/// A body that is still on its connection, at least in part.
pub(in crate::http) enum StreamedBody {
    /// Our reader reads it.
    Own(BodyReader),
    /// hyper reads it.
    Hyper(HyperBody),
}

/// A body that hyper reads.
pub(in crate::http) struct HyperBody {
    body: Incoming,
    has_ended: bool,
    trailers: Option<Box<HeaderMap>>,
}

/// One without a byte.
impl Default for StreamedBody {
    fn default() -> Self {
        Self::Own(BodyReader::default())
    }
}

impl From<Incoming> for StreamedBody {
    fn from(body: Incoming) -> Self {
        Self::Hyper(HyperBody { has_ended: body.is_end_stream(), body, trailers: None })
    }
}

impl StreamedBody {
    /// The length of the body, if it was announced. It is asked for before anything is read.
    pub(in crate::http) fn announced(&self) -> Option<u64> {
        match self {
            Self::Own(body) => body.announced(),
            Self::Hyper(hyper) => hyper.body.size_hint().exact(),
        }
    }

    /// Whether all of it was read.
    pub(in crate::http) fn has_ended(&self) -> bool {
        match self {
            Self::Own(body) => body.has_ended(),
            Self::Hyper(hyper) => hyper.has_ended,
        }
    }

    /// The value of a field behind the body, the first one if it occurs more often; none before the body has ended.
    pub(in crate::http) fn trailer(&self, name: &str) -> Option<&[u8]> {
        match self {
            Self::Own(body) => body.trailers().first(name),
            Self::Hyper(hyper) => hyper.trailers.as_ref()?.get(name).map(HeaderValue::as_bytes),
        }
    }

    /// What our reader has read behind the body. hyper's user gets it from hyper.
    pub(in crate::http) fn take_unread(&mut self) -> BytesMut {
        match self {
            Self::Own(body) => body.take_unread(),
            Self::Hyper(_) => BytesMut::new(),
        }
    }

    /// The next bytes of the body, none of them empty; none at its end. Their buffer can be given back with
    /// [`return_buffer`](crate::transport::return_buffer).
    pub(in crate::http) async fn next(&mut self, connection: &Connection) -> Option<Result<Bytes, BadBody>> {
        poll_fn(|cx| self.poll_next(connection, cx)).await
    }

    /// The same for a future.
    pub(in crate::http) fn poll_next(
        &mut self,
        connection: &Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BadBody>>> {
        match self {
            Self::Own(body) => body.poll_next(connection, cx),
            Self::Hyper(body) => body.poll_next(cx),
        }
    }
}

impl HyperBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BadBody>>> {
        loop {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            self.has_ended |= frame.is_none() || self.body.is_end_stream();
            let Some(frame) = frame else { return Poll::Ready(None) };
            let Ok(frame) = frame else { return Poll::Ready(Some(Err(BadBody))) };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Poll::Ready(Some(Ok(data))),
                Err(frame) => self.trailers = frame.into_trailers().ok().map(Box::new),
            }
        }
    }
}

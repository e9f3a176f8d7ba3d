//! Owns the fuzzing of bodies that are read as they come: a choice, the sizes of parts, and the bytes behind a head. Our reader agrees
//! with hyper's, wherever the bytes are cut.

#![no_main]

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use hyper::body::{Body, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use libfuzzer_sys::fuzz_target;
use pilotlight::http::fuzz::{ReadBody, read_body};

/// A body, its trailers, and the bytes behind it.
type Whole = (Vec<u8>, Vec<(String, Vec<u8>)>, Vec<u8>);

fuzz_target!(|input: &[u8]| {
    let &[choice, size, ref bytes @ ..] = input else { return };
    let length = (choice & 1 == 1).then(|| u64::from(choice >> 1));
    let own = read_body(length, [bytes]);
    let parts = read_body(length, bytes.chunks(usize::from(size) + 1));
    assert_eq!(own.summary(), parts.summary(), "cut each {size} bytes");
    if let ReadBody::Whole { used, .. } = own {
        for cut in [used.saturating_sub(1), usize::from(size).min(used.saturating_sub(1))] {
            let cut_off = read_body(length, [&bytes[..cut]]);
            assert!(used == 0 || matches!(cut_off, ReadBody::CutOff), "{cut} bytes of {used}: {cut_off:?}");
        }
    }
    match (own, read_with_hyper(length, bytes)) {
        (ReadBody::Whole { body, trailers, used }, Some(hyper)) => {
            assert_eq!((body, trailers, bytes[used..].to_vec()), hyper);
        }
        (ReadBody::CutOff | ReadBody::Refused, None) => {}
        // A line that ends with LF alone.
        (ReadBody::Refused, Some((.., rest))) => {
            let used = &bytes[..bytes.len() - rest.len()];
            assert!(used.windows(2).any(|pair| pair[0] != b'\r' && pair[1] == b'\n'), "only hyper takes it");
        }
        (own, hyper) => panic!("{own:?}, but {hyper:?}"),
    }
});

/// What hyper makes of it.
fn read_with_hyper(length: Option<u64>, bytes: &[u8]) -> Option<Whole> {
    let framing = match length {
        Some(length) => format!("content-length: {length}"),
        None => "transfer-encoding: chunked".to_owned(),
    };
    let request = [format!("POST / HTTP/1.1\r\nhost: b\r\n{framing}\r\n\r\n").as_bytes(), bytes].concat();
    let read = RefCell::new(None);
    let service = service_fn(async |request: Request<Incoming>| {
        *read.borrow_mut() = Some(collect(request.into_body()).await);
        pending::<Result<Response<String>, Infallible>>().await
    });
    let mut connection =
        http1::Builder::new().half_close(true).serve_connection(Bytes(request.as_slice()), service);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..10_000 {
        let ended = Pin::new(&mut connection).poll(&mut context).is_ready();
        if let Some(read) = read.borrow_mut().take() {
            let (body, trailers) = read?;
            let parts = connection.into_parts();
            return Some((body, trailers, [&parts.read_buf, parts.io.0].concat()));
        }
        if ended {
            return None;
        }
    }
    panic!("hyper does not end");
}

async fn collect(body: Incoming) -> Option<(Vec<u8>, Vec<(String, Vec<u8>)>)> {
    let (mut body, mut data, mut trailers) = (pin!(body), Vec::new(), Vec::new());
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        match frame.ok()?.into_data() {
            Ok(bytes) => data.extend_from_slice(&bytes),
            Err(frame) => {
                let fields = frame.into_trailers().ok()?;
                trailers = fields
                    .iter()
                    .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
                    .collect();
            }
        }
    }
    trailers.sort();
    Some((data, trailers))
}

/// Bytes as a connection that ends behind them.
struct Bytes<'a>(&'a [u8]);

impl Read for Bytes<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let (now, later) = self.0.split_at(self.0.len().min(buf.remaining()));
        buf.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl Write for Bytes<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

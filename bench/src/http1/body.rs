//! Owns the decoding of a body as it comes: what belongs to it, and where it ends.

use anyhow::{Context, ensure};

use super::head::Framing;

/// The state of a body that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyDecoder {
    /// So many bytes are left, of which nothing is said in between.
    Sized(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    LastChunk,
    Done,
}

impl BodyDecoder {
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Sized(length),
            Framing::Chunked => Self::ChunkSize,
        }
    }

    /// Takes what it can from the bytes, and hands the body's part of it over. Returns how many it took.
    pub(crate) fn decode(&mut self, bytes: &[u8], mut body: impl FnMut(&[u8])) -> anyhow::Result<usize> {
        let mut taken = 0;
        loop {
            let rest = &bytes[taken..];
            match *self {
                Self::Done => return Ok(taken),
                Self::Sized(left) | Self::Chunk(left) => {
                    let part = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    if part == 0 {
                        return Ok(taken);
                    }
                    body(&rest[..part]);
                    taken += part;
                    let left = left - part as u64;
                    *self = match (*self, left) {
                        (Self::Sized(_), 0) => Self::Done,
                        (Self::Sized(_), left) => Self::Sized(left),
                        (_, 0) => Self::ChunkEnd,
                        (_, left) => Self::Chunk(left),
                    };
                }
                Self::ChunkSize => {
                    let Some(end) = memchr::memmem::find(rest, b"\r\n") else { return Ok(taken) };
                    let size = std::str::from_utf8(&rest[..end])?.split(';').next().unwrap_or_default();
                    let size = u64::from_str_radix(size.trim(), 16).context("not a chunk's size")?;
                    taken += end + 2;
                    *self = if size == 0 { Self::LastChunk } else { Self::Chunk(size) };
                }
                Self::ChunkEnd | Self::LastChunk => {
                    let Some(end) = rest.get(..2) else { return Ok(taken) };
                    ensure!(end == b"\r\n", "a chunk without its end, or a trailer");
                    taken += 2;
                    *self = if *self == Self::ChunkEnd { Self::ChunkSize } else { Self::Done };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes bytes that come in parts of this size; what is left over of one comes again with the next.
    fn decoded(
        framing: Framing,
        bytes: &[u8],
        part: usize,
    ) -> anyhow::Result<(BodyDecoder, Vec<u8>, Vec<u8>)> {
        let (mut decoder, mut body, mut read) = (BodyDecoder::new(framing), Vec::new(), Vec::new());
        for bytes in bytes.chunks(part) {
            read.extend_from_slice(bytes);
            let taken = decoder.decode(&read, |bytes| body.extend_from_slice(bytes))?;
            read.drain(..taken);
        }
        Ok((decoder, body, read))
    }

    #[test]
    fn a_body_is_whole_however_it_comes() {
        let chunked = b"5\r\nhello\r\n1;x=y\r\n,\r\n10\r\n 0123456789abcde\r\n0\r\n\r\nHTTP";
        for part in 1..=chunked.len() {
            let (decoder, body, left) = decoded(Framing::Chunked, chunked, part).unwrap();
            assert_eq!((decoder, &body[..]), (BodyDecoder::Done, &b"hello, 0123456789abcde"[..]));
            assert_eq!(left, b"HTTP");
            let (decoder, body, left) = decoded(Framing::Length(5), b"helloHTTP", part).unwrap();
            assert_eq!((decoder, &body[..], &left[..]), (BodyDecoder::Done, &b"hello"[..], &b"HTTP"[..]));
        }
    }

    #[test]
    fn a_body_that_is_cut_off_is_not_done() {
        let chunked = b"5\r\nhello\r\n0\r\n\r\n";
        for length in 0..chunked.len() {
            let (decoder, ..) = decoded(Framing::Chunked, &chunked[..length], 3).unwrap();
            assert_ne!(decoder, BodyDecoder::Done, "after {length} bytes");
        }
        assert!(decoded(Framing::Chunked, b"5\r\nhello0\r\n", 3).is_err());
        assert!(decoded(Framing::Chunked, b"five\r\n", 3).is_err());
    }
}

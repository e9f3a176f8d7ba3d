//! Owns how the body of a reply is written to its caller, in each style.

use std::borrow::Cow;

use super::event_frame::{EventKind, begin_frame};
use super::function_error::Completion;

/// How the caller finds the end of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// By its length.
    Length,
    /// By chunks.
    Chunked,
    /// By the end of the connection, for clients of HTTP/1.0.
    Close,
    /// By the last event, each in a chunk unless the client is one of HTTP/1.0.
    Events {
        /// Whether there are chunks.
        is_chunked: bool,
    },
}

/// Appends what comes before these bytes of the body, and returns what comes after them. With a `completion`, they are the last ones.
pub(super) fn frame(
    framing: Framing,
    data: &[u8],
    completion: Option<Completion<'_>>,
    before: &mut Vec<u8>,
) -> Cow<'static, [u8]> {
    match framing {
        Framing::Length | Framing::Close => Cow::Borrowed(b""),
        Framing::Chunked => Cow::Borrowed(frame_chunk(data.len(), completion.is_some(), before)),
        Framing::Events { is_chunked } => Cow::Owned(frame_event(is_chunked, data, completion, before)),
    }
}

fn frame_chunk(length: usize, is_last: bool, before: &mut Vec<u8>) -> &'static [u8] {
    match (length, is_last) {
        (0, false) => b"",
        (0, true) => {
            before.extend_from_slice(b"0\r\n\r\n");
            b""
        }
        _ => {
            begin_chunk(length, before);
            if is_last { b"\r\n0\r\n\r\n" } else { b"\r\n" }
        }
    }
}

fn begin_chunk(length: usize, before: &mut Vec<u8>) {
    append_hex(length, before);
    before.extend_from_slice(b"\r\n");
}

fn frame_event(
    is_chunked: bool,
    data: &[u8],
    completion: Option<Completion<'_>>,
    before: &mut Vec<u8>,
) -> Vec<u8> {
    let mut after = Vec::new();
    if !data.is_empty() {
        if is_chunked {
            begin_chunk(EventKind::PayloadChunk.frame_length(data.len()), before);
        }
        after.extend_from_slice(&begin_frame(EventKind::PayloadChunk, data, before));
        if is_chunked {
            after.extend_from_slice(b"\r\n");
        }
    }
    if let Some(completion) = completion {
        let mut event = Vec::new();
        completion.write_event(&mut event);
        if is_chunked {
            begin_chunk(event.len(), &mut after);
        }
        after.extend_from_slice(&event);
        if is_chunked {
            after.extend_from_slice(b"\r\n0\r\n\r\n");
        }
    }
    after
}

/// Appends a number in hexadecimal digits.
fn append_hex(number: usize, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let last = number.checked_ilog2().unwrap_or(0) / 4;
    out.extend((0..=last).rev().map(|place| DIGITS[number >> (4 * place) & 15]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_begins_with_its_length() {
        for length in [1, 9, 10, 15, 16, 40, 255, 256, 6 * 1024, usize::MAX] {
            let mut before = Vec::new();
            assert_eq!(frame_chunk(length, false, &mut before), b"\r\n");
            assert_eq!(before, format!("{length:x}\r\n").into_bytes());
        }
        let mut before = Vec::new();
        assert_eq!(frame_chunk(0, false, &mut before), b"");
        assert!(before.is_empty());
    }
}

//! Owns the frames of `application/vnd.amazon.eventstream`: lengths, headers, payload, and a checksum of each part.
//!
//! ```text
//! total length │ length of headers │ CRC of both │ headers │ payload │ CRC of all before      numbers of 32 bits, big-endian
//! ```

use crc32fast::Hasher;

/// The media type of a stream of frames.
pub(super) const EVENT_STREAM: &str = "application/vnd.amazon.eventstream";

/// The lengths and their checksum, and the checksum at the end, in bytes.
const PRELUDE_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 4;
/// The type of a header whose value is a text.
const TEXT: u8 = 7;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EventKind {
    /// A piece of the response.
    PayloadChunk,
    /// The end of the response, as a JSON document.
    InvokeComplete,
}

impl EventKind {
    fn headers(self) -> [(&'static str, &'static str); 3] {
        let (name, content_type) = match self {
            Self::PayloadChunk => ("PayloadChunk", "application/octet-stream"),
            Self::InvokeComplete => ("InvokeComplete", "application/json"),
        };
        [(":event-type", name), (":content-type", content_type), (":message-type", "event")]
    }

    fn headers_length(self) -> usize {
        self.headers().iter().map(|(name, value)| 4 + name.len() + value.len()).sum()
    }

    /// The length of a frame with a payload of this length.
    pub(super) fn frame_length(self, payload: usize) -> usize {
        PRELUDE_BYTES + self.headers_length() + payload + CHECKSUM_BYTES
    }
}

/// Appends what comes before this payload, and returns the checksum that comes after it.
pub(super) fn begin_frame(kind: EventKind, payload: &[u8], out: &mut Vec<u8>) -> [u8; CHECKSUM_BYTES] {
    let begin = out.len();
    for length in [kind.frame_length(payload.len()), kind.headers_length()] {
        out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    }
    let prelude = crc32fast::hash(&out[begin..]);
    out.extend_from_slice(&prelude.to_be_bytes());
    for (name, value) in kind.headers() {
        // Both are short.
        out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(name.as_bytes());
        out.push(TEXT);
        out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(value.as_bytes());
    }
    let mut whole = Hasher::new();
    whole.update(&out[begin..]);
    whole.update(payload);
    whole.finalize().to_be_bytes()
}

/// Appends a whole frame.
pub(super) fn write_frame(kind: EventKind, payload: &[u8], out: &mut Vec<u8>) {
    let checksum = begin_frame(kind, payload, out);
    out.extend_from_slice(payload);
    out.extend_from_slice(&checksum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_what_amazons_own_encoder_makes_of_the_same_event() {
        let mut frame = Vec::new();
        write_frame(EventKind::PayloadChunk, b"hello", &mut frame);
        let expected = "0000006f0000005af5fe871f0b3a6576656e742d7479706507000c5061796c6f61644368756e6b0d3a636f6e74656e742d747970650700186170706c69636174696f6e2f6f637465742d73747265616d0d3a6d6573736167652d747970650700056576656e7468656c6c6f29e71260";
        assert_eq!(frame, bytes(expected));
        frame.clear();
        write_frame(EventKind::InvokeComplete, b"{}", &mut frame);
        let expected = "00000066000000541f56c8690b3a6576656e742d7479706507000e496e766f6b65436f6d706c6574650d3a636f6e74656e742d747970650700106170706c69636174696f6e2f6a736f6e0d3a6d6573736167652d747970650700056576656e747b7d7006d467";
        assert_eq!(frame, bytes(expected));
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }
}
